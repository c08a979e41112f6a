from functools import partial

import pytest
import torch
from torch import Tensor

from stillpoint.core.backbones.phase_control import record_grids
from stillpoint.core.backbones.unet import UNet
from stillpoint.core.layers.blur import BlurPool2d
from stillpoint.core.layers.lowpass import IdealLowPass2d
from stillpoint.core.layers.polyphase import PolyphaseDownsample2d
from stillpoint.core.layers.slots import instance_norm

WIDTHS = (4, 8, 16, 32)


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def aps(size: int, **options) -> UNet:
    down = partial(PolyphaseDownsample2d, size=size, select="after_blur")
    return UNet(widths=WIDTHS, downsample=down, **options).eval()


def test_the_full_network_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        net = UNet(1, 1, downsample=PolyphaseDownsample2d)
    assert sum(p.numel() for p in net.parameters()) == 31_042_369


@pytest.mark.parametrize("downsample", [None, partial(BlurPool2d, size=3), IdealLowPass2d])
@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_image_to_image_of_the_same_size(downsample, padding: str) -> None:
    net = UNet(2, 3, widths=WIDTHS, downsample=downsample, conv_padding=padding).eval()
    assert net(images(2, 2, 16, 24)).shape == (2, 3, 16, 24)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_polyphase_circular_unet_commutes_with_circular_shifts(size: int) -> None:
    net, x = aps(size, conv_padding="circular"), images(2, 1, 24, 16)
    with torch.no_grad():
        y = net(x)
        for shift in [(1, 0), (0, 1), (5, -3)]:
            moved = net(x.roll(shift, (2, 3))).roll([-n for n in shift], (2, 3))
            assert (moved - y).abs().max() < 1e-5 * y.abs().max()


@pytest.mark.parametrize("downsample", [None, partial(BlurPool2d, size=3, padding="circular")])
def test_fixed_grids_do_not_commute_with_circular_shifts(downsample) -> None:
    net, x = UNet(widths=WIDTHS, downsample=downsample, conv_padding="circular").eval(), images(2, 1, 16, 16)
    with torch.no_grad():
        y = net(x)
        assert (net(x.roll((1, 1), (2, 3))).roll((-1, -1), (2, 3)) - y).abs().max() > 1e-4 * y.abs().max()


def test_upsampling_uses_the_phase_of_its_own_level() -> None:
    net, x = aps(1, conv_padding="circular"), images(2, 1, 16, 16)
    with record_grids(net) as found, torch.no_grad():
        net(x)
    seen = []
    for up in net.ups:
        up.unpool.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    with torch.no_grad():
        net(x)
    assert [s.name for s in found] == ["downs.0.pool", "downs.1.pool", "downs.2.pool"]
    assert all(torch.equal(phase, s.phase) for phase, s in zip(seen, reversed(found), strict=True))


def test_instance_norm_has_no_parameters_and_depends_on_no_other_image() -> None:
    net, x = UNet(widths=WIDTHS, norm=instance_norm, conv_padding="circular"), images(2, 1, 16, 16)
    torch.testing.assert_close(net(x)[:1], net(x[:1]), rtol=1e-4, atol=1e-5)
    # Sequential places 1 and 4 are the norms
    assert not [name for name, _ in net.named_parameters() if name.split(".")[-2] in ("1", "4")]


def test_a_bottom_map_of_odd_side_is_allowed() -> None:
    # 24 = 8 * 3: every map that is subsampled is even, only the last is not
    assert aps(3, conv_padding="circular")(images(1, 1, 24, 8)).shape == (1, 1, 24, 8)


@pytest.mark.parametrize("size", [(20, 16), (16, 12), (15, 16)])
def test_other_sizes_are_refused_with_the_multiple(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"multiples of 8, got {size[0]}x{size[1]}"):
        UNet(widths=WIDTHS)(images(1, 1, *size))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"conv_padding": "reflect"}, "zeros, circular, got 'reflect'"),
        ({"widths": (4, 8, 12)}, r"\(4, 8, 12\)"),
        ({"widths": (4,)}, r"\(4,\)"),
    ],
)
def test_impossible_options_are_refused_by_name(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        UNet(**options)
