"""A small LeNet-like classifier whose pooling, padding and head can be exchanged one at a time."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from stillpoint.core.backbones.backbone import Backbone, Feature, Parts, scaled
from stillpoint.core.layers.dense_max_pool import DenseMaxPool2d
from stillpoint.core.layers.downsample import DownsampleFactory, at
from stillpoint.core.layers.padding import PaddedConv2d
from stillpoint.core.layers.slots import ModuleFactory, no_norm, relu


class Front(Protocol):
    """A module that may precede the first convolution."""

    maps: int

    def output_size(self, size: int) -> int: ...
    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


class ConvNet(Backbone):
    """conv - ReLU - pool, repeated, then two linear layers: (B, C, S, S) -> log-probabilities (B, num_classes).

    image_size   S, on which a flattening head depends.
    channels     output channels of each convolution; `kernels` and `groups` have one entry for each.
    downsample   replaces the stride of each 2x2 max-pool; None: the strided pool.
    circular     convolutions and pools wrap around the border and keep the size; otherwise they are unpadded.
    head         "flatten": the linear layers see every position; "average": they see the mean over positions, and
                 nothing pools after the last convolution.
    front        a module before the first convolution, (B, C, S, S) -> (B, C * front.maps, s, s) with
                 s = front.output_size(S), such as `Scattering2d`.
    dropout      rate for whole channels after the last convolution and for the hidden units.
    activation   factory (channels) of the layer after a convolution or the first linear layer.
    norm         factory (channels) of the norm after each convolution; default: no norm.

    Parameters conv1, conv2, ... and fc1, fc2. ValueError for images too small for the convolutions and pools.
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
        activation: ModuleFactory = relu,
        norm: ModuleFactory = no_norm,
    ):
        super().__init__()
        self.front, self.in_channels, self.dropout = front, in_channels, dropout
        self.depth, self.flattens = len(channels), head == "flatten"
        self._features: list[Feature] = []
        before, size, stride = in_channels, image_size, 1
        if front is not None:
            before, size = in_channels * front.maps, front.output_size(image_size)
            stride = round(image_size / size)
        for i, (width, kernel, group) in enumerate(zip(channels, kernels, groups, strict=True), start=1):
            padding = kernel // 2 if circular else 0
            mode: Literal["circular", "zeros"] = "circular" if circular else "zeros"
            conv = PaddedConv2d(before, width, kernel, 1, padding, groups=group, padding_mode=mode)
            self.add_module(f"conv{i}", conv)
            # no pooling before the mean over positions
            pooled = head == "flatten" or i < self.depth
            self.add_module(f"norm{i}", norm(width))
            self.add_module(f"act{i}", activation(width))
            slot = at(downsample, f"pool{i}.1")
            self.add_module(f"pool{i}", self._pool(width, slot, circular) if pooled else nn.Identity())
            stride = stride * 2 if pooled else stride
            self._features.append(Feature(f"pool{i}", width, stride))
            size += 2 * padding - kernel + 1
            if pooled:
                size = -(-size // 2) if downsample is not None and circular else size // 2
            before = width
        if size < 1:
            raise ValueError(f"images of {image_size} pixels vanish in {self.depth} convolutions and pools")
        self.fc1 = nn.Linear(before * (size * size if head == "flatten" else 1), hidden)
        self.act = activation(hidden)
        self.fc2 = nn.Linear(hidden, num_classes)

    @staticmethod
    def _pool(channels: int, downsample: DownsampleFactory | None, circular: bool) -> nn.Module:
        if downsample is None:
            return nn.MaxPool2d(2)
        return nn.Sequential(DenseMaxPool2d(2, margin="circular" if circular else "none"), downsample(channels, 2))

    def parts(self) -> Parts:
        steps = [(f"conv{i}", f"norm{i}", f"act{i}", f"pool{i}") for i in range(1, self.depth + 1)]
        stem = (*(("front",) if isinstance(self.front, nn.Module) else ()), *steps[0])
        pools = tuple(step[-1] for step in steps)
        return Parts(stem, pools[1:], ("fc1", "act", "fc2"), tuple(name for step in steps for name in step))

    @property
    def feature_info(self) -> tuple[Feature, ...]:  # type: ignore[override]
        """The stages; an unpadded convolution removes a border but has stride 1."""
        return tuple(self._features)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        if self.front is not None:
            x = self.front(x)
        for i in range(1, self.depth + 1):
            x = self.part(f"norm{i}")(self.part(f"conv{i}")(x))
            if i == self.depth:
                x = F.dropout2d(x, self.dropout, self.training)
            x = self.part(f"pool{i}")(self.part(f"act{i}")(x))  # (B, channels[i-1], ...)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.forward_features(x)
        x = x.flatten(1) if self.flattens else x.mean((2, 3))
        x = F.dropout(self.act(self.fc1(x)), self.dropout, self.training)  # (B, hidden)
        return F.log_softmax(self.fc2(x), 1)


def convnet(name: str, *, image_size: int, width: float = 1.0, **options: Any) -> ConvNet:
    """`ConvNet` with `options`, for square images of `image_size` pixels; `width` multiplies the channels, kept
    multiples of the six groups, and the hidden units."""
    channels = 6 * max(1, round(5 * width))
    variant = {"channels": (channels, channels), "hidden": scaled(100, width)}
    return ConvNet(image_size=image_size, **{**variant, **options})
