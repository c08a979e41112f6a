"""Surgery on networks that are not ours."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

import stillpoint
from stillpoint.core.backbones.resnet import resnet
from stillpoint.core.layers import BlurPool2d, Subsample, downsample_factory
from stillpoint.core.layers.dense_max_pool import DenseMaxPool2d
from stillpoint.core.surgery.antialias import POLICIES, antialias
from stillpoint.core.surgery.filtered import Filtered


def strides(net: nn.Module) -> list[str]:
    """Names of the layers that subsample without a filter."""
    return [
        name
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
        and (module.stride if isinstance(module.stride, int) else max(module.stride)) > 1
    ]


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_torchvision_resnet_becomes_our_antialiased_one(image: torch.Tensor) -> None:
    net = models.resnet18().eval()
    ours = resnet("resnet18", downsample=downsample_factory("blur", size=4), max_pool=DenseMaxPool2d(3, margin="same"))
    ours.load_state_dict(net.state_dict())
    antialias(net, verbose=False)
    assert torch.equal(net(image), ours.eval()(image))


@pytest.mark.parametrize(
    "name", ["resnet18", "resnext50_32x4d", "mobilenet_v2", "shufflenet_v2_x0_5", "regnet_y_400mf"]
)
@torch.no_grad()
def test_names_of_the_state_and_shapes_stay(name: str, image: torch.Tensor) -> None:
    net = getattr(models, name)().eval()
    keys, shape = list(net.state_dict()), net(image).shape
    report = antialias(net, verbose=False)
    assert list(net.state_dict()) == keys
    assert net(image).shape == shape
    # only the stem, which is not in the default policy, still strides
    assert [left for left, _ in report.left] == strides(net)
    assert len(strides(net)) == 1


@torch.no_grad()
def test_with_the_stem_nothing_strides_any_more(image: torch.Tensor) -> None:
    net = models.resnet18().eval()
    antialias(net, POLICIES, verbose=False)
    assert strides(net) == []
    assert net(image).shape == (1, 1000)


def test_one_policy_at_a_time() -> None:
    net = models.resnet18()
    report = antialias(net, "max_pool", verbose=False)
    assert [change.name for change in report.changes] == ["maxpool"]
    assert isinstance(net.maxpool, nn.MaxPool2d) and isinstance(net.maxpool.filter_behind, BlurPool2d)


def test_the_filter_is_behind_the_activation() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    antialias(net, verbose=False)
    assert isinstance(net[3], nn.ReLU) and isinstance(net[3].filter_behind, BlurPool2d)


def test_what_was_done_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    antialias(models.vgg11())
    assert capsys.readouterr().out.count("2x2 max-pool of stride 1 - BlurPool2d of 4 taps, stride 2") == 5


def test_patches_that_do_not_overlap_are_left_with_the_reason() -> None:
    report = antialias(models.convnext_tiny(), verbose=False)
    assert report.changes == [] and len(report.left) == 4
    assert "patches that do not overlap" in report.left[-1][1]


def test_a_part_that_branches_but_does_not_stride_is_no_hindrance() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.shape[-1] > 4 else -x

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), Branching())
    assert [change.name for change in antialias(net, verbose=False).changes] == ["2"]


def test_unknown_policies_and_adaptive_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="'everything'"):
        antialias(models.resnet18(), "everything")
    with pytest.raises(ValueError, match="an adaptive grid needs"):
        antialias(models.resnet18(), downsample=downsample_factory("polyphase"))


def test_a_network_that_does_not_stride_has_nothing_to_treat() -> None:
    report = antialias(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), verbose=False)
    assert str(report) == "nothing strides without a filter: nothing was changed"


@torch.no_grad()
def test_gradients_reach_all_parameters_and_the_original_checkpoint_loads() -> None:
    net = models.resnet18()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    stillpoint.antialias(net, verbose=False)
    net.load_state_dict(state, strict=True)
    with torch.enable_grad():
        net(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


class ActivatedNorm(nn.BatchNorm2d):
    """A norm as timm has it: the activation is a module inside, and the forward looks at its input's axes."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__(channels)
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.ndim == 4
        return self.act(super().forward(x))


class SamePadding(nn.Conv2d):
    """A convolution as TensorFlow pads it, by what its input's size asks for; `torch.fx` cannot look inside."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = max((-(-x.shape[-2] // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - x.shape[-2], 0)
        return super().forward(nn.functional.pad(x, [0, 0, rows // 2, rows - rows // 2] if rows > 0 else [0] * 4))


@torch.no_grad()
def test_a_norm_that_carries_its_activation_gets_the_filter_behind_it() -> None:
    net = nn.Sequential(
        SamePadding(3, 4, 3),
        SamePadding(4, 8, 3, stride=2, padding=(0, 1)),
        ActivatedNorm(8, nn.SiLU()),
        nn.AdaptiveAvgPool2d(1),
    )
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    x = torch.randn(1, 3, 16, 16)
    shape = net[:3].eval()(x).shape
    antialias(net.train(), verbose=False)
    assert isinstance(net[2].act, nn.SiLU) and isinstance(net[2].act.filter_behind, BlurPool2d)
    assert net[:3].eval()(x).shape == shape
    # looking at the network moved no counter of it
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_a_norm_without_an_activation_is_passed_by() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(4, 8, 3, stride=2),
        ActivatedNorm(8, nn.Identity()),
        nn.ReLU(),
        nn.Flatten(),
    )
    antialias(net, verbose=False)
    assert type(net[2].act) is nn.Identity and isinstance(net[3].filter_behind, BlurPool2d)


def test_a_pool_of_untold_channels_is_treated_unless_its_filter_must_know_them() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())

    assert [change.name for change in antialias(build(), POLICIES, verbose=False).changes] == ["0", "1"]
    report = antialias(build(), POLICIES, downsample="adaptive_blur", verbose=False)
    assert report.left == [("0", "its number of channels is unknown: no convolution comes before it")]
    assert [change.name for change in report.changes] == ["1"]


class Standardised(nn.Conv2d):
    """A convolution that standardises its weight, as timm's StdConv2d does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        deviation, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / deviation, self.bias)


class Rectifier(nn.Module):
    """An activation that is a function: a filter goes behind the module."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu()


@torch.no_grad()
def test_a_class_of_convolution_keeps_its_own_forward(image: torch.Tensor) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, 2), Rectifier(), Standardised(8, 8, 1, 2), Standardised(8, 8, 3, 2)
    )
    names, before = list(net.state_dict()), net(image)
    antialias(net, downsample=downsample_factory("subsample"), verbose=False)
    for treated in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(treated(image), before)
        assert list(treated.state_dict()) == names
        assert isinstance(treated[2], Rectifier) and isinstance(treated[2], Filtered)
        assert isinstance(treated[3], Standardised) and isinstance(treated[3].filter_before, Subsample)
        assert isinstance(treated[4], Standardised) and isinstance(treated[4].filter_behind, Subsample)


@torch.no_grad()
def test_filters_before_a_convolution_are_in_the_order_of_the_strides() -> None:
    class Twice(nn.Module):
        """An activation that is used again, so that no filter can be put behind it."""

        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()
            self.first, self.second = nn.Conv2d(3, 8, 3, (1, 2), 1), nn.Conv2d(8, 8, 1, (1, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.relu(self.second(self.relu(self.first(x))))

    net = Twice()
    antialias(net, POLICIES, downsample=downsample_factory("subsample"), verbose=False)
    assert [pool.stride for pool in net.second.filter_before] == [(1, 2), (1, 3)]


def test_a_convolution_with_a_parametrised_weight_is_left() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), weight_norm(nn.Conv2d(4, 4, 1, 2)))
    report = antialias(net, verbose=False)
    assert report.left == [("2", "its weight is parametrised")]
    assert net(torch.randn(1, 3, 16, 16)).shape == (1, 4, 4, 4)


@pytest.mark.parametrize("indices", [False, True])
@torch.no_grad()
def test_a_pool_behind_a_treated_convolution_is_treated_or_named(indices: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4)
            self.pool = nn.MaxPool2d(2, return_indices=indices)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.pool(nn.functional.relu(self.bn(self.conv(x))))
            return y[0] if indices else y

    net, x = Net().eval(), torch.randn(1, 3, 32, 32)
    before = net(x)
    report = antialias(net, POLICIES, downsample=downsample_factory("subsample"), verbose=False)
    torch.testing.assert_close(net(x), before)
    assert [change.name for change in report.changes] == (["conv"] if indices else ["conv", "pool"])
    assert report.left == ([("pool", "its indices are used")] if indices else [])
    assert strides(net) == (["pool"] if indices else [])


def test_a_filter_that_cannot_be_built_leaves_the_network_as_it_was() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 12, 3, 2), nn.ReLU(), nn.MaxPool2d(2)
    )
    before = repr(net)
    with pytest.raises(ValueError, match="groups must divide the 12 channels, got 8"):
        antialias(net, downsample=downsample_factory("adaptive_blur"), verbose=False)
    assert repr(net) == before


@torch.no_grad()
def test_filters_with_parameters_get_the_networks_dtype_and_add_names_of_their_own() -> None:
    net = models.resnet18().double().eval()
    names = set(net.state_dict())
    antialias(net, downsample=downsample_factory("adaptive_blur"), verbose=False)
    assert net(torch.randn(1, 3, 64, 64).double()).dtype == torch.float64
    added = set(net.state_dict()) - names
    assert names < set(net.state_dict()) and "layer2.0.downsample.0.filter_before.conv.weight" in added


@torch.no_grad()
def test_channels_of_joined_branches_are_added() -> None:
    class Fire(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.pool = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 16, 1), nn.MaxPool2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.pool(torch.cat([self.left(x), self.right(x)], dim=1))

    net = Fire()
    antialias(net, downsample=downsample_factory("adaptive_blur"), verbose=False)
    assert net(torch.randn(1, 3, 8, 8)).shape == (1, 24, 4, 4)


@torch.no_grad()
def test_a_layer_with_two_names_is_exchanged_under_both() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.MaxPool2d(2)
            self.body = nn.Sequential(nn.Conv2d(3, 4, 1), self.pool)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x)

    net = Net()
    antialias(net, verbose=False)
    assert net.body[1] is net.pool and strides(net) == [] and isinstance(net.pool, Filtered)
    assert net(torch.randn(1, 3, 8, 8)).shape == (1, 4, 4, 4)


@pytest.mark.parametrize("kind", ["blur", "adaptive_blur", "ideal_lowpass", "subsample"])
@torch.no_grad()
def test_a_treated_network_can_be_traced(kind: str, image: torch.Tensor) -> None:
    net = models.resnet18().eval()
    antialias(net, downsample=downsample_factory(kind), verbose=False)
    features = create_feature_extractor(net, ["layer3", "fc"], suppress_diff_warning=True).eval()(image)
    assert features["layer3"].shape == (1, 256, 4, 4)
    torch.testing.assert_close(features["fc"], net(image))


def test_a_treated_network_is_treated_further() -> None:
    net = models.resnet18()
    antialias(net, verbose=False)
    report = antialias(net, "stem", verbose=False)
    assert [change.name for change in report.changes] == ["conv1"]
    assert report.left == [] and strides(net) == []


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.MaxPool2d(2), "treats the layers inside a network, but this MaxPool2d is a single layer"),
        ("x", "needs a network, a torch.nn.Module, got 'x' of type str"),
    ],
)
def test_what_is_no_network_is_refused_in_a_sentence(model: nn.Module, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        antialias(model)


def test_a_network_of_ours_that_subsamples_is_told_of_it() -> None:
    net = resnet("resnet18", downsample=downsample_factory("subsample"))
    left = antialias(net, "average_pool", verbose=False).left
    assert ("maxpool.1", "a Downsample without a filter: build it with another") in left
