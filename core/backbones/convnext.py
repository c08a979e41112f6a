"""ConvNeXt, with slots where it subsamples and for its activation and norm.

Liu et al., "A ConvNet for the 2020s", CVPR 2022. With a Downsample, the convolution before it has stride 1 and keeps
the map's size, as in Michaeli, Michaeli and Soudry, "Alias-free convnets", CVPR 2023; circular padding, ideal low-pass
filters, polynomial activations and their norm make the networks of that paper.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from stillpoint.core.backbones.backbone import SMALL, Backbone, Parts, scaled
from stillpoint.core.layers.channel_norm import pixel_norm
from stillpoint.core.layers.downsample import DownsampleFactory
from stillpoint.core.layers.lowpass import ideal_lowpass2d
from stillpoint.core.layers.padding import PaddedConv2d
from stillpoint.core.layers.resampling import ideal_upsample2d
from stillpoint.core.layers.slots import ModuleFactory, gelu

#: name -> depths and widths of its stages, and its stem where it differs from ConvNeXt's
FAMILY: dict[str, dict[str, Any]] = {
    "convnext_tiny": {"depths": (3, 3, 9, 3), "widths": (96, 192, 384, 768)},
    "convnext_small": {"depths": (3, 3, 27, 3), "widths": (96, 192, 384, 768)},
    "convnext_base": {"depths": (3, 3, 27, 3), "widths": (128, 256, 512, 1024)},
    "convnext_large": {"depths": (3, 3, 27, 3), "widths": (192, 384, 768, 1536)},
    "convnext_xlarge": {"depths": (3, 3, 27, 3), "widths": (256, 512, 1024, 2048)},
    # for images of 32 pixels: no map is smaller than the 7x7 kernel
    "convnext_mini": {"depths": (2, 2, 2), "widths": (48, 96, 192), "stem_kernel": 3, "stem_stride": 1},
    "convnext_nano": {"depths": (1, 1), "widths": (32, 64), "stem_kernel": 2, "stem_stride": 2},
}


class DropPath(nn.Module):
    """In training, drops a branch of each image with probability `rate`, and scales the others by 1 / (1 - rate)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path must be in [0, 1), got {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1 - self.rate)
        return x * keep.div_(1 - self.rate)

    def extra_repr(self) -> str:
        return f"{self.rate}"


class Residual(nn.Module):
    """x + gain * branch(x) with one trainable gain, initially 0: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(1))
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * self.branch(x)


class Block(nn.Module):
    """Depthwise 7x7 convolution, norm, 1x1 to four times the channels, activation, 1x1 back, layer scale, added to the
    input: (B, C, H, W) -> (B, C, H, W).

    With `resample` the two 1x1 convolutions run on an upsampled map (2x) and the result is filtered and subsampled, as
    in the authors' code. The "upsampled" polynomial activation between them is the same function at a quarter of the
    multiplications, because 1x1 convolutions commute with linear maps of each channel.
    """

    def __init__(
        self,
        width: int,
        *,
        activation: ModuleFactory,
        norm: ModuleFactory,
        padding_mode: str,
        layer_scale: float,
        drop_path: float = 0.0,
        resample: bool = False,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.gamma = nn.Parameter(torch.full((width,), layer_scale))
        self.dwconv = _conv(width, width, 7, padding="same", padding_mode=padding_mode, groups=width)
        self.norm = norm(width)
        self.pwconv1 = nn.Conv2d(width, 4 * width, 1)
        self.act = activation(4 * width)
        self.pwconv2 = nn.Conv2d(4 * width, width, 1)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x))
        y = ideal_upsample2d(y) if self.resample else y
        y = self.pwconv2(self.act(self.pwconv1(y)))
        y = ideal_lowpass2d(y, stride=2) if self.resample else y
        return x + self.drop_path(self.gamma[:, None, None] * y)


class Reduction(nn.Module):
    """A convolution of kernel and stride s, or, with a Downsample, one that keeps the size and then the Downsample.

    ConvNeXt's names: in the stem convolution "0", norm "1"; before later stages norm "0", convolution "1". A stem's
    activation, if it has one, comes between its convolution and its Downsample. `steps`: 1, or 2 to take a stride of 4
    as two Downsamples of stride 2.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int,
        stride: int,
        norm: ModuleFactory,
        first: bool,
        downsample: DownsampleFactory | None,
        padding_mode: str,
        activation: nn.Module | None = None,
        steps: int = 1,
    ) -> None:
        super().__init__()
        self.first = first
        pooled = downsample is not None and stride > 1
        same = {"padding": "same", "padding_mode": padding_mode}
        striding: dict[str, Any] = {"stride": stride} if stride > 1 else same
        conv = _conv(inputs, outputs, kernel, **(same if pooled else striding))
        for place, module in enumerate((conv, norm(outputs)) if first else (norm(inputs), conv)):
            self.add_module(str(place), module)
        self.activation = activation
        self.pool = None
        if pooled and downsample is not None:
            strides = [stride] if steps == 1 else [2] * (stride.bit_length() - 1)
            self.pool = nn.Sequential(*(downsample(outputs, step) for step in strides))

    def forward(self, x: Tensor) -> Tensor:
        if not self.first:
            x = self.get_submodule("0")(x)
        x = self.get_submodule("0" if self.first else "1")(x)
        if self.activation is not None:
            x = self.activation(x)
        if self.pool is not None:
            x = self.pool(x)
        return self.get_submodule("1")(x) if self.first else x


class ConvNeXt(Backbone):
    """(B, in_channels, H, W) -> (B, num_classes).

    Args:
        depths, widths: blocks and channels of each stage.
        downsample: factory (channels, stride) of the filling after the stem's convolution (`stem_stride`) and before
            each later stage (2); None: the convolutions stride.
        activation, norm: factories (channels); GELU and a norm of each pixel by default.
        padding_mode: of the 7x7 convolutions, and of those that keep the size before a Downsample.
        stem_kernel, stem_stride: of the first convolution. With a stride of 1 nothing removes the Nyquist frequency,
            which fractional shifts do not preserve.
        stem_steps: 2 takes a stride of 4 as two Downsamples in a row, as APS does.
        stem_activation: factory of an activation between the stem's convolution and its Downsample; with
            `stem_residual` its result is added with a trainable gain, initially 0. None: no activation, as in ConvNeXt.
        layer_scale: initial value of each block's layer scale.
        drop_path: rate of the last block, rising linearly from 0 at the first.
        resample: of each `Block`.
        whole_strides: refuse images whose sides are not multiples of the total stride, for which no shift guarantee
            holds.

    Raises:
        ValueError: different numbers of depths and widths, or none; `stem_steps` of 2 for a stride other than 4;
            `drop_path` outside [0, 1); in the forward, sizes that `whole_strides` refuses.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1000,
        depths: Sequence[int] = FAMILY["convnext_tiny"]["depths"],
        widths: Sequence[int] = FAMILY["convnext_tiny"]["widths"],
        downsample: DownsampleFactory | None = None,
        activation: ModuleFactory = gelu,
        norm: ModuleFactory = pixel_norm,
        padding_mode: str = "zeros",
        stem_kernel: int = 4,
        stem_stride: int = 4,
        stem_steps: int = 1,
        stem_activation: ModuleFactory | None = None,
        stem_residual: bool = True,
        layer_scale: float = 1e-6,
        drop_path: float = 0.0,
        resample: bool = False,
        whole_strides: bool = False,
    ) -> None:
        super().__init__()
        if len(depths) != len(widths) or not depths:
            raise ValueError(f"each stage needs a depth and a width, got {len(depths)} depths and {len(widths)} widths")
        if stem_steps not in (1, 2) or (stem_steps == 2 and stem_stride != 4):
            raise ValueError(
                f"stem_steps must be 1, or 2 with a stem_stride of 4, got stem_stride={stem_stride} and "
                f"stem_steps={stem_steps}"
            )
        self.in_channels, self.whole_strides = in_channels, whole_strides
        self.total_stride = stem_stride * 2 ** (len(depths) - 1)
        first = None if stem_activation is None else stem_activation(widths[0])
        stem = Reduction(
            in_channels,
            widths[0],
            kernel=stem_kernel,
            stride=stem_stride,
            norm=norm,
            first=True,
            downsample=downsample,
            padding_mode=padding_mode,
            activation=Residual(first) if first is not None and stem_residual else first,
            steps=stem_steps,
        )
        reductions = [
            Reduction(
                before,
                after,
                kernel=2,
                stride=2,
                norm=norm,
                first=False,
                downsample=downsample,
                padding_mode=padding_mode,
            )
            for before, after in pairwise(widths)
        ]
        self.downsample_layers = nn.ModuleList([stem, *reductions])
        last = max(sum(depths) - 1, 1)
        place = iter(range(sum(depths)))
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    Block(
                        width,
                        activation=activation,
                        norm=norm,
                        padding_mode=padding_mode,
                        layer_scale=layer_scale,
                        drop_path=drop_path * next(place) / last,
                        resample=resample,
                    )
                    for _ in range(depth)
                )
            )
            for depth, width in zip(depths, widths, strict=True)
        )
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)
        # not `head`, which in a `Backbone` is everything after the last map
        self.fc = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def parts(self) -> Parts:
        stages = range(len(self.stages))
        return Parts(
            stem=("downsample_layers.0",),
            stages=tuple(f"stages.{stage}" for stage in stages),
            head=("norm", "fc"),
            layers=tuple(
                name
                for stage in stages
                for name in (
                    f"downsample_layers.{stage}",
                    *(f"stages.{stage}.{block}" for block, _ in enumerate(self.stages[stage].children())),
                )
            ),
        )

    def forward_features(self, x: Tensor) -> Tensor:
        if self.whole_strides and (x.shape[-2] % self.total_stride or x.shape[-1] % self.total_stride):
            raise ValueError(
                f"images of {x.shape[-2]}x{x.shape[-1]} pixels are not sampled evenly: both sides must be multiples of "
                f"{self.total_stride}, the network's total stride"
            )
        for reduction, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(reduction(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.forward_features(x).mean((-2, -1))))


def convnext(name: str, **options: Any) -> ConvNeXt:
    """A network of `FAMILY` by its name; `options` as in `ConvNeXt`. ValueError for an unknown name."""
    if name not in FAMILY:
        raise ValueError(f"a ConvNeXt is one of {', '.join(FAMILY)}, got {name!r}")
    return ConvNeXt(**{**FAMILY[name], **options})


def convnext_for(name: str, *, image_size: int, width: float = 1.0, **options: Any) -> ConvNeXt:
    """The network of `FAMILY` called `name` for square images of `image_size` pixels; `width` multiplies the channels.
    For small images the stem is 3x3 without stride, unless `FAMILY` gives the name its own."""
    own = "stem_kernel" in FAMILY.get(name, {})
    stem = {"stem_kernel": 3, "stem_stride": 1} if image_size <= SMALL and not own else {}
    widths = [scaled(n, width) for n in FAMILY.get(name, FAMILY["convnext_tiny"])["widths"]]
    return convnext(name, **{**stem, "widths": widths, **options})


def _conv(inputs: int, outputs: int, kernel: int, **options: Any) -> nn.Conv2d:
    return PaddedConv2d(inputs, outputs, kernel, **options)
