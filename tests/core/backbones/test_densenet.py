import pytest
import torch
import torchvision

from stillpoint.core.backbones import densenet
from stillpoint.core.backbones.densenet import FORMS, DenseNet
from stillpoint.core.layers import downsample_factory

BLUR = downsample_factory("blur", size=4)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A form with two layers in each block, under a depth that no network has."""
    monkeypatch.setitem(densenet.FORMS, 9, (8, 4, (2, 1, 2, 1)))


@pytest.mark.parametrize("depth", [121, 161, 169, 201])
def test_names_and_shapes_are_torchvisions_plain_and_filled(depth):
    assert depth in FORMS
    with torch.device("meta"):
        theirs = {n: t.shape for n, t in getattr(torchvision.models, f"densenet{depth}")().state_dict().items()}
        for downsample in (None, BLUR):
            net = DenseNet(depth, downsample=downsample)
            assert list({name: t.shape for name, t in net.state_dict().items()}.items()) == list(theirs.items())


def test_the_plain_networks_logits_are_torchvisions():
    torch.manual_seed(0)
    theirs = torchvision.models.DenseNet(4, (2, 1, 2, 1), 8, num_classes=5).eval()
    ours = DenseNet(9, num_classes=5).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 70, 66)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_two_taps_are_the_average_pools_of_the_transitions_on_even_maps():
    torch.manual_seed(0)
    plain = DenseNet(9, stem="cifar").eval()
    filled = DenseNet(9, stem="cifar", downsample=downsample_factory("blur", size=2)).eval()
    filled.load_state_dict(plain.state_dict())
    even, odd = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 34, 34)
    torch.testing.assert_close(filled(even), plain(even))
    assert (filled(odd) - plain(odd)).abs().max() > 1e-4


@pytest.mark.parametrize(("stem", "count", "stride"), [("pool_only", 4, 2), ("full", 5, 1), ("cifar", 3, 1)])
def test_slots_of_each_stem(stem, count, stride):
    net = DenseNet(9, stem=stem, downsample=BLUR)
    assert sum(type(module).__name__ == "BlurPool2d" for module in net.modules()) == count
    assert net.features.conv0.stride == (stride, stride)
    sizes = []
    net.features.norm5.register_forward_hook(lambda m, i, o: sizes.append(o.shape[-1]))
    net(torch.zeros(2, 3, 96, 96))
    assert sizes == [12 if stem == "cifar" else 3]


def test_gradients_reach_every_parameter():
    net = DenseNet(9, downsample=BLUR, num_classes=3)
    net(torch.randn(2, 3, 96, 96)).logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    ("options", "said"), [({"depth": 100}, "depth must be one of 121, .*, got 100"), ({"stem": "none"}, "stem must be")]
)
def test_what_there_is_not_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        DenseNet(**options)
