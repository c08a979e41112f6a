"""Surgery on networks that are not ours."""

import pytest
import torch
from torch import nn
from torchvision import models

import core
from core.backbones.resnet import resnet
from core.backbones.stem import DenseMaxPool2d
from core.layers import BlurPool2d, downsample_factory
from core.surgery import POLICIES, antialias


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
    assert any(isinstance(module, BlurPool2d) for module in net.maxpool)


def test_the_filter_is_behind_the_activation() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    antialias(net, verbose=False)
    assert isinstance(net[3][0], nn.ReLU)
    assert isinstance(net[3][1], BlurPool2d)


def test_what_was_done_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    antialias(models.vgg11())
    assert capsys.readouterr().out.count("2x2 max-pool of stride 1 - BlurPool2d of 4 taps, stride 2") == 5


def test_patches_that_do_not_overlap_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="patches that do not overlap"):
        antialias(models.convnext_tiny(), verbose=False)


def test_a_forward_that_cannot_be_traced_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="cannot trace"):
        antialias(Branching())


def test_a_part_that_branches_but_does_not_stride_is_no_hindrance() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.shape[-1] > 4 else -x

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), Branching())
    assert [change.name for change in antialias(net, verbose=False).changes] == ["2"]


def test_unknown_policies_and_adaptive_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="'everything'"):
        antialias(models.resnet18(), "everything")
    with pytest.raises(ValueError, match="adaptive grid"):
        antialias(models.resnet18(), downsample=downsample_factory("polyphase"))


def test_a_network_that_does_not_stride_has_nothing_to_treat() -> None:
    with pytest.raises(ValueError, match="nothing to antialias"):
        antialias(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))


@torch.no_grad()
def test_gradients_reach_all_parameters_and_the_original_checkpoint_loads() -> None:
    net = models.resnet18()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    core.antialias(net, verbose=False)
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
    assert isinstance(net[2].act[0], nn.SiLU) and isinstance(net[2].act[1], BlurPool2d)
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
    assert isinstance(net[2].act, nn.Identity) and isinstance(net[3][1], BlurPool2d)


def test_a_pool_of_untold_channels_is_left_and_the_rest_is_treated() -> None:
    net = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, 3, stride=2), nn.ReLU())
    report = antialias(net, POLICIES, verbose=False)
    assert report.left == [("0", "its channels cannot be told, because no convolution stands before it")]
    assert [change.name for change in report.changes] == ["1"]
