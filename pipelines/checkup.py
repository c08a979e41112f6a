"""The checks of `stillpoint doctor`: installation, machine and folders.

A finding is "wrong" if a command would fail, or silently do less than the user believes; a "note" is worth knowing but
harmless.
"""

import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from stillpoint.core.base.errors import UserError, listed, nearest
from stillpoint.core.base.words import counted
from stillpoint.core.config.catalogue import DATASETS, ROOT_VARIABLE, data_root, dataset
from stillpoint.core.kernels import cache
from stillpoint.core.kernels.cache import KernelsMissing
from stillpoint.core.runs import cards, layout
from stillpoint.pipelines.code_digest import ROOT

#: the kept runs, in a clone and in a wheel
KEPT = ROOT / layout.KEPT
#: environment variables that stillpoint reads
VARIABLES = (ROOT_VARIABLE, "STILLPOINT_CACHE", "STILLPOINT_KERNELS", "STILLPOINT_COMMIT")
#: set by `stillpoint run` for its own jobs
_OWN = "STILLPOINT_HOLDS"
#: free bytes below which a training may be unable to save its state
ROOM = 1 << 30
#: source of compiled kernels -> what they compute
KERNELS = {
    "pool": "blur and adaptive sampling",
    "norm": "norms and activations",
    "packets": "wavelet packets",
    "mixture": "mixed grids",
    "channel_norm": "norms over channels",
    "max_pool": "dense max-pools",
    "quadratic": "polynomial activations",
}


@dataclass(frozen=True)
class Finding:
    """One line of the check-up; `told` is a sentence without its full stop, with the remedy if there is one."""

    subject: str
    state: Literal["ok", "note", "wrong"]
    told: str


def check_up(data: Path | None, results: Path) -> Iterator[Finding]:
    """Yields all findings, in the order in which one looks for a cause."""
    yield _stillpoint()
    yield _python()
    yield from _packages()
    yield from _lock()
    try:
        import torch  # noqa: F401
    except ImportError as error:
        yield Finding("torch", "wrong", f"cannot be imported: {error}")
    else:
        yield _torch()
        yield _precision()
        yield _gpu()
        yield _compiler()
        yield _cache()
        yield from _kernels()
    yield _data(data_root(data))
    yield from _disk(results, data_root(data))
    yield _weights()
    yield _variables()
    yield _terminal()


def _stillpoint() -> Finding:
    where = f"in {ROOT}"
    try:
        known = version("stillpoint")
    except PackageNotFoundError:
        return Finding("stillpoint", "wrong", f"{where} is not installed: pip install -e {ROOT}")
    project = ROOT / "pyproject.toml"
    if project.is_file():
        import tomllib

        here = tomllib.loads(project.read_text())["project"]["version"]
        if here != known:
            return Finding("stillpoint", "note", f"{here} {where}, installed as {known}: pip install -e {ROOT}")
    return Finding("stillpoint", "ok", f"{known} {where}")


def _python() -> Finding:
    inside = "" if sys.prefix == sys.base_prefix else f", environment {sys.prefix}"
    return Finding("python", "ok", f"{platform.python_version()}, {platform.system()} {platform.machine()}{inside}")


def _packages() -> Iterator[Finding]:
    """Yields a line for the required packages, one for those of the papers, and one for the other extras."""
    from packaging.requirements import Requirement

    try:
        every = [Requirement(line) for line in requires("stillpoint") or ()]
    except PackageNotFoundError:
        return
    extras: dict[str, list[str]] = {}
    for requirement in every:
        marker = str(requirement.marker) if requirement.marker else ""
        extra = marker.partition("extra == ")[2].strip("\"' ")
        extras.setdefault(extra, [])
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            extras[extra].append(requirement.name)
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            name, needs = requirement.name, requirement.specifier
            used = extra in ("", "pipelines")  # a package of another extra may be installed for something else
            told = f"{name} {found} is not {needs}{'' if used else f' ({extra})'}: pip install '{name}{needs}'"
            yield Finding("packages", "wrong" if used else "note", told)
    for extra, absent in extras.items():
        if extra in ("", "pipelines"):
            what = "layers, metrics and surgery" if not extra else "papers, from data to table"
            if absent:
                remedy = f"pip install 'stillpoint{'[pipelines]' if extra else ''}'"
                yield Finding("packages", "note" if extra else "wrong", f"{what}: no {', '.join(absent)}: {remedy}")
            else:
                yield Finding("packages", "ok", f"{what}: complete")
    rest = {extra: absent for extra, absent in extras.items() if extra not in ("", "pipelines")}
    lines = [f"{extra} ({'lacks ' + listed(absent, 3) if absent else 'complete'})" for extra, absent in rest.items()]
    if lines:
        yield Finding("extras", "ok", ", ".join(lines))


def _lock() -> Iterator[Finding]:
    """Counts the packages whose version differs from requirements.lock, with which this clone's numbers were made."""
    lock = ROOT / "requirements.lock"
    if not lock.is_file():
        return
    others = []
    pinned = [line.split(";")[0].strip().partition("==") for line in lock.read_text().splitlines() if "==" in line]
    for name, _, wanted in pinned:
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "absent"
        if found.partition("+")[0] != wanted:
            others.append(f"{name} {found} for {wanted}")
    if others:
        yield Finding("lock", "note", f"{len(others)} of {len(pinned)} packages differ: {listed(others, 3)}")
    else:
        yield Finding("lock", "ok", f"all {len(pinned)} packages are those of requirements.lock")


def _torch() -> Finding:
    import torch

    able = torch.backends.cpu.get_cpu_capability()
    threads = counted(torch.get_num_threads(), "thread")
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    return Finding(
        "torch",
        "ok",
        f"{torch.__version__} ({build}), {threads} on {counted(os.cpu_count() or 1, 'core')}, "
        f"{able}{' with AMX' if tiles else ''}",
    )


def _precision() -> Finding:
    from stillpoint.core.base.bfloat16 import CLEARLY, speeds

    found = speeds()
    told = f"a 3x3 convolution: float32 {found.float32 / 1e9:.0f} GFLOP/s, bfloat16 {found.bfloat16 / 1e9:.0f} GFLOP/s"
    if found.ratio >= CLEARLY:
        return Finding("precision", "note", f"{told}: train with TRAIN.PRECISION float32 on this CPU")
    return Finding("precision", "ok", f"{told} on this CPU")


def _gpu() -> Finding:
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    if usable:
        from stillpoint.core.kernels.pool import HAS_TRITON

        found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        names = ", ".join(f"{each.name} ({each.total_memory >> 30} GiB)" for each in found)
        kernels = "Triton kernels" if HAS_TRITON else "plain PyTorch: no triton, so pip install triton"
        return Finding("gpu", "ok" if HAS_TRITON else "wrong", f"{names}; {kernels}")
    if torch.backends.mps.is_available():
        return Finding("gpu", "ok", "Apple GPU, plain PyTorch")
    if Path("/dev/nvidiactl").exists():
        why = str(said[0].message).partition("\n")[0] if said else f"torch {torch.__version__} does not see it"
        return Finding("gpu", "wrong", f"there is one, but it cannot be used: {why}")
    return Finding("gpu", "ok", "none: everything runs on the CPU")


def _compiler() -> Finding:
    from stillpoint.core.kernels import native

    if (command := native.compiler()) is None:
        given = os.environ.get("CXX")
        # only a note: the kernels may have been compiled before
        return Finding("compiler", "note", f"CXX={given} names no program" if given else "no g++, clang++ or c++")
    try:
        done = subprocess.run(
            [command, "--version"], capture_output=True, text=True, errors="replace", timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("compiler", "wrong", f"{command} does not start: {error}")
    return Finding("compiler", "ok", f"{command}: {done.stdout.partition(chr(10))[0]}")


def _cache() -> Finding:
    folder = cache.folder()
    if not folder.is_dir():
        return Finding("cache", "ok", f"{folder} will be created at first use")
    try:
        with cache.reported(folder):
            for path in (folder, *sorted(folder.glob("*.so"))):
                cache.refuse_foreign(path)
    except KernelsMissing as refused:
        return Finding("cache", "wrong", f"{refused}: {refused.remedy}")
    sizes = [path.stat().st_size for path in folder.glob("*.so")]
    return Finding(
        "cache", "ok", f"{folder}: accessible only to you, {len(sizes)} kernels, {sum(sizes) / 2**20:.1f} MiB"
    )


def _kernels() -> Iterator[Finding]:
    """Loads the CPU kernels for float32, compiling them first if necessary."""
    from stillpoint.core.kernels import native

    if not native.enabled():
        yield Finding("kernels", "note", "plain PyTorch, because STILLPOINT_KERNELS=0")
        return
    missing = {}
    for source in KERNELS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            if not native.available("float", source):
                missing[source] = native.cause("float", source)
    for source, why in missing.items():
        remedy = f" ({why}): {why.remedy}" if why else ""
        yield Finding("kernels", "wrong", f"plain PyTorch for {KERNELS[source]}, a few times slower{remedy}")
    if compiled := [what for source, what in KERNELS.items() if source not in missing]:
        yield Finding("kernels", "ok", f"compiled C++ for {', '.join(compiled)}")


def _data(root: Path) -> Finding:
    ready, waiting, damaged = [], [], []
    for name in DATASETS:
        marker = root / "prepared" / f"{name}.json"
        if marker.is_file():
            from stillpoint.core.base.documents import read_json

            try:
                read_json(marker, remedy=f"stillpoint prepare {name}", of=dict)
            except UserError as error:
                damaged.append(str(error))
            else:
                ready.append(name)
        elif _found(name, root):
            waiting.append(name)
    if damaged:
        return Finding("data", "wrong", "; ".join(damaged))
    none = "nothing prepared" if root.is_dir() else "no such folder"
    told = f"{root}: {', '.join(ready)} ready" if ready else f"{root}: {none}"
    if waiting:
        told += f"; found, not prepared: {', '.join(waiting)} (stillpoint prepare {waiting[0]})"
    return Finding("data", "ok", f"{told}; digits need no file")


def _found(name: str, root: Path) -> bool:
    """Whether all files of a data set are in `root`; False for a data set that needs none."""
    try:
        return "{root}" in DATASETS[name].files and bool(dataset(name).signature(root))
    except UserError:
        return False


def _disk(results: Path, data: Path) -> Iterator[Finding]:
    """Checks space and permissions where commands write."""
    for what, folder in (("results", results), ("data", data)):
        there = folder.resolve()
        while not there.exists():
            there = there.parent
        if not (there.is_dir() and os.access(there, os.W_OK)):
            # prepared data may be read-only
            yield Finding("disk", "wrong" if what == "results" else "note", f"{what}: {there} cannot be written")
            continue
        free = shutil.disk_usage(there).free
        state: Literal["ok", "wrong"] = "ok" if free >= ROOM else "wrong"
        yield Finding("disk", state, f"{what}: {free / 2**30:.1f} GiB free in {there}")


def _weights() -> Finding:
    """Checks that the weights of kept runs exist and are those of their cards."""
    try:
        kept = cards.with_weights(KEPT)
        absent = [run for run in kept if not run.weights.is_file()]
        for run in kept:
            if run not in absent:
                cards.weights(run)
    except UserError as error:
        return Finding("weights", "wrong", str(error))
    if absent:
        # a plain pull fetches only from the repository's store
        pulled = any(cards.read(run)["weights"]["remote"] == cards.STORE for run in absent)
        remedy = "dvc pull" if pulled else cards.fetching(cards.read(absent[0]), absent[0].weights)
        return Finding("weights", "note", f"{len(absent)} of {len(kept)} pretrained networks are missing: {remedy}")
    return Finding("weights", "ok" if kept else "note", f"{len(kept)} pretrained networks in {KEPT}")


def _variables() -> Finding:
    given = {name: text for name, text in sorted(os.environ.items()) if name.startswith("STILLPOINT_") and name != _OWN}
    unknown = [name for name in given if name not in VARIABLES]
    if unknown:
        name = unknown[0]
        return Finding("variables", "wrong", f"{name} has no effect{nearest(name, list(VARIABLES))}")
    told = ", ".join(f"{name}={text}" for name, text in given.items())
    return Finding("variables", "ok", told or f"none of {', '.join(VARIABLES)} is set")


def _terminal() -> Finding:
    encoding = (sys.stdout.encoding or "unknown").lower()
    spelled = "" if encoding.startswith("utf") else ": characters that it lacks are spelled (+- for plus-minus)"
    return Finding("terminal", "ok", f"{shutil.get_terminal_size().columns} columns, {encoding}{spelled}")
