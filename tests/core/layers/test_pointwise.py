"""The strided 1x1 convolution, in a process of its own: what it guards against writes past the end of an array."""

import pytest
import torch

from stillpoint.core.layers.pointwise import PointwiseConv2d
from tests import fresh

PROGRAM = """
import torch
from stillpoint.core.layers.pointwise import PointwiseConv2d
for channels, side in ((channels, side) for channels in range(1, 18) for side in (16, 64)):
    conv = PointwiseConv2d(channels, 12, stride=2, bias=False).to(memory_format=torch.channels_last)
    for _ in range(3):
        x = torch.randn(4, channels, side, side).to(memory_format=torch.channels_last)
        conv(x).square().sum().backward()
print("whole")
"""


def test_the_gradient_of_narrow_strided_weights_stays_in_its_array() -> None:
    done = fresh.run(["-c", PROGRAM])
    assert done.stdout == "whole\n", done.stderr[-500:]


@pytest.mark.parametrize("channels", [3, 8, 16])
@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_it_is_the_convolution_of_its_name(channels: int, size: tuple[int, int]) -> None:
    conv = PointwiseConv2d(channels, 5, stride=2)
    plain = torch.nn.Conv2d(channels, 5, 1, stride=2)
    plain.load_state_dict(conv.state_dict())
    x = torch.randn(2, channels, *size)
    torch.testing.assert_close(conv(x), plain(x))
