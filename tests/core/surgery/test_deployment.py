"""Treated networks leave Python as others do, and keep what was attached to their layers."""

import copy
import io
import pickle
from typing import Any

import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torchvision import models

import stillpoint
from stillpoint.core.layers import BlurPool2d
from stillpoint.core.surgery.antialias import POLICIES, antialias
from stillpoint.core.surgery.cost import cost
from stillpoint.core.surgery.filtered import Filtered
from stillpoint.core.surgery.report import SMALL_MAPS


def treated(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    net = timm.create_model(name).eval()
    antialias(net, verbose=False, **options)
    return net


INVARIANT = {"downsample": "polyphase", "padding": "circular"}
IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


SCRIPTED = [
    *((name, options) for name in ("test_resnet", "test_efficientnet", "test_convnext") for options in ({}, INVARIANT)),
    *((name, {}) for name in ("resnet10t", "regnetx_002", "mobilenetv3_small_050", "ghostnet_050")),
    *((name, INVARIANT) for name in ("resnet10t", "regnety_002", "mobilenetv2_035")),
    *(("test_resnet", {"downsample": name}) for name in ("ideal_lowpass", "adaptive_blur")),
]


@pytest.mark.parametrize(("name", "options"), SCRIPTED)
@torch.no_grad()
def test_a_treated_network_scripts_for_every_size_and_is_written_to_a_file(name: str, options: dict[str, Any]) -> None:
    net = treated(name, **options)
    kept = io.BytesIO()
    torch.jit.save(torch.jit.script(net), kept)
    kept.seek(0)
    scripted = torch.jit.load(kept)
    # the optimiser's first passes take longer than all else
    with torch.jit.optimized_execution(False):
        for x in (IMAGE, IMAGE[..., :33, :32]):
            y = net(x)
            torch.testing.assert_close(scripted(x), y, rtol=1e-4, atol=1e-5 * float(y.abs().max()))
    assert torch.equal(pickle.loads(pickle.dumps(net))(IMAGE), net(IMAGE))
    assert antialias(copy.deepcopy(net), verbose=False).changes == []


class Residual(nn.Module):
    """A block with a shortcut, both of which stride."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1))
        self.shortcut = nn.Conv2d(4, 4, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class Merging(Residual):
    """One that would merge its branches into a convolution."""

    stride = 2

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.stride

    def reparameterize(self) -> None:
        self.body = nn.Conv2d(4, 4, 3, self.stride, 1)


@pytest.fixture(params=[{}, INVARIANT], ids=["blurred", "invariant"])
def small(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    stem = (nn.Conv2d(3, 4, 3, 2, 1), nn.MaxPool2d(3, 2, 1))
    net = nn.Sequential(*stem, Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    antialias(net, POLICIES, verbose=False, **request.param)
    return net


@torch.no_grad()
def test_a_treated_network_is_recorded(small: nn.Module) -> None:
    torch.testing.assert_close(torch.jit.trace(small, IMAGE)(IMAGE), small(IMAGE))


@torch.no_grad()
def test_a_treated_network_is_exported_for_every_size(small: nn.Module) -> None:
    sizes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(small, (IMAGE,), dynamic_shapes=(sizes,)).module()
    other = torch.randn(3, 3, 96, 128)
    torch.testing.assert_close(exported(other), small(other))


@torch.no_grad()
def test_a_treated_network_is_compiled_in_one_piece(small: nn.Module) -> None:
    torch._dynamo.reset()
    assert torch._dynamo.explain(small)(IMAGE).graph_break_count == 0


@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0", "fastvit_t8", "efficientvit_m0"])
@torch.no_grad()
def test_merging_the_branches_keeps_the_filters(name: str) -> None:
    net = treated(name, policy=POLICIES)
    x = torch.randn(1, 3, *[224 if name == "efficientvit_m0" else 64] * 2)
    expected = net(x)
    merged = reparameterize_model(net)
    assert len(list(merged.parameters())) < len(list(net.parameters()))
    torch.testing.assert_close(merged(x), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_what_would_drop_filters_when_merged_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), Merging())
    antialias(net, verbose=False)
    for twin in (net, copy.deepcopy(net)):
        with pytest.raises(ValueError, match="would drop the filters of this Merging: call it before antialias"):
            reparameterize_model(twin)
    assert isinstance(net[1], Merging) and net(IMAGE).shape == (2, 4, 31, 31)


@torch.no_grad()
def test_merging_norms_into_convolutions_keeps_the_filters() -> None:
    net = models.resnet18(weights=None).eval()
    antialias(net, verbose=False)
    torch.testing.assert_close(fuse(net)(IMAGE), net(IMAGE), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_hooks_see_what_they_saw() -> None:
    net = models.resnet18(weights=None).eval()
    seen: list[torch.Size] = []
    for module in (net.maxpool, net.layer2[0].downsample[0]):
        module.register_forward_hook(lambda module, inputs, y: seen.append(y.shape))
    net(IMAGE)
    antialias(net, verbose=False)
    net(IMAGE)
    assert len(seen) == 4 and seen[:2] == seen[2:]


@torch.no_grad()
def test_the_cost_is_told() -> None:
    net = models.resnet18(weights=None)
    plain = cost(net, torch.randn(1, 3, 224, 224))
    assert plain.multiply_adds == pytest.approx(1.814e9, rel=1e-3) and net.training
    usual, cheap = copy.deepcopy(net), copy.deepcopy(net)
    report = antialias(usual, example=IMAGE, verbose=False)
    assert "multiply-adds 0.383 G, was 0.297 G" in report.notes[-1] and report.notes[0] == SMALL_MAPS
    antialias(cheap, where="before", verbose=False)
    assert 0.297e9 < cost(cheap, IMAGE).multiply_adds < 0.8 * cost(usual, IMAGE).multiply_adds


@torch.no_grad()
def test_timm_builds_networks_with_our_filters() -> None:
    net = timm.create_model("resnet18", aa_layer=stillpoint.layers.BlurPool2d).eval()
    assert sum(isinstance(m, BlurPool2d) for m in net.modules()) == 4
    assert stillpoint.antialias(net, verbose=False).left == [("conv1", "the stem is not in the policy")]
    assert not any(isinstance(m, Filtered) for m in net.layer2[0].modules() if isinstance(m, nn.ReLU))
    assert net(IMAGE).shape == (2, 1000)
