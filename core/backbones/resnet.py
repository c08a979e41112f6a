"""Residual networks with torchvision's computation and parameter names, and slots for the stem and every stride.

He et al., "Deep residual learning for image recognition", CVPR 2016; ResNeXt: Xie et al., CVPR 2017. The stride of a
Bottleneck sits in its 3x3 convolution, as in torchvision. Placement of the Downsample: Zhang, ICML 2019, section 4.2.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from stillpoint.core.backbones.backbone import SMALL, Backbone, Parts, scaled
from stillpoint.core.layers.conv_norm_act import conv_norm_act
from stillpoint.core.layers.dense_max_pool import DenseMaxPool2d
from stillpoint.core.layers.downsample import Downsample, DownsampleFactory, Grid, at
from stillpoint.core.layers.padding import PaddedConv2d
from stillpoint.core.layers.pointwise import PointwiseConv2d
from stillpoint.core.layers.slots import ModuleFactory, batch_norm, relu

#: (in_channels, out_channels, kernel_size, *, stride, padding) -> convolution; also groups and dilation if not 1
ConvFactory = Callable[..., nn.Conv2d]

_CONV: ConvFactory = partial(nn.Conv2d, bias=False)

CONV_PADDINGS = ("zeros", "circular", "reflect", "replicate")
STEMS = ("imagenet", "cifar")


class Shortcut(nn.Module):
    """Projection of a block's input: [Downsample,] 1x1 convolution "0", norm "1" (torchvision's names)."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, main: Downsample | None, norm: ModuleFactory = batch_norm
    ) -> None:
        super().__init__()
        self.pool = None if main is None else main.follower(inputs)
        stride = stride if main is None else 1
        self.add_module("0", PointwiseConv2d(inputs, outputs, stride=stride, bias=False))
        self.add_module("1", norm(outputs))

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        if self.pool is not None:
            # on the grid of the main branch, or the sum would be misaligned
            x = self.pool(x, grid)
        return conv_norm_act(x, self.get_submodule("0"), self.get_submodule("1"))


class ResidualBlock(nn.Module):
    """The base of both blocks, with the Downsample, the shortcut and the sum."""

    expansion = 1
    pool: Downsample | None
    downsample: Shortcut | None

    def __init__(self, inner_activation: bool, shortcut: bool) -> None:
        super().__init__()
        self.inner_activation, self.shortcut = inner_activation, shortcut

    def _activate(self, activation: ModuleFactory, outputs: int, *inner: int) -> None:
        """Sets the activations: a single `relu` for all places if it has no state, otherwise one module for each."""
        self.relu = activation(outputs)
        one = not self.relu.state_dict()
        self.acts = () if one else tuple(f"act{i + 1}" for i in range(len(inner)))
        for name, channels in zip(self.acts, inner, strict=False):
            self.add_module(name, activation(channels))

    def _act(self, place: int) -> nn.Module:
        return self.get_submodule(self.acts[place]) if self.acts else self.relu

    def _project(self, inputs: int, outputs: int, stride: int, norm: ModuleFactory) -> None:
        needed = self.shortcut and (stride != 1 or inputs != outputs)
        self.downsample = Shortcut(inputs, outputs, stride, self.pool, norm) if needed else None

    def _inner(self, place: int) -> nn.Module | None:
        return self._act(place) if self.inner_activation else None

    def _pooled(self, x: Tensor) -> tuple[Tensor, Grid | None]:
        return (x, None) if self.pool is None else self.pool(x, return_grid=True)

    def _identity(self, x: Tensor, grid: Grid | None) -> Tensor:
        return x if self.downsample is None else self.downsample(x, grid)

    def _joined(self, y: Tensor, conv: nn.Module, norm: nn.Module, x: Tensor, grid: Grid | None) -> Tensor:
        if not self.shortcut:
            return conv_norm_act(y, conv, norm)
        return conv_norm_act(y, conv, norm, self.relu, self._identity(x, grid))


class BasicBlock(ResidualBlock):
    """conv 3x3, BN, ReLU, [Downsample,] conv 3x3, BN, plus the shortcut, ReLU: (B, C, H, W) -> (B, width, H/s, W/s).

    Without a Downsample the first convolution has the stride. ValueError for dilation or groups, as in torchvision.
    """

    expansion = 1

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        stride: int = 1,
        downsample: DownsampleFactory | None = None,
        conv: ConvFactory = _CONV,
        inner_activation: bool = True,
        shortcut: bool = True,
        groups: int = 1,
        width_per_group: int = 64,
        dilation: int = 1,
        activation: ModuleFactory = relu,
        norm: ModuleFactory = batch_norm,
    ) -> None:
        super().__init__(inner_activation, shortcut)
        if groups != 1 or width_per_group != 64 or dilation != 1:
            given = f"groups={groups}, width_per_group={width_per_group}, dilation={dilation}"
            raise ValueError(f"a BasicBlock supports groups=1, width_per_group=64 and dilation=1 only, got {given}")
        pool, conv_stride = _slot(width, stride, downsample)
        self.conv1 = conv(inputs, width, 3, stride=conv_stride, padding=1)
        self.bn1 = norm(width)
        self.pool = pool
        self.conv2 = conv(width, width, 3, stride=1, padding=1)
        self.bn2 = norm(width)
        self._project(inputs, width, stride, norm)
        self._activate(activation, width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = conv_norm_act(x, self.conv1, self.bn1, self._inner(0))
        y, grid = self._pooled(y)
        return self._joined(y, self.conv2, self.bn2, x, grid)


class Bottleneck(ResidualBlock):
    """conv 1x1, BN, ReLU, conv 3x3, BN, ReLU, [Downsample,] conv 1x1, BN, plus the shortcut, ReLU.

    (B, C, H, W) -> (B, 4 * width, H/s, W/s). Without a Downsample the 3x3 convolution has the stride. It has
    int(width * width_per_group / 64) * groups channels; ValueError if that is 0.
    """

    expansion = 4

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        stride: int = 1,
        downsample: DownsampleFactory | None = None,
        conv: ConvFactory = _CONV,
        inner_activation: bool = True,
        shortcut: bool = True,
        groups: int = 1,
        width_per_group: int = 64,
        dilation: int = 1,
        activation: ModuleFactory = relu,
        norm: ModuleFactory = batch_norm,
    ) -> None:
        super().__init__(inner_activation, shortcut)
        inner, outputs = int(width * width_per_group / 64) * groups, width * self.expansion
        if not inner:
            raise ValueError(f"a width of {width} leaves no channel for each of {groups} groups: choose a larger one")
        pool, conv_stride = _slot(inner, stride, downsample)
        # passed only if not 1, for factories without these options
        extra = {name: n for name, n in {"groups": groups, "dilation": dilation}.items() if n != 1}
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = norm(inner)
        self.conv2 = conv(inner, inner, 3, stride=conv_stride, padding=dilation, **extra)
        self.bn2 = norm(inner)
        self.pool = pool
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = norm(outputs)
        self._project(inputs, outputs, stride, norm)
        self._activate(activation, outputs, inner, inner)

    def forward(self, x: Tensor) -> Tensor:
        y = conv_norm_act(x, self.conv1, self.bn1, self._act(0))
        y = conv_norm_act(y, self.conv2, self.bn2, self._inner(1))
        y, grid = self._pooled(y)
        return self._joined(y, self.conv3, self.bn3, x, grid)


#: name -> the options of that network; the three-stage ones are He et al.'s for CIFAR-10 (section 4.2)
FAMILY: dict[str, dict[str, Any]] = {
    "resnet18": {"block": BasicBlock, "layers": (2, 2, 2, 2)},
    "resnet34": {"block": BasicBlock, "layers": (3, 4, 6, 3)},
    "resnet50": {"block": Bottleneck, "layers": (3, 4, 6, 3)},
    "resnet101": {"block": Bottleneck, "layers": (3, 4, 23, 3)},
    "resnet152": {"block": Bottleneck, "layers": (3, 8, 36, 3)},
    "resnext50_32x4d": {"block": Bottleneck, "layers": (3, 4, 6, 3), "groups": 32, "width_per_group": 4},
    "resnext101_32x8d": {"block": Bottleneck, "layers": (3, 4, 23, 3), "groups": 32, "width_per_group": 8},
    "wide_resnet50_2": {"block": Bottleneck, "layers": (3, 4, 6, 3), "width_per_group": 128},
    "wide_resnet101_2": {"block": Bottleneck, "layers": (3, 4, 23, 3), "width_per_group": 128},
    "resnet8": {"block": BasicBlock, "layers": (1, 1, 1), "widths": (16, 32, 64)},
    "resnet20": {"block": BasicBlock, "layers": (3, 3, 3), "widths": (16, 32, 64)},
    "resnet56": {"block": BasicBlock, "layers": (9, 9, 9), "widths": (16, 32, 64)},
}


class ResNet(Backbone):
    """A residual classifier, (B, in_channels, H, W) -> logits (B, num_classes); stages after the first halve the map.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        layers: blocks in each stage.
        widths: channels of each stage, before a Bottleneck's factor of 4; the stem's output has widths[0].
        num_classes, in_channels: of the last layer and of the image.
        stem: "imagenet" (7x7 convolution of stride 2, BN, ReLU, max-pool), "cifar" (3x3 convolution, BN, ReLU), or a
            module (B, in_channels, H, W) -> (B, stem_width, H', W') in their place, under the name `stem`.
        stem_width: output channels of a stem module; None: widths[0].
        downsample: factory (channels, stride) of the filling in place of every stride; None: torchvision's strided
            convolutions and max-pool.
        pool_only: with a Downsample, True keeps the stride of the first 7x7 convolution; False gives it stride 1 and a
            Downsample after its ReLU. Only for stem "imagenet".
        max_pool: the dense max-pool before the stem's last Downsample; None: `DenseMaxPool2d(2)` (Zhang). Only with a
            Downsample and stem "imagenet".
        conv: factory of the 3x3 convolutions inside the blocks, called like `nn.Conv2d` with in_channels, out_channels,
            kernel_size, stride, padding and, if not 1, groups and dilation; None: convolutions without bias, of
            `conv_padding`.
        conv_padding: "zeros", "circular", "reflect" or "replicate", for the convolutions that `conv` does not make.
        inner_activation: activation between the last two convolutions of a block.
        shortcuts: add each block's input to its output, then ReLU; False: neither, the block ends with its batch norm.
        groups, width_per_group: of the Bottleneck's 3x3 convolution (ResNeXt, Wide ResNet).
        replace_stride_with_dilation: for each stage from the second on, whether to dilate instead of subsampling.
        zero_init_residual: initialise each block's last norm to 0.
        activation, norm: factories (channels) of the layers after a norm, and after a convolution.

    Raises:
        ValueError: an option outside its set, or options that exclude each other.

    Initialisation: convolutions Kaiming normal (fan out), batch norms 1 and 0, the last layer torch's own; a stem
    module is left unchanged.

    Laws: with no options given, a torchvision state_dict loads strictly and reproduces torchvision's logits. With
    circular padding throughout, polyphase Downsamples and a stem that commutes with shifts, logits do not change under
    circular shifts, if every subsampled map has even sides.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        *,
        widths: Sequence[int] = (64, 128, 256, 512),
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str | nn.Module = "imagenet",
        stem_width: int | None = None,
        downsample: DownsampleFactory | None = None,
        pool_only: bool = True,
        max_pool: nn.Module | None = None,
        conv: ConvFactory | None = None,
        conv_padding: str = "zeros",
        inner_activation: bool = True,
        shortcuts: bool = True,
        groups: int = 1,
        width_per_group: int = 64,
        replace_stride_with_dilation: Sequence[bool] | None = None,
        zero_init_residual: bool = False,
        activation: ModuleFactory = relu,
        norm: ModuleFactory = batch_norm,
    ) -> None:
        super().__init__()
        dilate = tuple(replace_stride_with_dilation or (False,) * (len(layers) - 1))
        if len(widths) != len(layers) or len(dilate) != len(layers) - 1:
            raise ValueError(
                f"{len(layers)} stages need as many widths and one fewer entries of replace_stride_with_dilation, got "
                f"{len(widths)} and {len(dilate)}"
            )
        if conv_padding not in CONV_PADDINGS:
            raise ValueError(f"conv_padding must be one of {', '.join(CONV_PADDINGS)}, got {conv_padding!r}")
        if downsample is None and (not pool_only or max_pool is not None):
            raise ValueError("pool_only=False and max_pool need a downsample, got downsample=None")
        padded: ConvFactory = partial(PaddedConv2d, bias=False, padding_mode=conv_padding)  # type: ignore[arg-type]

        self.in_channels = in_channels
        if isinstance(stem, nn.Module):
            # not by assignment, since `stem` is a property of the class
            self._modules["stem"] = stem
        elif stem in STEMS:
            self._make_stem(stem, padded, norm, activation, in_channels, widths[0], downsample, pool_only, max_pool)
        else:
            raise ValueError(f"stem must be a module or one of {', '.join(STEMS)}, got {stem!r}")

        options: dict[str, Any] = {
            "conv": conv or padded,
            "activation": activation,
            "norm": norm,
            "inner_activation": inner_activation,
            "shortcut": shortcuts,
            "groups": groups,
            "width_per_group": width_per_group,
        }
        given = stem_width if isinstance(stem, nn.Module) else None
        inputs, dilation = given or widths[0], 1
        self.stages = tuple(f"layer{i + 1}" for i in range(len(layers)))
        for name, width, depth, dilated in zip(self.stages, widths, layers, (False, *dilate), strict=True):
            stride, before = (1 if name == "layer1" else 2), dilation
            if dilated:
                stride, dilation = 1, dilation * stride
            slot = at(downsample, f"{name}.0.pool")
            blocks: list[nn.Module] = [block(inputs, width, stride=stride, dilation=before, downsample=slot, **options)]
            inputs = width * block.expansion
            blocks += [block(inputs, width, dilation=dilation, **options) for _ in range(depth - 1)]
            self.add_module(name, nn.Sequential(*blocks))
        self.trunk = (*self.parts().stem, *self.stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)
        self.initialise(zero_init_residual)

    def parts(self) -> Parts:
        own = "stem" in self._modules
        stem = ("stem",) if own else ("conv1", "bn1", "relu", "maxpool")
        looked_at = ("conv1", "relu", "maxpool") if not own else stem
        return Parts(stem, self.stages, ("avgpool", "fc"), (*looked_at, *self.stages))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map, (B, C, h, w)."""
        for name in self.trunk:
            if name == "conv1":
                x = conv_norm_act(x, self.conv1, self.bn1, self.relu)
            elif name not in ("bn1", "relu"):
                x = self.part(name)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.avgpool(self.forward_features(x)).flatten(1))

    def _make_stem(
        self,
        stem: str,
        conv: ConvFactory,
        norm: ModuleFactory,
        activation: ModuleFactory,
        inputs: int,
        width: int,
        downsample: DownsampleFactory | None,
        pool_only: bool,
        max_pool: nn.Module | None,
    ) -> None:
        imagenet = stem == "imagenet"
        self.conv1 = (
            conv(inputs, width, 7, stride=2 if pool_only else 1, padding=3)
            if imagenet
            else conv(inputs, width, 3, stride=1, padding=1)
        )
        self.bn1 = norm(width)
        self.relu = activation(width)
        if not imagenet:
            self.maxpool: nn.Module = nn.Identity()
        elif downsample is None:
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            slots = [at(downsample, f"maxpool.{place}") for place in ((1,) if pool_only else (0, 2))]
            first = [slot(width, 2) for slot in slots[:-1] if slot]
            last = [slot(width, 2) for slot in slots[-1:] if slot]
            self.maxpool = nn.Sequential(*first, max_pool or DenseMaxPool2d(2), *last)

    def initialise(self, zero_init_residual: bool) -> None:
        for name, module in self.named_modules():
            if name.split(".")[0] == "stem":
                continue
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, Bottleneck):
                _zero(module.bn3)
            elif zero_init_residual and isinstance(module, BasicBlock):
                _zero(module.bn2)


def resnet(name: str, **options: Any) -> ResNet:
    """The network of `FAMILY` called `name`, with `ResNet`'s options; ValueError for an unknown name."""
    if name not in FAMILY:
        raise ValueError(f"a ResNet is one of {', '.join(FAMILY)}, got {name!r}")
    return ResNet(**{**FAMILY[name], **options})


def _zero(norm: nn.Module) -> None:
    weight = getattr(norm, "weight", None)
    if isinstance(weight, Tensor):
        nn.init.zeros_(weight)


def _slot(channels: int, stride: int, downsample: DownsampleFactory | None) -> tuple[Downsample | None, int]:
    """(the Downsample or None, the stride left to the convolution)."""
    if downsample is None or stride == 1:
        return None, stride
    return downsample(channels, stride), 1


def resnet_for(name: str, *, image_size: int, width: float = 1.0, pool_only: bool = True, **options: Any) -> ResNet:
    """The network of `FAMILY` called `name` for square images of `image_size` pixels; `width` multiplies the channels.
    `pool_only` has no effect on a stem without stride or a network without a Downsample."""
    widths = [scaled(n, width) for n in FAMILY.get(name, {}).get("widths", (64, 128, 256, 512))]
    small = image_size <= SMALL or len(widths) == 3
    dense = small or options.get("downsample") is None
    return resnet(
        name, **{"stem": "cifar" if small else "imagenet", "widths": widths, "pool_only": pool_only or dense, **options}
    )
