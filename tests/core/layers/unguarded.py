"""Functions as a kernel must not be, for the fuzz to find: each is wrong in one way."""

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stillpoint.core.kernels import native
from tests.core.layers.fuzz import Call


def _scaled(x: Tensor, weight: Tensor) -> Tensor:
    """(B, C, H, W) times a number for each channel, as many as the map has channels, wherever they end."""
    if not native.available("float") or x.dtype != torch.float32 or not x.is_contiguous() or x.is_meta:
        return x * weight.view(1, -1, 1, 1)
    count = x.shape[1] if x.ndim == 4 else 0
    read = (ctypes.c_float * count).from_address(weight.data_ptr()) if count else []
    return x * torch.tensor(list(read)).view(1, -1, 1, 1)


def _refused(x: Tensor, weight: Tensor) -> Tensor:
    """The same, with a check that it forgets without kernels."""
    if native.available("float") and weight.shape != x.shape[1:2]:
        raise ValueError("the weight must be (C,), one for each channel of the map")
    return x * weight[0]


def _other(x: Tensor, weight: Tensor) -> Tensor:
    """The last column twice, where the kernel takes two columns at a time."""
    pairs = native.available("float") and x.ndim == 4 and x.shape[3] % 2
    return torch.cat([x, x[..., -1:]], -1)[..., 1:] * weight[0] if pairs else x * weight[0]


def _accident(x: Tensor, *, stride: int = 1) -> Tensor:
    """An index of its own that is not there."""
    return x[..., ::stride] if stride == 1 else {}[stride]


def _of(function: Callable[..., Any], *shapes: tuple[int, ...]) -> Callable[[], Call]:
    return lambda: Call(function, tuple(torch.linspace(-1, 1, 48)[: torch.Size(s).numel()].view(s) for s in shapes), {})


#: those that answer; then the one that ends the process
CALLS: dict[str, tuple[Callable[[], Call], dict[str, Any]]] = {
    "refused": (_of(_refused, (2, 4, 3, 2), (4,)), {}),
    "other": (_of(_other, (2, 4, 3, 2), (4,)), {}),
    "accident": (_of(_accident, (2, 4, 3, 2)), {"stride": 1}),
}
BEYOND = {"beyond": (_of(_scaled, (2, 4, 3, 2), (4,)), {})}
