"""The CPU kernels: C++ without PyTorch's headers, compiled in seconds at first use and cached.

Each source and C++ type is its own library, so that a user who only blurs floats does not wait for the others.

Without a compiler, or with STILLPOINT_KERNELS=0, plain PyTorch is used instead: the same results up to rounding, but
slower.
"""

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from stillpoint.core.base.files import atomic_path
from stillpoint.core.kernels.cache import KernelsMissing, folder, locked, reported, seal, sound

_FOLDER = Path(__file__).parent / "csrc"
# Contraction to fused multiply-adds may differ between the vector body and the tail of a loop, and so between pixels;
# the wavelet packets have no such tails. The norm's forward and backward passes must round alike.
_CONTRACTION = {
    "pool": "-ffp-contract=off",
    "packets": "-ffp-contract=fast",
    "mixture": "-ffp-contract=fast",
    "norm": "-ffp-contract=off",
    "channel_norm": "-ffp-contract=off",
    "max_pool": "-ffp-contract=off",
    "quadratic": "-ffp-contract=off",
}
_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-shared", "-fPIC")
# From the fastest options to the fewest that a compiler may support. OpenMP's symbols resolve to the runtime that
# PyTorch has loaded, so both share one thread pool.
_EXTRAS = (("-march=native", "-mprefer-vector-width=512", "-fopenmp"), ("-march=native", "-fopenmp"), ("-fopenmp",), ())
_SECONDS = 120
_NO_ROOM, _REPAIR = "No space left on device", "repair it, or name another compiler in CXX"

# the libraries that this process requested but could not have, and why
_missing: dict[tuple[str, str], KernelsMissing] = {}


def enabled() -> bool:
    """Whether kernels may replace plain PyTorch: False with STILLPOINT_KERNELS=0."""
    return os.environ.get("STILLPOINT_KERNELS", "1") != "0"


@cache
def library(number: str, source: str = "pool") -> ctypes.CDLL | None:
    """The kernels of csrc/`source`.cpp for "float", "double" or "BFloat16", or None if plain PyTorch must be used.

    Warns, with cause and remedy, if they cannot be compiled or stored.
    """
    if not enabled():
        return None
    try:
        return _load(_built(number, source), source)
    except KernelsMissing as missing:
        _missing[number, source] = missing
        warnings.warn(
            f"the fast CPU kernels are not available ({missing}), so plain PyTorch is used, a few times slower; "
            f"{missing.remedy}, or set STILLPOINT_KERNELS=0 to silence this",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def available(number: str, source: str = "pool") -> bool:
    """Whether the compiled kernels are available; loads them, and compiles them first if needed."""
    return library(number, source) is not None


# torch.compile calls the function while tracing and takes the answer as a constant. The decorator
# torch.compiler.assume_constant_result does the same, but would import the compiler for everyone.
available._dynamo_marked_constant = True  # type: ignore[attr-defined]


def complete() -> bool:
    """Whether the float32 kernels and all others that this process requested are available."""
    return available("float") and not _missing


def cause(number: str, source: str = "pool") -> KernelsMissing | None:
    """Why `library` returned None for these kernels in this process; None if it returned them or was not called."""
    return _missing.get((number, source))


def compiler() -> str | None:
    """Path of the C++ compiler: $CXX, else g++, clang++ or c++."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    return next((path for name in names if (path := shutil.which(name))), None)


def _built(number: str, source: str) -> Path:
    """The shared library for this source, type and processor, compiled if it is missing or damaged."""
    code = b"".join(path.read_bytes() for path in sorted(_FOLDER.iterdir()))
    options = number, _FLAGS, _CONTRACTION[source], _EXTRAS, _processor()
    key = hashlib.sha256(code + repr(options).encode()).hexdigest()[:16]
    path = folder() / f"{source}-{number}-{key}.so"
    with reported(path.parent):
        if sound(path):
            return path
    with locked(path.with_suffix(".lock")), reported(path.parent):
        if not sound(path):  # another process may have built it while this one waited
            _compile(path, number, source)
            seal(path)
    return path


def _compile(path: Path, number: str, source: str) -> None:
    command = compiler()
    if command is None:
        given = os.environ.get("CXX")
        cause = f"CXX={given} is not a program" if given else "there is no C++ compiler"
        raise KernelsMissing(cause, "name an existing one" if given else "install g++")
    complaint = ""
    for extra in _EXTRAS:
        options = (_CONTRACTION[source], *extra, f"-DNUMBER={number}")
        try:
            with atomic_path(path) as temporary:
                _run([command, *_FLAGS, *options, str(_FOLDER / f"{source}.cpp"), "-o", str(temporary)])
            return
        except subprocess.CalledProcessError as failed:
            if _NO_ROOM in failed.stderr:
                remedy = "make room on it, or set TMPDIR and STILLPOINT_CACHE to folders on another disk"
                raise KernelsMissing(f"the disk is full: {command} could not write", remedy) from failed
            complaint = complaint or failed.stderr.strip().partition("\n")[0] or f"exit status {failed.returncode}"
        except subprocess.TimeoutExpired as slow:
            raise KernelsMissing(str(slow), "start again when the machine is less busy") from slow
    raise KernelsMissing(f"{command} failed: {complaint}", _REPAIR)


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=True)
    except OSError as broken:
        raise KernelsMissing(f"{command[0]} cannot be started: {broken.strerror}", _REPAIR) from broken


def _processor() -> str:
    """Identifies the processor, so that machines with different processors can share one cache folder."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    return f"{platform.machine()} {platform.processor()}"


def _load(path: Path, source: str) -> ctypes.CDLL:
    try:
        found = ctypes.CDLL(str(path))
    except OSError as error:
        if "failed to map" in str(error) or "Operation not permitted" in str(error):
            raise KernelsMissing(
                f"programs cannot run from {path.parent}",
                "set STILLPOINT_CACHE to a folder where they can",
            ) from error
        raise KernelsMissing(f"{path} cannot be loaded: {error}", "name another compiler in CXX") from error
    whole, pointer = ctypes.c_int64, ctypes.c_void_p
    if source == "packets":
        found.stillpoint_packets.argtypes = [*[pointer] * 6, whole, whole]
        found.stillpoint_packets.restype = None
        return found
    if source == "norm":
        found.stillpoint_norm.argtypes = [*[pointer] * 5, *[whole] * 4, *[ctypes.c_double] * 2, whole]
        found.stillpoint_norm_backward.argtypes = [*[pointer] * 5, *[whole] * 5]
        found.stillpoint_norm.restype = found.stillpoint_norm_backward.restype = None
        return found
    if source == "channel_norm":
        found.stillpoint_channel_norm.argtypes = [*[pointer] * 6, *[whole] * 5, ctypes.c_double, whole]
        found.stillpoint_channel_norm_backward.argtypes = [*[pointer] * 7, *[whole] * 5, ctypes.c_double, whole]
        found.stillpoint_channel_norm.restype = found.stillpoint_channel_norm_backward.restype = None
        return found
    if source == "quadratic":
        found.stillpoint_quadratic.argtypes = [*[pointer] * 3, *[whole] * 5]
        found.stillpoint_quadratic_backward.argtypes = [*[pointer] * 5, *[whole] * 5]
        found.stillpoint_quadratic.restype = found.stillpoint_quadratic_backward.restype = None
        return found
    if source == "max_pool":
        found.stillpoint_max_pool.argtypes = [pointer, pointer, pointer, whole]
        found.stillpoint_max_pool_backward.argtypes = [pointer, pointer, pointer, pointer, whole]
        found.stillpoint_max_pool.restype = found.stillpoint_max_pool_backward.restype = None
        return found
    if source == "mixture":
        found.stillpoint_phases.argtypes = [*[pointer] * 3, whole, whole]
        found.stillpoint_mixture.argtypes = [*[pointer] * 4, whole, whole]
        found.stillpoint_translation.argtypes = [*[pointer] * 7, whole]
        found.stillpoint_translation_backward.argtypes = [*[pointer] * 9, whole]
        for function in (
            found.stillpoint_mixture,
            found.stillpoint_phases,
            found.stillpoint_translation,
            found.stillpoint_translation_backward,
        ):
            function.restype = None
        return found
    tensors: list[Any] = [pointer, pointer, pointer, whole, whole, pointer]
    found.stillpoint_pool.argtypes = [*tensors, *[whole] * 5]
    found.stillpoint_adaptive.argtypes = [*tensors, *[whole] * 6]
    found.stillpoint_local_filter.argtypes = [pointer, pointer, pointer, pointer, whole, whole]
    found.stillpoint_local_filter.restype = None
    found.stillpoint_pool.restype = found.stillpoint_adaptive.restype = whole
    return found
