"""The CPU kernels: C++ without any of PyTorch's headers, compiled in seconds at first use and kept.

There is one library for each source and type of numbers, called by its name in C++: who only blurs floats waits for no
other.

A machine without a compiler, or with STILLPOINT_KERNELS=0, uses plain PyTorch instead: the same results to rounding,
only slower.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from stillpoint.core.base.files import atomic_path

_FOLDER = Path(__file__).resolve().parent / "csrc"
# Contraction to fused multiply-adds may differ between the vector body and the tail of a loop, and so between pixels;
# the wavelet packets have no such tails.
_CONTRACTION = {"pool": "-ffp-contract=off", "packets": "-ffp-contract=fast"}
_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-shared", "-fPIC")
# From the best to the least that a compiler may know. OpenMP's own symbols are found in the runtime that PyTorch has
# loaded, so both share one pool of threads.
_EXTRAS = (("-march=native", "-mprefer-vector-width=512", "-fopenmp"), ("-march=native", "-fopenmp"), ("-fopenmp",), ())
_SECONDS = 120


def enabled() -> bool:
    """Whether the user lets kernels replace plain PyTorch: not with STILLPOINT_KERNELS=0."""
    return os.environ.get("STILLPOINT_KERNELS", "1") != "0"


def folder() -> Path:
    """Where compiled kernels are kept: $STILLPOINT_CACHE, else stillpoint/ in the user's cache folder."""
    if given := os.environ.get("STILLPOINT_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stillpoint"


@cache
def library(number: str, source: str = "pool") -> ctypes.CDLL | None:
    """The kernels of csrc/`source`.cpp for "float", "double" or "BFloat16", or None where plain PyTorch has to do.

    Warns where there is no way to compile them.
    """
    if not enabled():
        return None
    try:
        return _load(_built(number, source), source)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        warnings.warn(
            f"the fast CPU kernels could not be built ({error}), so plain PyTorch is used, a few times slower; "
            f"{_advice(error)}, or set STILLPOINT_KERNELS=0 to be silent",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _advice(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return "start again when the machine is less busy"
    return "install g++"


def available(number: str, source: str = "pool") -> bool:
    """Whether there are compiled kernels; loads them, and compiles them first where that has not been done."""
    return library(number, source) is not None


# torch.compile calls the function while it traces and takes the answer as a constant. It is what the decorator
# torch.compiler.assume_constant_result does, which would import the compiler for everyone.
available._dynamo_marked_constant = True  # type: ignore[attr-defined]


def compiler() -> str | None:
    """Path of the C++ compiler: $CXX, else g++, clang++ or c++."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    return next((path for name in names if (path := shutil.which(name))), None)


def _built(number: str, source: str) -> Path:
    """The shared library for this source and this processor, compiled if it is not there yet."""
    code = b"".join(path.read_bytes() for path in sorted(_FOLDER.iterdir()))
    options = number, _FLAGS, _CONTRACTION[source], _EXTRAS, _processor()
    key = hashlib.sha256(code + repr(options).encode()).hexdigest()[:16]
    path = folder() / f"{source}-{number}-{key}.so"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_suffix(".lock")):
        if not path.is_file():  # another process may have built it while this one waited
            _compile(path, number, source)
    return path


def _compile(path: Path, number: str, source: str) -> None:
    command = compiler()
    if command is None:
        raise RuntimeError("there is no C++ compiler")
    complaint = ""
    for extra in _EXTRAS:
        options = (_CONTRACTION[source], *extra, f"-DNUMBER={number}")
        with atomic_path(path) as temporary:
            done = subprocess.run(
                [command, *_FLAGS, *options, str(_FOLDER / f"{source}.cpp"), "-o", str(temporary)],
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
            if done.returncode == 0:
                return
            temporary.touch()
        path.unlink()
        complaint = complaint or done.stderr.strip().partition("\n")[0]
    raise RuntimeError(f"{command} failed: {complaint}")


def _processor() -> str:
    """What code for this machine depends on, so that a home folder shared by different machines holds one each."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    return f"{platform.machine()} {platform.processor()}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _load(path: Path, source: str) -> ctypes.CDLL:
    found = ctypes.CDLL(str(path))
    whole, pointer = ctypes.c_int64, ctypes.c_void_p
    if source == "packets":
        found.stillpoint_packets.argtypes = [*[pointer] * 6, whole, whole]
        found.stillpoint_packets.restype = None
        return found
    tensors: list[Any] = [pointer, pointer, pointer, whole, whole, pointer]
    found.stillpoint_pool.argtypes = [*tensors, *[whole] * 5]
    found.stillpoint_adaptive.argtypes = [*tensors, *[whole] * 6]
    found.stillpoint_local_filter.argtypes = [pointer, pointer, pointer, pointer, whole, whole]
    found.stillpoint_local_filter.restype = None
    found.stillpoint_pool.restype = found.stillpoint_adaptive.restype = whole
    return found
