"""The authors' ``replicate_pad``: 3x3 convolutions that pad by 3 pixels, so that each enlarges its map by 4 pixels.

Their CIFAR-10 networks offer it beside circular, zero and reflection padding. It looks like a slip (1 pixel would keep
the size), but their checkpoints may need it. No reference result shows how they fit a shortcut to its main branch; here
its borders are replicated evenly after its projection, which in evaluation is equivalent to doing so before.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from stillpoint.core.backbones.resnet import BasicBlock, Bottleneck, ResidualBlock, ResNet
from stillpoint.core.layers.downsample import Grid
from stillpoint.core.layers.norm_act import norm_act

MARGIN = 3


def growing_conv(
    inputs: int, outputs: int, kernel_size: int, *, stride: int, padding: int, **options: Any
) -> nn.Conv2d:
    """A convolution factory for `ResNet` that pads by 3 replicated pixels instead of `padding`."""
    return nn.Conv2d(
        inputs, outputs, kernel_size, stride=stride, padding=MARGIN, padding_mode="replicate", bias=False, **options
    )


class _Growing(ResidualBlock):
    def _joined(self, y: Tensor, conv: nn.Module, norm: nn.Module, x: Tensor, grid: Grid | None) -> Tensor:
        y = conv(y)
        return (
            norm_act(y, norm, self.relu, self._grown(self._identity(x, grid), y))
            if self.shortcut
            else norm_act(y, norm)
        )

    def _grown(self, identity: Tensor, y: Tensor) -> Tensor:
        rows, columns = y.shape[-2] - identity.shape[-2], y.shape[-1] - identity.shape[-1]
        pads = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        return F.pad(identity, pads, mode="replicate")


class GrowingBasicBlock(_Growing, BasicBlock):
    """A `BasicBlock` whose shortcut is padded by replication to the size of the main branch."""


class GrowingBottleneck(_Growing, Bottleneck):
    """A `Bottleneck` whose shortcut is padded by replication to the size of the main branch."""


BLOCKS: dict[type, type] = {BasicBlock: GrowingBasicBlock, Bottleneck: GrowingBottleneck}


def grow_stem(net: ResNet) -> None:
    """Gives the first convolution of a CIFAR stem the same padding, keeping its weights."""
    old = net.get_submodule("conv1")
    assert isinstance(old, nn.Conv2d)
    net.conv1 = growing_conv(old.in_channels, old.out_channels, 3, stride=1, padding=1)
    net.conv1.weight = old.weight
