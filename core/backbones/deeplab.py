"""DeepLabV3+, whose decoder can upsample on the grids that its backbone chose when downsampling.

Chen et al., "Encoder-decoder with atrous separable convolution for semantic image segmentation", ECCV 2018; with
learnable polyphase upsampling: Rojas-Gomez et al., NeurIPS 2022.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillpoint.core.backbones.resnet import CONV_PADDINGS, ResNet
from stillpoint.core.base.errors import UserError
from stillpoint.core.layers.downsample import Downsample, Grid
from stillpoint.core.layers.fused_sequential import FusedSequential
from stillpoint.core.layers.padding import PaddedConv2d

#: (channels) -> a module (y, grid, size=(H, W)) -> the map of that size, on the grid that the backbone sampled
UpsampleFactory = Callable[[int], nn.Module]


class AtrousPyramid(nn.Module):
    """ASPP: a 1x1 convolution, dilated 3x3 convolutions and the global mean in parallel, merged by a 1x1 convolution.

    (B, inputs, h, w) -> (B, channels, h, w).

    Args:
        rates: dilations of the 3x3 convolutions.
        conv_padding: their padding.
        last_padding: padding of the last one; None: `conv_padding`.
        dropout: rate after the merging convolution.

    Raises:
        UserError: in training, a batch of one image.
    """

    def __init__(
        self,
        inputs: int,
        channels: int = 256,
        *,
        rates: Sequence[int] = (6, 12, 18),
        conv_padding: str = "zeros",
        last_padding: str | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        branches: list[nn.Module] = [_convolution(inputs, channels, 1)]
        for number, rate in enumerate(rates, 1):
            padding = last_padding if last_padding and number == len(rates) else conv_padding
            branches.append(_convolution(inputs, channels, 3, padding=padding, dilation=rate))
        branches.append(_convolution(inputs, channels, 1))
        self.convs = nn.ModuleList(branches)
        self.project = FusedSequential(*_convolution(channels * len(branches), channels, 1), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            raise UserError(
                "DeepLabV3+ cannot train on a batch of one image, because it batch-normalises each image's mean: "
                "choose a TRAIN.BATCH_SIZE that leaves no batch of one"
            )
        *local, whole = self.convs
        found = [branch(x) for branch in local]
        found.append(whole(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:]))
        return self.project(torch.cat(found, 1))


class DeepLabV3Plus(nn.Module):
    """A segmenter: (B, in_channels, H, W) -> class scores (B, num_classes, H, W).

    Args:
        backbone: a ResNet, whose `fc` is removed. Its strides are kept, not replaced by dilation.
        num_classes: number of classes.
        upsample: factory of the layers that upsample by 2 on a grid of the backbone: first the last map to the size of
            the first stage's, then the class scores to the size of the image. None: bilinear interpolation.
        channels: of the decoder, which reduces the first stage's map to 3/16 as many.
        rates: dilations of the `AtrousPyramid`, for a stride of 16; (12, 24, 36) are usual for a stride of 8.
        conv_padding: "zeros", "circular", "reflect" or "replicate", for the decoder's convolutions.
        last_rate_padding: padding of the pyramid's last rate only. The published code of learnable polyphase sampling
            pads it with zeros in circular networks too.

    Raises:
        ValueError: an unknown padding; with `upsample`, a backbone that does not choose its grid at every stride.
        UserError: in training, a batch of one image.

    Law: with circular padding throughout, and a backbone and upsampling layers that share their grids, the scores shift
    circularly with the image, as long as every side is a multiple of the backbone's stride.
    """

    def __init__(
        self,
        backbone: ResNet,
        num_classes: int,
        *,
        upsample: UpsampleFactory | None = None,
        channels: int = 256,
        rates: Sequence[int] = (6, 12, 18),
        conv_padding: str = "zeros",
        last_rate_padding: str | None = None,
    ) -> None:
        super().__init__()
        for padding in (conv_padding, last_rate_padding or conv_padding):
            if padding not in CONV_PADDINGS:
                raise ValueError(
                    f"conv_padding and last_rate_padding must be one of {', '.join(CONV_PADDINGS)}, got {padding!r}"
                )
        low, high = _widths(backbone)
        self.backbone = backbone
        backbone.fc = nn.Identity()  # type: ignore[assignment]
        few = max(1, channels * 3 // 16)
        self.low = _convolution(low, few, 1)
        self.aspp = AtrousPyramid(
            high, channels, rates=rates, conv_padding=conv_padding, last_padding=last_rate_padding
        )
        joined = _convolution(few + channels, channels, 3, padding=conv_padding)
        self.head = FusedSequential(*joined, nn.Conv2d(channels, num_classes, 1))
        self._initialise()
        self.ups = self.last_ups = None
        if upsample is not None:
            before, after = _choosers(backbone)
            self.ups = nn.ModuleList(upsample(channels) for _ in after)
            self.last_ups = nn.ModuleList(upsample(num_classes) for _ in before)

    def forward(self, x: Tensor) -> Tensor:
        with _kept(self.backbone) as grids:
            low, high = self._features(x)
        y = self.aspp(high)
        if self.ups is None or self.last_ups is None:
            y = _resized(y, low.shape[2:])
            return _resized(self._decoded(low, y), x.shape[2:])
        # the grids in the order of upsampling
        path = [grids[m] for m in reversed(list(grids))]
        for up, (grid, size) in zip(self.ups, path, strict=False):
            y = up(y, grid, size=size)
        y = self._decoded(low, y)
        for up, (grid, size) in zip(self.last_ups, path[len(self.ups) :], strict=True):
            y = up(y, grid, size=size)
        return y

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The maps of the first and the last stage."""
        found: list[Tensor] = []
        first = self.backbone.get_submodule(self.backbone.stages[0])
        handle = first.register_forward_hook(lambda module, inputs, output: found.append(output))
        try:
            high = self.backbone.forward_features(x)
        finally:
            handle.remove()
        return found[0], high

    def _decoded(self, low: Tensor, y: Tensor) -> Tensor:
        return self.head(torch.cat([self.low(low), y], 1))

    def _initialise(self) -> None:
        for part in (self.low, self.aspp, self.head):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight)


def _convolution(inputs: int, outputs: int, size: int, *, padding: str = "zeros", dilation: int = 1) -> FusedSequential:
    options: dict[str, Any] = {"padding": size // 2 * dilation, "dilation": dilation, "padding_mode": padding}
    conv = PaddedConv2d(inputs, outputs, size, bias=False, **options)
    return FusedSequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _resized(y: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(y, size, mode="bilinear", align_corners=False)


def _widths(backbone: ResNet) -> tuple[int, int]:
    """Channels of the first and the last stage."""
    found = []
    for name in (backbone.stages[0], backbone.stages[-1]):
        block = backbone.get_submodule(name)[-1]  # type: ignore[index]
        last = block.bn3 if hasattr(block, "bn3") else block.bn2
        found.append(last.num_features)
    return found[0], found[1]


def _choosers(net: nn.Module) -> tuple[list[str], list[str]]:
    """Paths of the grid-choosing layers before the first stage, and of those from it on; ValueError if a convolution or
    max-pool strides, or no layer chooses a grid."""
    names = [name for name, m in net.named_modules() if isinstance(m, Downsample) and m.chooses]
    strided = [
        name for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d) and m.stride in (2, (2, 2))
    ]
    if strided or not names:
        where = strided[0] if strided else "its strides"
        raise ValueError(f"upsampling needs a backbone that chooses its grids, but it chooses none at {where}")
    before = [name for name in names if not name.startswith("layer")]
    return before, names[len(before) :]


@contextmanager
def _kept(net: nn.Module) -> Iterator[dict[nn.Module, tuple[Grid, tuple[int, int]]]]:
    """Records, in the order of execution, each grid that a layer of `net` chooses and the sides (H, W) of the map that
    it sampled."""
    found: dict[nn.Module, tuple[Grid, tuple[int, int]]] = {}
    asked: dict[nn.Module, bool] = {}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        asked[module] = kwargs.get("return_grid", False)
        return args, {**kwargs, "return_grid": True}

    def after(module: nn.Module, args: Any, output: tuple[Tensor, Grid]) -> Any:
        found[module] = output[1], (args[0].shape[2], args[0].shape[3])
        return output if asked[module] else output[0]

    layers = [m for m in net.modules() if isinstance(m, Downsample) and m.chooses]
    handles = [m.register_forward_pre_hook(before, with_kwargs=True) for m in layers]
    handles += [m.register_forward_hook(after, prepend=True) for m in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
