from functools import partial

import pytest
import torch
import torchvision
from torch import Tensor, nn

from stillpoint.core.backbones.phase_control import record_grids
from stillpoint.core.backbones.resnet import FAMILY, BasicBlock, Bottleneck, ResNet, resnet
from stillpoint.core.layers.adaptive_blur import AdaptiveBlur2d
from stillpoint.core.layers.blur import BlurPool2d
from stillpoint.core.layers.dense_max_pool import DenseMaxPool2d
from stillpoint.core.layers.downsample import Downsample, Grid, SoftGrid, Subsample, sample_at
from stillpoint.core.layers.phases import polyphase_components
from stillpoint.core.layers.polyphase import PolyphaseDownsample2d

SMALL = {"widths": (8, 16, 32, 64), "num_classes": 5}
APS = partial(PolyphaseDownsample2d, size=3)
BLUR = partial(BlurPool2d, size=3)


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_plain_network_is_torchvisions(name: str) -> None:
    theirs, ours = getattr(torchvision.models, name)(num_classes=10).eval(), resnet(name, num_classes=10).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = images(2, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)


def test_dilated_network_is_torchvisions() -> None:
    dilate = [False, True, True]
    theirs = torchvision.models.resnet50(num_classes=10, replace_stride_with_dilation=dilate).eval()
    ours = resnet("resnet50", num_classes=10, replace_stride_with_dilation=dilate).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = images(1, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("downsample", [None, Subsample, BLUR, APS, partial(AdaptiveBlur2d, size=3, groups=4)])
def test_every_filling_gives_maps_of_the_plain_networks_size(stem: str, downsample) -> None:
    x = images(1, 3, 64, 96)
    filled = ResNet(BasicBlock, (1, 1, 1, 1), stem=stem, downsample=downsample, **SMALL).eval()
    plain = ResNet(BasicBlock, (1, 1, 1, 1), stem=stem, **SMALL).eval()
    assert filled.forward_features(x).shape == plain.forward_features(x).shape
    assert filled(x).shape == (1, 5)


def test_fixed_fillings_hold_the_plain_networks_parameters_and_no_more() -> None:
    plain = resnet("resnet18", **SMALL).state_dict()
    for downsample in (Subsample, BLUR, APS):
        filled = resnet("resnet18", downsample=downsample, pool_only=False, **SMALL).state_dict()
        assert {name: t.shape for name, t in filled.items()} == {name: t.shape for name, t in plain.items()}


@pytest.mark.parametrize(("pool_only", "selections"), [(True, 4), (False, 5)])
def test_the_full_stem_subsamples_once_more_by_a_downsample(pool_only: bool, selections: int) -> None:
    net = ResNet(BasicBlock, (1, 1, 1, 1), downsample=APS, pool_only=pool_only, **SMALL).eval()
    with record_grids(net) as found:
        net(images(1, 3, 64, 64))
    assert len(found) == selections


def test_dilated_stages_have_no_downsample() -> None:
    net = resnet("resnet50", downsample=BLUR, replace_stride_with_dilation=[False, True, True], **SMALL)
    places = [name for name, module in net.named_modules() if isinstance(module, BlurPool2d)]
    assert places == ["maxpool.1", "layer2.0.pool", "layer2.0.downsample.pool"]


@pytest.mark.parametrize("name", ["resnet20", "resnet50"])
@pytest.mark.parametrize("select", ["before_blur", "after_blur"])
def test_polyphase_circular_network_does_not_change_under_circular_shifts(name: str, select: str) -> None:
    widths = [n // 4 for n in FAMILY[name].get("widths", (32, 64, 128, 256))]
    downsample = partial(PolyphaseDownsample2d, size=3, select=select)
    net = resnet(
        name, stem="cifar", downsample=downsample, conv_padding="circular", widths=widths, num_classes=10
    ).eval()
    x = images(3, 3, 32, 32)
    with torch.no_grad():
        logits = net(x)
        for shift in [(1, 0), (0, 1), (-3, 5)]:
            moved = net(x.roll(shift, (2, 3)))
            assert (moved - logits).abs().max() < 1e-5 * logits.abs().max()


def test_polyphase_imagenet_network_does_not_change_under_circular_shifts() -> None:
    stem = {"pool_only": False, "max_pool": DenseMaxPool2d(2, margin="circular")}
    net = ResNet(BasicBlock, (1, 1, 1, 1), downsample=APS, conv_padding="circular", **stem, **SMALL).eval()
    x = images(2, 3, 64, 64)
    with torch.no_grad():
        logits = net(x)
        for shift in [(1, 0), (-7, 12)]:
            assert (net(x.roll(shift, (2, 3))) - logits).abs().max() < 1e-5 * logits.abs().max()


@pytest.mark.parametrize("downsample", [None, BLUR])
def test_fixed_grids_do_change_under_circular_shifts(downsample) -> None:
    net = ResNet(BasicBlock, (1, 1, 1, 1), stem="cifar", downsample=downsample, conv_padding="circular", **SMALL).eval()
    x = images(2, 3, 32, 32)
    with torch.no_grad():
        logits = net(x)
        assert (net(x.roll((1, 1), (2, 3))) - logits).abs().max() > 1e-4 * logits.abs().max()


def test_the_shortcut_samples_where_the_main_branch_did() -> None:
    block, seen = BasicBlock(4, 8, stride=2, downsample=APS).eval(), []
    block.pool.register_forward_hook(lambda module, args, output: seen.append(output[1]))
    block.downsample.pool.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    block(images(2, 4, 8, 8))
    assert seen[0] is seen[1] and seen[0].shape == (2,)


class Mixed(Downsample):
    """Mixes the grids by scores that it learns in training, and takes the best one otherwise."""

    chooses = True

    def __init__(self, channels: int, stride: int = 2) -> None:
        super().__init__()
        self.stride, self.scorer = (stride, stride), nn.Linear(channels, 1)

    def scores(self, x: Tensor) -> Tensor:
        return self.scorer(polyphase_components(x, stride=self.stride).mean((3, 4)))[..., 0]

    def choose(self, x: Tensor) -> Grid:
        scores = self.scores(x)
        return SoftGrid(scores.softmax(1), scores) if self.training else scores.argmax(1)

    def sample(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        return sample_at(x, grid, stride=self.stride)

    def follower(self, channels: int) -> Downsample:
        return Subsample(channels, self.stride)


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_shortcut_mixes_by_the_weights_of_the_main_branch_and_no_parameter_idles(block: type) -> None:
    net = block(4, 8, stride=2, downsample=Mixed)
    seen = []
    net.downsample.pool.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    net(images(2, 4, 8, 8)).square().sum().backward()
    assert isinstance(seen[0], SoftGrid) and seen[0].weights.requires_grad
    assert all(p.grad is not None for p in net.parameters())
    assert not list(net.downsample.pool.parameters())
    with record_grids(net.eval()) as found:
        net(images(2, 4, 8, 8))
    assert torch.equal(seen[1], found[0].grid) and torch.equal(found[0].phase, found[0].scores.argmax(1))
    with record_grids(net.train()) as found:
        net(images(2, 4, 8, 8))
    assert torch.equal(found[0].phase, found[0].grid.weights.argmax(1))


def test_a_stem_module_replaces_the_stem_and_keeps_its_initialisation() -> None:
    stem = nn.Conv2d(3, 8, 5, stride=4, padding=2)
    before = stem.weight.clone()
    net = ResNet(BasicBlock, (1, 1), widths=(8, 16), stem=stem, num_classes=5)
    assert torch.equal(net.stem.weight, before)
    assert not [name for name in net.state_dict() if name.startswith(("conv1", "bn1"))]
    assert net.forward_features(images(1, 3, 32, 32)).shape == (1, 16, 4, 4)


def test_a_convolution_factory_makes_every_3x3_convolution_of_the_blocks() -> None:
    made = []

    def conv(inputs: int, outputs: int, size: int, *, stride: int, padding: int) -> nn.Module:
        made.append((inputs, outputs, size, stride, padding))
        return nn.Conv2d(inputs, outputs, size, stride=stride, padding=padding, bias=False)

    ResNet(BasicBlock, (1, 1), widths=(4, 8), stem="cifar", conv=conv)
    assert made == [(4, 4, 3, 1, 1), (4, 4, 3, 1, 1), (4, 8, 3, 2, 1), (8, 8, 3, 1, 1)]


def test_blocks_without_shortcut_and_inner_activation_are_a_chain_of_convolutions_and_norms() -> None:
    block = BasicBlock(4, 8, stride=2, inner_activation=False, shortcut=False).eval()
    x = images(1, 4, 8, 8)
    torch.testing.assert_close(block(x), block.bn2(block.conv2(block.bn1(block.conv1(x)))))
    assert block.downsample is None


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_zero_init_residual_makes_blocks_start_as_their_shortcut(name: str) -> None:
    last = "bn3" if name == "resnet50" else "bn2"
    net = resnet(name, zero_init_residual=True, **SMALL)
    weights = [p for key, p in net.named_parameters() if key.endswith(f"{last}.weight")]
    assert weights and all((p == 0).all() for p in weights)


def test_convolutions_start_kaiming_normal_fan_out() -> None:
    weight = resnet("resnet18").layer4[1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize("padding", ["circular", "reflect", "replicate"])
def test_conv_padding_changes_no_parameter_name(padding: str) -> None:
    assert list(resnet("resnet20", conv_padding=padding, stem="cifar").state_dict()) == list(
        resnet("resnet20", stem="cifar").state_dict()
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stem": "mnist"}, "imagenet, cifar, got 'mnist'"),
        ({"conv_padding": "wrap"}, "zeros, circular, reflect, replicate, got 'wrap'"),
        ({"pool_only": False}, "downsample=None"),
        ({"max_pool": nn.Identity()}, "downsample=None"),
        ({"widths": (8, 16)}, "4 stages"),
        ({"replace_stride_with_dilation": [False, True, False]}, "dilation=2"),
        ({"groups": 2}, "groups=2"),
    ],
)
def test_impossible_options_are_refused_by_name(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        resnet("resnet18", **options)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"resnet18, .*got 'resnet19'"):
        resnet("resnet19")


def test_dense_max_pool_margins() -> None:
    x = images(1, 2, 6, 6)
    assert DenseMaxPool2d(2)(x).shape == (1, 2, 5, 5)
    torch.testing.assert_close(DenseMaxPool2d(3, margin="same")(x), nn.MaxPool2d(3, 1, 1)(x))
    circular = DenseMaxPool2d(2, margin="circular")
    assert torch.equal(circular(x.roll((1, 2), (2, 3))), circular(x).roll((1, 2), (2, 3)))
    assert (DenseMaxPool2d(2, margin="zeros")(-x.abs())[..., -1] == 0).all()
    with pytest.raises(ValueError, match="'wrap'"):
        DenseMaxPool2d(2, margin="wrap")
    with pytest.raises(ValueError, match="odd for margin 'same', got 2"):
        DenseMaxPool2d(2, margin="same")


def test_record_grids_names_every_choice_in_order_and_leaves_the_network_as_it_was() -> None:
    net = resnet("resnet20", stem="cifar", downsample=APS, conv_padding="circular", widths=(4, 8, 16)).eval()
    x = images(3, 3, 16, 16)
    logits = net(x)
    with record_grids(net) as found:
        torch.testing.assert_close(net(x), logits, rtol=0, atol=0)
    assert [s.name for s in found] == ["layer2.0.pool", "layer3.0.pool"]
    for selection in found:
        assert torch.equal(selection.scores.argmax(1), selection.phase)
        assert (selection.gap() >= 0).all() and (selection.gap() <= 1).all()
    net(x)
    assert len(found) == 2


def test_forced_phases_are_used_by_both_branches() -> None:
    net = resnet("resnet20", stem="cifar", downsample=APS, conv_padding="circular", widths=(4, 8, 16)).eval()
    x = images(2, 3, 16, 16)
    with record_grids(net) as found:
        logits = net(x)
    chosen = [s.phase for s in found]
    with record_grids(net, force=chosen):
        torch.testing.assert_close(net(x), logits, rtol=0, atol=0)
    with record_grids(net, force=[3 - phase for phase in chosen]) as forced:
        assert not torch.allclose(net(x), logits)
    assert torch.equal(forced[0].phase, 3 - chosen[0])
    with (
        pytest.raises(ValueError, match=r"layer3\.0\.pool makes choice number 2"),
        record_grids(net, force=chosen[:1]),
    ):
        net(x)
