"""Where the surgery finds something to treat: families of networks, parts of them, summands in register."""

import copy
import pickle
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from timm.layers.pool2d_same import MaxPool2dSame
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import models

from stillpoint.core.surgery.antialias import POLICIES, antialias
from stillpoint.core.surgery.filtered import Filtered


class Strides(TorchDispatchMode):
    """Counts the convolutions and max-pools that run with kernel > stride > 1, whoever calls them; groups of channels
    with one input each and equal taps, which filters are, do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name == "aten::convolution":
            weight, stride = args[1], args[3]
            filters = weight.shape[1] == 1 and bool((weight == weight[:1]).all())
            self.count += not filters and any(k > s > 1 for k, s in zip(weight.shape[2:], stride, strict=True))
        elif name.startswith("aten::max_pool"):
            self.count += any(k > s > 1 for k, s in zip(args[1], args[2] or args[1], strict=True))
        return func(*args, **(kwargs or {}))


def count(net: nn.Module, x: Tensor) -> int:
    with torch.no_grad(), Strides() as strides:
        net(x)
    return strides.count


# overlapping strides before, and after under the default policy, which leaves the stem
FAMILIES = {
    "poolformer_s12": (4, 1),
    "mambaout_femto": (5, 1),
    "pvt_v2_b0": (4, 1),
    "repvgg_a0": (5, 1),
    "mobileone_s0": (17, 1),
    "fastvit_t8": (8, 1),
    "ghostnet_050": (9, 1),
    "hrnet_w18_small": (23, 1),
    "rexnet_100": (5, 1),
    "inception_v3": (9, 3),  # two max-pools are functions, and are reported
    "resnet18": (5, 1),
    "efficientnet_b0": (5, 1),
    "tf_efficientnet_lite0": (5, 1),
}


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_every_overlapping_stride_behind_the_stem_is_treated(name: str) -> None:
    torch.manual_seed(0)
    net = timm.create_model(name).eval()
    x = torch.randn(1, 3, 96, 96)
    before, keys, bare = net(x), list(net.state_dict()), copy.deepcopy(net)
    found = count(net, x)
    report = antialias(net, verbose=False)
    assert (found, count(net, x)) == FAMILIES[name]
    assert all(any(word in reason for word in ("stem", "function", "patches")) for _, reason in report.left)
    assert net(x).shape == before.shape and list(net.state_dict()) == keys
    # with nothing but subsampling for a filter, the numbers are the original's
    antialias(bare, downsample="subsample", verbose=False)
    torch.testing.assert_close(bare(x), before, rtol=1e-4, atol=1e-5 * float(before.abs().max()))
    again = antialias(net, verbose=False)
    assert again.changes == [] and again.left == report.left


@torch.no_grad()
def test_tracing_leaves_nothing_in_the_network() -> None:
    net = timm.create_model("levit_128s").eval()
    x = torch.randn(1, 3, 224, 224)
    antialias(net, verbose=False)
    torch.testing.assert_close(pickle.loads(pickle.dumps(net))(x), net(x))


class Keeper(nn.Module):
    """Remembers what it saw, and branches on it, so that it cannot be followed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.register_buffer("steps", torch.zeros(()))
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.alone = nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        self.steps += 1
        x = self.alone(self.body(x))
        return x if x.mean() > 0 else -x


@torch.no_grad()
def test_what_cannot_be_followed_is_treated_part_by_part() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), Keeper(), nn.MaxPool2d(3, 2, 1)).eval()
    bare, x = copy.deepcopy(net), torch.randn(1, 3, 40, 40)
    report = antialias(net, verbose=False)
    assert [change.name for change in report.changes] == ["2", "1.body.0", "1.alone"]
    assert [name for name, _ in report.untraced] == ["1"] and "1: its forward was not traced" in str(report)
    assert net[1].seen == [] and net[1].steps == 0
    before = bare(x)
    antialias(bare, downsample="subsample", verbose=False)
    torch.testing.assert_close(bare(x), before)
    assert net(x).shape == before.shape


@torch.no_grad()
def test_a_detector_is_treated_though_its_whole_is_not_followed() -> None:
    net = models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    report = antialias(net, verbose=False)
    assert "" in dict(report.untraced) and len(report.changes) > 6
    net([torch.rand(3, 320, 320)])


@pytest.mark.parametrize("side", [32, 33, 48])
@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2", "shufflenet_v2_x0_5"])
@torch.no_grad()
def test_small_images_pass(name: str, side: int) -> None:
    net, x = getattr(models, name)(weights=None).eval(), torch.randn(1, 3, side, side)
    shape = net(x).shape
    antialias(net, POLICIES, verbose=False)
    assert net(x).shape == shape and net(x).isfinite().all()


def test_patterns_choose_and_a_dry_run_changes_nothing() -> None:
    net = models.resnet18()
    before = repr(net)
    planned = antialias(net, dry_run=True, verbose=False)
    assert repr(net) == before and len(planned.changes) == 7
    assert str(antialias(copy.deepcopy(net), verbose=False)) == str(planned)
    report = antialias(net, include="layer[34].*", exclude=["layer4.*"], verbose=False)
    assert [change.name for change in report.changes] == ["layer3.0.conv1", "layer3.0.downsample.0"]
    assert ("layer4.0.conv1", "it is excluded") in report.left


def test_of_summands_all_are_treated_or_none() -> None:
    net = models.resnet18()
    report = antialias(net, exclude="layer3.0.downsample.*", verbose=False)
    assert dict(report.left)["layer3.0.conv1"] == "it is added to the output of layer3.0.downsample.0, which is left"
    assert "layer2.0.conv1" in [change.name for change in report.changes]
    net = models.resnet18()
    weight_norm(net.layer2[0].downsample[0])
    assert {"layer2.0.conv1", "layer2.0.downsample.0"} <= set(dict(antialias(net, verbose=False).left))


class Branches(nn.Module):
    """Two convolutions that stride, and their sum."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.large, self.small = nn.Conv2d(3, 4, 3, 2, 1), nn.Sequential(nn.Conv2d(3, 4, 1, 2), nn.BatchNorm2d(4))
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.large(x) + self.small(x))


def test_a_sum_of_strided_convolutions_is_filtered_once_behind_its_activation() -> None:
    net = Branches(nn.ReLU())
    report = antialias(net, POLICIES, verbose=False)
    assert isinstance(net.act, Filtered) and not isinstance(net.small[0], Filtered)
    assert {change.after for change in report.changes} == {"stride 1, BlurPool2d of 4 taps, stride 2 behind act"}
    net = nn.Sequential(Branches(nn.Identity()), nn.Conv2d(4, 4, 3))
    antialias(net, POLICIES, verbose=False)
    assert isinstance(net[0], Filtered) and net(torch.randn(1, 3, 16, 16)).shape == (1, 4, 6, 6)


def test_without_an_activation_the_filter_is_behind_the_convolution_itself() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, 2, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn(self.conv(self.first(x)))
            return torch.cat([y, y.relu()], 1)

    net = Net()
    assert antialias(net, verbose=False).changes[0].after.endswith("behind it")
    assert isinstance(net.conv, Filtered)


class TheirBlur(nn.Module):
    """A filter as antialiased-cnns and timm have it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filt", torch.full((4, 1, 2, 2), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, [0, 1, 0, 1]), self.filt, stride=2, groups=4)


def test_the_filters_of_others_are_known() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2, 1), TheirBlur())
    assert str(antialias(net, verbose=False)) == "nothing strides without a filter: nothing was changed"
    assert antialias(timm.create_model("resnetblur18"), verbose=False).left == [
        ("conv1", "the stem is not in the policy")
    ]


@torch.no_grad()
def test_the_cheap_mode_filters_in_front_and_strides_as_before() -> None:
    net, x = models.resnet18().eval(), torch.randn(1, 3, 64, 64)
    bare, before = copy.deepcopy(net), net(x)
    report = antialias(net, where="before", verbose=False)
    assert net.layer2[0].conv1.stride == (2, 2) and net.layer2[0].downsample[0].stride == (1, 1)
    assert report.changes[1].after == "BlurPool2d of 4 taps, stride 1 - 3x3 convolution of stride 2"
    assert net(x).shape == before.shape and not torch.equal(net(x), before)
    assert antialias(net, where="before", verbose=False).changes == []
    antialias(bare, where="before", downsample="subsample", verbose=False)
    torch.testing.assert_close(bare(x), before)


@pytest.mark.parametrize(
    ("step", "what"),
    [
        (lambda x: F.pixel_unshuffle(x, 2), "the function pixel_unshuffle"),
        (lambda x: F.interpolate(x, scale_factor=0.5), "the function interpolate"),
        (lambda x: F.adaptive_avg_pool2d(x, (2, 2)), "the function adaptive_avg_pool2d"),
        (lambda x: F.unfold(x, 3, stride=2), "unfold"),
        (lambda x: x.unfold(2, 3, 2), "unfold"),
        (lambda x: x.index_select(2, torch.tensor([0, 2])), "index_select"),
    ],
)
def test_what_leaves_pixels_out_without_a_layer_is_reported_where_it_stands(step: Any, what: str) -> None:
    class Part(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return step(x)

    report = antialias(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Part()), verbose=False)
    assert report.left == [("2", f"{what} inside its forward cannot be exchanged")]


@pytest.mark.parametrize(
    "layer", [nn.PixelUnshuffle(2), nn.AdaptiveAvgPool2d(7), nn.Upsample(scale_factor=0.5), nn.Unfold(3, stride=2)]
)
def test_layers_that_leave_pixels_out_are_reported(layer: nn.Module) -> None:
    report = antialias(nn.Sequential(nn.Conv2d(3, 4, 3), layer), verbose=False)
    assert [name for name, _ in report.left] == ["1"] and report.changes == []
    quiet = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Upsample(scale_factor=2))
    assert antialias(quiet, verbose=False).left == []


@pytest.mark.parametrize("side", [32, 33, 34, 35])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (3, 3), (2, 2), (6, 4)])
@torch.no_grad()
def test_windows_under_tensorflows_padding_stay_where_they_were(kernel: int, stride: int, side: int) -> None:
    layers = (Conv2dSame(4, 4, kernel, stride), nn.ReLU(), MaxPool2dSame(kernel, stride))
    net, x = nn.Sequential(nn.Conv2d(3, 4, 1), *layers), torch.randn(1, 3, side, side)
    before = net(x)
    antialias(net, downsample="subsample", verbose=False)
    torch.testing.assert_close(net(x), before)
