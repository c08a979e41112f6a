import pytest
import torch
from torch import nn

from stillpoint.core.backbones.deeplab import DeepLabV3Plus
from stillpoint.core.base.errors import UserError
from stillpoint.core.layers import LearnablePolyphaseDownsample2d, LearnablePolyphaseUpsample2d
from stillpoint.pipelines.lps.models import classifier, sampling, scorer_parameters, segmenter
from stillpoint.pipelines.lps.weights import from_authors


def small(channels):
    return channels // 8


def parameters(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("arch", "imagenet", "plain", "wide", "narrow"),
    [
        ("resnet18", False, 11_173_962, 17_368_906, 11_609_642),
        ("resnet18", True, 11_689_512, 18_032_168, 12_135_592),
        ("resnet50", True, 25_557_032, 31_899_688, 26_003_112),
        ("resnet101", True, 44_549_160, None, 44_995_240),
    ],
)
def test_parameters_are_the_authors(arch, imagenet, plain, wide, narrow):
    options = {"imagenet": imagenet, "num_classes": 1000 if imagenet else 10}
    with torch.device("meta"):
        assert parameters(classifier(arch, None, **options)) == plain
        for kind in ("aps", "decimation", "average"):
            assert parameters(classifier(arch, sampling(kind), **options)) == plain
        assert wide is None or parameters(classifier(arch, sampling("lps"), **options)) == wide
        assert parameters(classifier(arch, sampling("lps", hidden=small), **options)) == narrow


def test_an_adaptive_filter_adds_its_own():
    options = {"imagenet": True, "num_classes": 1000}
    with torch.device("meta"):
        ddac = {"filter": "adaptive", "size": 3}
        assert parameters(classifier("resnet101", sampling("decimation", **ddac), **options)) == 46_333_464
        assert parameters(classifier("resnet101", sampling("lps", hidden=small, **ddac), **options)) == 46_779_544


def test_the_first_pool_of_the_stem_has_no_filter_and_the_others_do():
    net = classifier("resnet18", sampling("lps", size=3, hidden=small), imagenet=True)
    sizes = {name: m.filter.size for name, m in net.named_modules() if isinstance(m, LearnablePolyphaseDownsample2d)}
    assert sizes.pop("maxpool.0") == 1 and set(sizes.values()) == {3} and "maxpool.2" in sizes
    filtered = classifier("resnet18", sampling("lps", size=3, hidden=small), imagenet=True, filtered_stem=True)
    assert filtered.maxpool[0].filter.size == 3


@torch.no_grad()
def jump(net, side, rolls=((1, 0), (-3, 2))):
    x = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    still = net(x)
    return max(float((net(x.roll(s, (2, 3))) - still).abs().max() / still.abs().max()) for s in rolls)


@pytest.mark.parametrize(
    ("options", "fill", "sure"),
    [
        ({}, {}, True),
        ({}, {"size": 3}, True),
        ({}, {"filter": "adaptive", "size": 3}, True),
        ({"sample_after_convolution": True}, {}, True),
        ({"imagenet": True}, {"size": 3}, True),
        ({"imagenet": True, "max_pool_margin": "zeros"}, {}, False),
        ({"imagenet": True, "strided_stem": True}, {}, False),
        ({"conv_padding": "zeros"}, {}, False),
    ],
)
def test_which_networks_are_invariant(options, fill, sure):
    torch.manual_seed(0)
    net = classifier("resnet18", sampling("lps", hidden=small, **fill), **{"imagenet": False, **options}).eval()
    found = jump(net, 32)
    assert (found < 1e-5) is sure, found


def test_scorers_are_a_group_of_their_own_and_start_as_pytorch_does():
    net = classifier("resnet18", sampling("lps"), imagenet=False)
    group = scorer_parameters(net)
    assert len(group) == 3 * 4 and sum(p.numel() for p in group) == 17_368_906 - 11_173_962
    weight = net.layer2[0].pool.scorer.conv1["weight"]
    assert weight.abs().max() <= (1 / weight[0].numel()) ** 0.5 + 1e-6  # uniform, not normal


def test_the_basic_network_runs_and_is_invariant():
    net = classifier("basic", sampling("lps"), imagenet=False).eval()
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10) and jump(net, 32) < 1e-6


def test_what_a_network_cannot_be_is_refused():
    with pytest.raises(ValueError, match="lps, aps, decimation or average, got 'max'"):
        sampling("max")
    with pytest.raises(ValueError, match="is for BasicBlocks, which resnet50 does not have"):
        classifier("resnet50", sampling("lps"), imagenet=True, sample_after_convolution=True)
    with pytest.raises(ValueError, match="no strided form"):
        classifier("basic", None, imagenet=False)


def test_the_weights_of_another_network_are_refused():
    plain, blurred = (classifier("resnet18", sampling("lps", hidden=small, size=n), imagenet=False) for n in (1, 3))
    state = dict(plain.state_dict())
    with pytest.raises(UserError, match=r"it has no filter for layer2\.0\.pool\.filter"):
        from_authors(state, blurred)
    with pytest.raises(UserError, match="missing"):
        from_authors({name: t for name, t in state.items() if "scorer" not in name}, plain)


# Segmentation


def built(**options):
    torch.manual_seed(0)
    backbone = classifier("resnet18", sampling("lps", hidden=small), imagenet=True)
    up = LearnablePolyphaseUpsample2d if options.pop("up", True) else None
    return segmenter(backbone, num_classes=3, upsample=up, **options).eval()


@torch.no_grad()
def test_the_segmenter_moves_with_its_image():
    side = 64
    net, x = built(), torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    y = net(x)
    assert y.shape == (1, 3, side, side)
    for shift in ((-1, 3), (16, 5)):
        assert ((net(x.roll(shift, (2, 3))) - y.roll(shift, (2, 3))).abs().max() / y.abs().max()) < 1e-5


@torch.no_grad()
def test_and_neither_without_upsampling_on_the_grids_nor_as_the_authors_pad_their_last_rate():
    """Their zeros are luck up to maps of the rate's size; at 19 pixels and above the luck is over."""
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for net in (built(up=False), built(rates=(1, 1, 1), last_rate_padding="zeros")):
        y, moved = net(x), net(x.roll((-1, 35), (2, 3)))
        assert ((moved - y.roll((-1, 35), (2, 3))).abs().max() / y.abs().max()) > 1e-3


def test_the_segmenter_in_training_fills_every_grid_and_learns():
    net = built().train()
    y = net(torch.randn(2, 3, 64, 64))
    y.square().mean().backward()
    assert y.shape == (2, 3, 64, 64)
    assert all(p.grad is not None for p in net.parameters())
    momenta = {m.momentum for m in net.backbone.modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {0.01} and net.low[1].momentum == 0.1


def test_a_segmenter_needs_the_grids_of_its_backbone():
    plain = classifier("resnet18", None, imagenet=True)
    with pytest.raises(
        ValueError, match="upsampling needs a backbone that chooses its grids, but it chooses none at conv1"
    ):
        DeepLabV3Plus(plain, 3, upsample=LearnablePolyphaseUpsample2d)
    with pytest.raises(ValueError, match="conv_padding and last_rate_padding must be one of"):
        DeepLabV3Plus(plain, 3, conv_padding="wrap")
    assert DeepLabV3Plus(plain, 3).eval()(torch.randn(1, 3, 65, 70)).shape == (1, 3, 65, 70)
