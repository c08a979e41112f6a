"""The origin of a result, so that one can tell whether two files come from the same code and data."""

import hashlib
import os
import platform
import re
import resource
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillpoint.core.base.words import counted
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.kernels.arithmetic import arithmetic

_ROOT = Path(__file__).resolve().parents[2]


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", _ROOT, *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


#: variable with the commit of a copy outside its repository: 40 digits, then "-dirty" if it was changed
COMMIT_VARIABLE = "STILLPOINT_COMMIT"


def commit() -> tuple[str | None, bool | None]:
    """(commit, whether the tree was clean) of this code.

    Outside its own repository they come from $STILLPOINT_COMMIT, or are (None, None).
    """
    top = _git("rev-parse", "--show-toplevel")
    # an installed copy may lie inside the repository of something else
    if top is None or Path(top).resolve() != _ROOT:
        stated = re.fullmatch(r"([0-9a-f]{40})(-dirty)?", os.environ.get(COMMIT_VARIABLE, ""))
        return (stated[1], stated[2] is None) if stated else (None, None)
    status = _git("status", "--porcelain")
    return _git("rev-parse", "HEAD"), None if status is None else not status


def _version() -> str | None:
    try:
        return metadata.version("stillpoint")
    except metadata.PackageNotFoundError:
        return None


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the processor with its widest instructions and the number of torch's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{processor_name()} {device.type}"
    # a private function of torch, which may disappear
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    widest = "AMX" if tiles else torch.backends.cpu.get_cpu_capability()
    return f"{processor_name()} ({widest}), {counted(torch.get_num_threads(), 'thread')}"


@cache
def processor_name() -> str:
    """The processor's name, such as "AMD EPYC 9754", or its architecture if the system does not report it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> int:
    """Peak memory so far, in bytes: of tensors on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bits of tensors, in the order of their names."""
    state = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def provenance(
    config: RunConfig, data_digest: str, device: torch.device, seconds: float, data_order: str = ""
) -> dict[str, Any]:
    """The provenance in every JSON of a result.

    `data_digest` is the digest of the images, `seconds` the duration, and `data_order` describes the order of the
    images if it differs from the published one.
    """
    revision, clean = commit()
    return {
        "commit": revision,
        "clean": clean,
        "stillpoint": _version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device_name(device),
        # other kernels change the last bits: such runs are not averaged together
        "kernels": arithmetic(device),
        "seed": config.seed,
        "seconds": round(seconds, 3),
        "peak_memory_bytes": peak_memory(device),
        "data_digest": data_digest,
        **({"data_order": data_order} if data_order else {}),
        "config_digest": config.digest(),
    }
