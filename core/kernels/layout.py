"""The memory layout of a map, and new maps of the same layout."""

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """Whether (B, C, H, W) is channels-last but not contiguous; False for a map that is both."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def memory_format(x: Tensor) -> torch.memory_format:
    """The layout of results for `x`: channels-last if `x` is, otherwise contiguous."""
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def empty_map(x: Tensor, size: list[int]) -> Tensor:
    """An uninitialised (B, C, *size) with the batch, channels, dtype, device and layout of `x`."""
    return torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=memory_format(x))
