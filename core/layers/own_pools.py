"""Max and average pooling as fillings of the slot, as in networks without strided convolutions; no law for shifts."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.layers.downsample import Downsample, Grid
from stillpoint.core.layers.phases import Stride


class OwnPool(Downsample):
    """A pooling of stride 2 on a fixed grid; a shortcut has its own."""

    def __init__(
        self,
        channels: int | None = None,
        stride: Stride = 2,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if stride not in (2, (2, 2)):
            raise ValueError(f"{type(self).__name__} supports stride 2 only, got {stride!r}")
        self.channels, self.stride = channels, (2, 2)

    def follower(self, channels: int) -> Downsample:
        return type(self)(channels)


class MaxPool2d(OwnPool):
    """The largest of 2 x 2 pixels; an odd row or column at the end is dropped.

    (B, C, H, W) -> (B, C, floor(H/2), floor(W/2)). ValueError for a stride other than 2.

    Examples:
        >>> layers.MaxPool2d()(torch.arange(16.0).view(1, 1, 4, 4)).flatten()
        tensor([ 5.,  7., 13., 15.])
    """

    def sample(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        return F.max_pool2d(x, 2)

    def scripted_at(self, x: Tensor, phase: Tensor | None) -> Tensor:
        return F.max_pool2d(x, 2)


class AveragePool2d(OwnPool):
    """The mean of 2 x 2 pixels; an odd row or column at the end is dropped.

    (B, C, H, W) -> (B, C, floor(H/2), floor(W/2)). ValueError for a stride other than 2.

    Examples:
        >>> layers.AveragePool2d()(torch.arange(16.0).view(1, 1, 4, 4)).flatten()
        tensor([ 2.5000,  4.5000, 10.5000, 12.5000])
    """

    def sample(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        return F.avg_pool2d(x, 2)

    def scripted_at(self, x: Tensor, phase: Tensor | None) -> Tensor:
        return F.avg_pool2d(x, 2)
