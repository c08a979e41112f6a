"""Laws of the surgery: sizes stay, whatever the layer; with nothing but subsampling for a filter, so do the numbers."""

from contextlib import suppress

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision import models

from stillpoint.core.layers import downsample_factory
from stillpoint.core.surgery.antialias import POLICIES, antialias

BARE = downsample_factory("subsample")
BLUR = downsample_factory("blur", size=4, padding="replicate")


@st.composite
def strided_layers(draw: st.DrawFn) -> nn.Module:
    kind = draw(st.sampled_from([nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d]))
    two = st.tuples(st.integers(1, 4), st.integers(1, 4))
    kernel, stride = draw(two), draw(two)
    pads = [draw(st.integers(0, k // 2 if kind is not nn.Conv2d else 2)) for k in kernel]
    padding = (pads[0], pads[1])
    if kind is nn.Conv2d:
        return nn.Conv2d(3, 4, kernel, stride, padding, dilation=draw(st.integers(1, 2)))
    if kind is nn.MaxPool2d:
        return nn.MaxPool2d(kernel, stride, padding, draw(st.integers(1, 2)), ceil_mode=draw(st.booleans()))
    return nn.AvgPool2d(kernel, stride, padding, draw(st.booleans()), count_include_pad=draw(st.booleans()))


@given(strided_layers(), st.tuples(st.integers(1, 20), st.integers(1, 20)), st.booleans())
@settings(deadline=None, max_examples=150)
@torch.no_grad()
def test_sizes_stay_and_without_a_filter_the_numbers_too(layer: nn.Module, size: tuple[int, int], blur: bool) -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 1), layer, nn.ReLU(), nn.Identity())
    x = torch.randn(2, 2, *size)
    try:
        before = net(x)
    except RuntimeError:  # the window is larger than the map
        assume(False)
    with suppress(ValueError):  # a layer that does not stride or is left: its own tests say which
        antialias(net, downsample=BLUR if blur else BARE, verbose=False)
    after = net(x)
    assert after.shape == before.shape
    if not blur:
        torch.testing.assert_close(after, before)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "googlenet", "squeezenet1_0", "mobilenet_v3_small"])
@pytest.mark.parametrize("side", [64, 81])
@torch.no_grad()
def test_a_network_without_a_filter_computes_what_it_did(name: str, side: int) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    net = getattr(models, name)(weights=None, **options).eval()
    x = torch.randn(1, 3, side, side)
    before = net(x)
    report = antialias(net, POLICIES, downsample=BARE, verbose=False)
    assert not report.left
    torch.testing.assert_close(net(x), before)


@pytest.mark.parametrize("name", ["densenet121", "googlenet", "squeezenet1_0"])
@torch.no_grad()
def test_pools_of_networks_keep_their_sizes(name: str) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    net = getattr(models, name)(weights=None, **options).eval()
    pools = {n: m for n, m in net.named_modules() if isinstance(m, nn.MaxPool2d | nn.AvgPool2d)}
    seen: list[torch.Size] = []

    def run() -> list[torch.Size]:
        seen.clear()
        hooks = [net.get_submodule(n).register_forward_hook(lambda m, x, y: seen.append(y.shape)) for n in pools]
        net(torch.randn(1, 3, 97, 97))
        for hook in hooks:
            hook.remove()
        return list(seen)

    before = run()
    antialias(net, POLICIES, verbose=False)
    assert run() == before


@pytest.mark.parametrize(
    ("layer", "after"),
    [
        (nn.Conv2d(3, 3, 3, (2, 1), 1), "stride 1, BlurPool2d of 4 taps, stride (2, 1) behind 2"),
        (nn.Conv2d(3, 3, 1, (1, 2)), "BlurPool2d of 4 taps, stride (1, 2) - 1x1 convolution of stride 1"),
        (nn.Conv2d(3, 3, 1, 2, padding=1), "stride 1, BlurPool2d of 4 taps, stride 2 behind 2"),
        (nn.Conv2d(3, 3, 2, 2, dilation=2), "stride 1, BlurPool2d of 4 taps, stride 2 behind 2"),
        (nn.MaxPool2d(3, (2, 1), 1), "3x3 max-pool of stride 1 - BlurPool2d of 4 taps, stride (2, 1)"),
        (nn.AvgPool2d((1, 2)), "BlurPool2d of 4 taps, stride 1 - 1x2 average pool of stride (1, 2)"),
        (nn.MaxPool2d(3, 2, ceil_mode=True), "3x3 max-pool of stride 1 - BlurPool2d of 4 taps, stride 2"),
    ],
    ids=["conv", "1x1", "padded 1x1", "dilated", "max_pool", "average_pool", "ceil_mode"],
)
def test_strides_of_rows_and_columns_and_ceil_mode_are_treated(layer: nn.Module, after: str) -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 1), layer, nn.ReLU(), nn.Flatten())
    report = antialias(net, verbose=False)
    assert [change.after for change in report.changes] == [after]


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.MaxPool2d(2, 2, 1, ceil_mode=True), "its ceil_mode drops windows that begin outside the map"),
        (nn.AvgPool2d(8), "it averages over 8 pixels already, and the filter over 4"),
        (nn.LPPool2d(2, 2), "only convolutions, max-pools and average pools are treated"),
    ],
)
def test_what_cannot_be_treated_is_left_with_the_reason(layer: nn.Module, reason: str) -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.MaxPool2d(2), layer)
    report = antialias(net, verbose=False)
    assert report.left == [("2", reason)]
    assert net[2] is layer
