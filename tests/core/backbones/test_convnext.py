from functools import partial

import pytest
import torch

from stillpoint.core.backbones.convnext import ConvNeXt, convnext
from stillpoint.core.data.shifts import fourier_shift
from stillpoint.core.layers import (
    BlurPool2d,
    ChannelNorm2d,
    IdealLowPass2d,
    PolynomialActivation2d,
    PolyphaseDownsample2d,
)

SMALL = {"depths": (1, 1, 1, 1), "widths": (8, 12, 16, 24), "num_classes": 10}
AFC = {
    "downsample": IdealLowPass2d,
    "activation": partial(PolynomialActivation2d, scale=7),
    "norm": ChannelNorm2d,
    "padding_mode": "circular",
    "stem_activation": partial(PolynomialActivation2d, form="filtered", scale=7),
    "whole_strides": True,
}


def hardest(net: ConvNeXt) -> ConvNeXt:
    """Gains and layer scales far from where they begin, so that every branch counts."""
    for name, parameter in net.named_parameters():
        if name.endswith(("gamma", "gain")):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        elif parameter.ndim > 1 and "coefficients" not in name:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return net.double().eval()


def change(net: ConvNeXt, size: int, shift: tuple[float, float]) -> float:
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        before, after = net(x), net(fourier_shift(x, shift))
    return float(((after - before).norm(dim=1) / before.norm(dim=1)).max())


@pytest.mark.parametrize(("options", "parameters"), [({}, 28_589_128), (AFC, 28_668_943)])
def test_tiny_has_as_many_parameters_as_the_authors(options: dict, parameters: int) -> None:
    assert sum(p.numel() for p in convnext("convnext_tiny", **options).parameters()) == parameters


@pytest.mark.parametrize("shift", [(5, -7), (0.5, 0.5), (0.25, 0.75)])
def test_alias_free_logits_do_not_feel_any_shift(shift: tuple[float, float]) -> None:
    assert change(hardest(ConvNeXt(**SMALL, **AFC)), 96, shift) < 1e-12


@pytest.mark.parametrize(
    ("what", "least"),
    [
        ({"norm": partial(ChannelNorm2d, divisor="pixel")}, 1e-4),
        ({"activation": partial(PolynomialActivation2d, form="pointwise", scale=7)}, 1e-3),
        ({"padding_mode": "zeros"}, 1e-3),
        ({"downsample": partial(BlurPool2d, size=3, padding="circular")}, 1e-3),
        ({"downsample": partial(IdealLowPass2d, keep_norm=True)}, 1e-5),
        ({"stem_activation": partial(PolynomialActivation2d, form="filtered", scale=7, cutoff=1.0)}, 1e-4),
    ],
)
def test_each_part_is_needed(what: dict, least: float) -> None:
    assert change(hardest(ConvNeXt(**SMALL, **(AFC | what))), 96, (0.25, 0.25)) > least


def test_polyphase_sampling_stands_whole_pixels_and_not_halves() -> None:
    options = {"padding_mode": "circular", "stem_steps": 2, "downsample": PolyphaseDownsample2d}
    net = hardest(ConvNeXt(**SMALL, **options))
    assert change(net, 96, (5, -7)) < 1e-12 and change(net, 96, (0.5, 0.5)) > 1e-2


def test_other_sizes_are_refused_where_the_law_would_be_lost() -> None:
    with pytest.raises(ValueError, match="100x96 pixels are not sampled evenly: both sides must be multiples of 32"):
        ConvNeXt(**SMALL, **AFC)(torch.zeros(1, 3, 100, 96))
    assert change(hardest(ConvNeXt(**SMALL, **(AFC | {"whole_strides": False}))), 100, (5, -7)) > 1e-4


def test_a_finer_map_around_the_block_is_the_same_function() -> None:
    options = {"downsample": IdealLowPass2d, "norm": ChannelNorm2d, "padding_mode": "circular"}
    poly = partial(PolynomialActivation2d, scale=7)
    cheap = hardest(ConvNeXt(**SMALL, **options, activation=poly))
    dear = ConvNeXt(**SMALL, **options, activation=partial(poly, form="pointwise"), resample=True).double().eval()
    dear.load_state_dict(cheap.state_dict())
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(dear(x), cheap(x))


def test_stages_and_parts() -> None:
    net = convnext("convnext_mini", in_channels=1, num_classes=10, stem_kernel=3, stem_stride=1)
    assert [(f.channels, f.stride) for f in net.feature_info] == [(48, 1), (48, 1), (96, 2), (192, 4)]
    assert net(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    assert net.forward_features(torch.zeros(2, 1, 32, 32)).shape == (2, 192, 8, 8)


def test_paths_are_dropped_by_image_and_only_in_training() -> None:
    net = ConvNeXt(**SMALL, drop_path=0.5)
    rates = [block.drop_path.rate for stage in net.stages for block in stage]
    assert rates == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2])
    x = torch.ones(64, 2, 1, 1)
    drop = net.stages[3][0].drop_path
    torch.manual_seed(0)
    assert set(drop(x)[:, 0].flatten().tolist()) == {0.0, 2.0} and torch.equal(drop.eval()(x), x)
    with pytest.raises(ValueError, match=r"\[0, 1\), got 1"):
        ConvNeXt(**SMALL, drop_path=1.0)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="3 depths and 4 widths"):
        ConvNeXt(depths=(1, 1, 1), widths=(8, 8, 8, 8))
    with pytest.raises(ValueError, match="got stem_stride=2 and stem_steps=2"):
        ConvNeXt(stem_stride=2, stem_steps=2)
    with pytest.raises(ValueError, match="got 'convnext_giant'"):
        convnext("convnext_giant")
