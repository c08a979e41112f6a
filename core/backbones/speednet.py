"""A small classifier made for speed: fixed filters on 2x2 patches, then three stages of two convolutions and a pool.

The network of the speed runs on CIFAR-10 (Jordan, arXiv 2404.00498), with two differences: convolutions keep
the size, so that sides are halved exactly, and every halving is a slot.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stillpoint.core.backbones.backbone import Backbone, Parts, scaled
from stillpoint.core.layers.conv_norm_act import conv_norm_act
from stillpoint.core.layers.dense_max_pool import DenseMaxPool2d
from stillpoint.core.layers.downsample import DownsampleFactory, at
from stillpoint.core.layers.norm_act import norm_act
from stillpoint.core.layers.padding import PaddedConv2d, pad
from stillpoint.core.layers.slots import ModuleFactory, batch_norm, relu

WIDTHS = (64, 256, 256)
#: side of the first convolution's patches, and the constant added to their variances: in a JPEG copy of CIFAR-10, whose
#: colours have half the resolution, six of twelve are below 0.006, and a smaller constant would amplify their rounding
_PATCH, _FLOOR = 2, 0.05


class PatchConv2d(nn.Conv2d):
    """A convolution over 2x2 patches, (B, C, H, W) -> (B, 8 * C, H, W), padded at the bottom and the right.

    `whiten` sets its weights to the principal components of image patches and freezes them; the bias is trained.
    """

    def __init__(self, in_channels: int, conv_padding: str) -> None:
        super().__init__(in_channels, 2 * in_channels * _PATCH**2, _PATCH)
        self.conv_padding = conv_padding

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad(x, [(0, _PATCH - 1)] * 2, padding=self.conv_padding))

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Sets and freezes filters whose outputs on the patches of `images` (N, C, H, W) are uncorrelated, each with
        both signs (Jordan's frozen patch whitening); variance v becomes v / (v + 0.05). The bias becomes 0."""
        patches = images.double().unfold(2, _PATCH, 1).unfold(3, _PATCH, 1)  # (N, C, h, w, 2, 2)
        rows = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, self.in_channels * _PATCH**2)
        variances, components = torch.linalg.eigh(rows.mT @ rows / len(rows))
        # solvers differ in an eigenvector's sign: make the largest entry positive
        signs = components.gather(0, components.abs().argmax(0, keepdim=True)).sign()
        filters = (components * signs / (variances + _FLOOR).sqrt()).mT.view(-1, *self.weight.shape[1:])
        self.weight.copy_(torch.cat([filters, -filters]))
        assert self.bias is not None
        nn.init.zeros_(self.bias)
        self.weight.requires_grad_(False)


class Stage(nn.Module):
    """conv, max-pool, norm, activation, conv, norm, activation: (B, C, H, W) -> (B, width, H/2, W/2)."""

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        downsample: DownsampleFactory | None,
        conv_padding: str,
        activation: ModuleFactory,
        norm: ModuleFactory,
    ) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, width, conv_padding)
        self.pool: nn.Module = nn.MaxPool2d(2)
        if downsample is not None:
            margin = "circular" if conv_padding == "circular" else "none"
            self.pool = nn.Sequential(DenseMaxPool2d(2, margin=margin), downsample(width, 2))
        self.norm1, self.act1 = norm(width), activation(width)
        self.conv2 = _conv(width, width, conv_padding)
        self.norm2, self.act2 = norm(width), activation(width)

    def forward(self, x: Tensor) -> Tensor:
        x = norm_act(self.pool(self.conv1(x)), self.norm1, self.act1)
        return conv_norm_act(x, self.conv2, self.norm2, self.act2)


class SpeedNet(Backbone):
    """The classifier: (B, in_channels, H, W) -> logits (B, num_classes), H and W at least 8.

    Args:
        num_classes, in_channels: of the last layer and of the image.
        widths: channels of the three stages.
        downsample: factory (channels, stride) of the filling after each dense max-pool; None: the strided max-pool.
        conv_padding: "zeros" or "circular", for all convolutions and dense max-pools.
        activation, norm: factories (channels) of the layers after a norm (and the first convolution), and after a
            convolution. A batch norm's scale stays at 1, since the convolution before it has one.
        head: "max" or "average" over the positions of the last map, before the linear layer.
        scale: factor of the logits.

    Raises:
        ValueError: another padding or head.

    Initialisation: a 3x3 convolution's first output channels copy its input channels, the others are torch's own.

    Laws: with "subsample" in its slots it is the plain network on maps of even sides. With circular padding and
    polyphase fillings, logits do not change under circular shifts, if every subsampled map has even sides.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        widths: Sequence[int] = WIDTHS,
        downsample: DownsampleFactory | None = None,
        conv_padding: str = "zeros",
        activation: ModuleFactory = relu,
        norm: ModuleFactory = batch_norm,
        head: Literal["max", "average"] = "max",
        scale: float = 1 / 9,
    ) -> None:
        super().__init__()
        if conv_padding not in ("zeros", "circular"):
            raise ValueError(f"conv_padding must be zeros or circular, got {conv_padding!r}")
        if head not in ("max", "average"):
            raise ValueError(f"head must be max or average, got {head!r}")
        self.in_channels, self.maximum, self.scale = in_channels, head == "max", scale
        self.first = PatchConv2d(in_channels, conv_padding)
        before = self.first.out_channels
        self.act = activation(before)
        for i, width in enumerate(widths, start=1):
            slot = at(downsample, f"stage{i}.pool.1")
            options: dict[str, Any] = {"conv_padding": conv_padding, "activation": activation, "norm": norm}
            self.add_module(f"stage{i}", Stage(before, width, downsample=slot, **options))
            before = width
        self.stages = tuple(f"stage{i}" for i in range(1, len(widths) + 1))
        self.fc = nn.Linear(before, num_classes, bias=False)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and module.affine:
                module.weight.requires_grad_(False)

    def parts(self) -> Parts:
        stem = ("first", "act", self.stages[0])
        return Parts(stem, self.stages[1:], ("fc",), stem + self.stages[1:])

    def whiten(self, images: Tensor) -> None:
        """Fixes the first convolution to the principal components of patches of (N, in_channels, H, W)."""
        self.first.whiten(images)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x))
        for stage in self.stages:
            x = self.part(stage)(x)
        return x  # (B, widths[-1], h, w)

    def forward(self, x: Tensor) -> Tensor:
        x = self.forward_features(x)
        x = x.amax((2, 3)) if self.maximum else x.mean((2, 3))
        return self.fc(x) * self.scale


def _conv(inputs: int, outputs: int, conv_padding: Any) -> nn.Conv2d:
    """A 3x3 convolution without bias, whose first min(inputs, outputs) channels start as the identity."""
    conv = PaddedConv2d(inputs, outputs, 3, padding=1, bias=False, padding_mode=conv_padding)
    nn.init.dirac_(conv.weight.data[:inputs])
    return conv


def speednet(name: str, *, image_size: int, width: float = 1.0, **options: Any) -> SpeedNet:
    """`SpeedNet` with `options`, for square images of `image_size` pixels; `width` multiplies the stages' channels.
    ValueError for fewer than 8 pixels."""
    if image_size < 8:
        raise ValueError(f"speednet halves its images three times: image_size must be at least 8, got {image_size}")
    return SpeedNet(**{"widths": [scaled(n, width) for n in WIDTHS], **options})
