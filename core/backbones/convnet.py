"""A small convolutional classifier in the manner of LeNet, whose pooling, padding and head can be exchanged one at a
time.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from stillpoint.core.backbones.stem import DenseMaxPool2d
from stillpoint.core.layers.downsample import DownsampleFactory
from stillpoint.core.layers.padding import PaddedConv2d


class Front(Protocol):
    """What may stand before the first convolution."""

    maps: int

    def output_size(self, size: int) -> int: ...
    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


class ConvNet(nn.Module):
    """conv - ReLU - pool, repeated, then two linear layers: (B, C, S, S) -> logarithms of class probabilities.

    image_size   S; needed because a flattening head depends on it.
    channels     width of each convolution; `kernels` and `groups` go with them.
    downsample   what replaces the stride of each 2x2 max-pool; none is the strided pool.
    circular     convolutions and pools wrap around the border and keep the size; otherwise they are unpadded.
    head         "flatten": the linear layers see every position; "average": they see the mean over positions, and
                 nothing pools after the last convolution.
    front        a module before the first convolution, (B, C, S, S) -> (B, C * front.maps, s, s) with
                 s = front.output_size(S), such as `Scattering2d`.
    dropout      of whole channels after the last convolution and of the hidden units.

    Parameters conv1, conv2, ... and fc1, fc2.
    """

    def __init__(
        self,
        *,
        image_size: int,
        in_channels: int = 1,
        num_classes: int = 10,
        channels: Sequence[int] = (30, 30),
        kernels: Sequence[int] = (5, 5),
        groups: Sequence[int] = (1, 6),
        hidden: int = 100,
        downsample: DownsampleFactory | None = None,
        circular: bool = False,
        head: Literal["flatten", "average"] = "flatten",
        front: Front | None = None,
        dropout: float = 0.5,
    ):
        super().__init__()
        self.front = front
        self.depth = len(channels)
        self.head = head
        self.dropout = dropout
        before, size = in_channels, image_size
        if front is not None:
            before, size = in_channels * front.maps, front.output_size(image_size)
        for i, (width, kernel, group) in enumerate(zip(channels, kernels, groups, strict=True), start=1):
            padding = kernel // 2 if circular else 0
            mode: Literal["circular", "zeros"] = "circular" if circular else "zeros"
            conv = PaddedConv2d(before, width, kernel, 1, padding, groups=group, padding_mode=mode)
            self.add_module(f"conv{i}", conv)
            # the mean over positions needs no pooling before it
            pooled = head == "flatten" or i < self.depth
            self.add_module(f"pool{i}", self._pool(width, downsample, circular) if pooled else nn.Identity())
            size += 2 * padding - kernel + 1
            if pooled:
                size = -(-size // 2) if downsample is not None and circular else size // 2
            before = width
        if size < 1:
            raise ValueError(f"images of {image_size} pixels vanish in {self.depth} convolutions and pools")
        self.fc1 = nn.Linear(before * (size * size if head == "flatten" else 1), hidden)
        self.fc2 = nn.Linear(hidden, num_classes)

    @staticmethod
    def _pool(channels: int, downsample: DownsampleFactory | None, circular: bool) -> nn.Module:
        if downsample is None:
            return nn.MaxPool2d(2)
        return nn.Sequential(DenseMaxPool2d(2, margin="circular" if circular else "none"), downsample(channels, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.front is not None:
            x = self.front(x)
        for i in range(1, self.depth + 1):
            x = self.get_submodule(f"conv{i}")(x)
            if i == self.depth:
                x = F.dropout2d(x, self.dropout, self.training)
            x = self.get_submodule(f"pool{i}")(F.relu(x))  # (B, channels[i-1], ...)
        x = x.flatten(1) if self.head == "flatten" else x.mean((2, 3))
        x = F.dropout(F.relu(self.fc1(x)), self.dropout, self.training)  # (B, hidden)
        return F.log_softmax(self.fc2(x), 1)
