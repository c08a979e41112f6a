"""The device of a computation, and the settings of torch for it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic as debugging

from stillpoint.core.base.errors import UserError


def pick(name: str = "auto") -> torch.device:
    """The device called `name`: auto (a GPU if there is one), cpu, cuda, cuda:<n> or mps.

    Under torchrun, auto and cuda are the GPU of this process's local rank. `UserError` for any other name and for a
    missing GPU.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and (kind != "cuda" or not number.isdecimal())):
        raise UserError(f"unknown device {name!r}: choose auto, cpu, cuda, cuda:<number> or mps")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("device mps needs an Apple GPU, and this machine has none: choose cpu or auto")
    if kind == "cuda":
        index = int(number or os.environ.get("LOCAL_RANK", "0"))
        if not count:
            raise UserError(f"device {name} needs a GPU, but torch sees none here: choose cpu or auto")
        if index >= count:
            raise UserError(
                f"there is no GPU number {index}, torch sees {count}: choose from cuda:0 to cuda:{count - 1}"
            )
        return torch.device("cuda", index)
    return torch.device(kind)


@contextmanager
def settings(device: torch.device, threads: int | None = None) -> Iterator[None]:
    """A context with `threads` threads and deterministic algorithms; on exit all settings and random generators are
    restored.

    An operation without a deterministic implementation on the device warns and runs. Results therefore repeat bitwise
    on the CPU, and on a GPU except for such operations.
    """
    before = torch.get_num_threads()
    deterministic = torch.get_deterministic_debug_mode()
    fill = debugging.fill_uninitialized_memory  # type: ignore[attr-defined]
    benchmark = torch.backends.cudnn.benchmark
    # read when cuBLAS starts; without it torch reports every matrix product on a GPU as non-deterministic
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            # same effect as use_deterministic_algorithms(True, warn_only=True), which would import the compiler
            torch.set_deterministic_debug_mode("warn")
            # filling every new tensor with NaN would help to find bugs, but costs a pass over the memory
            debugging.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            # cuDNN's benchmark would choose algorithms by their timing, which changes the last bits
            torch.backends.cudnn.benchmark = False
            yield
        finally:
            torch.set_num_threads(before)
            torch.set_deterministic_debug_mode(deterministic)
            debugging.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
            torch.backends.cudnn.benchmark = benchmark


def seed(device: torch.device, number: int) -> None:
    """Seeds only the generators that operations on `device` draw from; torch.manual_seed takes 30 times as long, which
    is noticeable in small networks when called at every step."""
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(number)
    elif device.type == "mps":
        torch.mps.manual_seed(number)
