import pytest
import torch
import torchvision
from torch.nn import functional as F

from stillpoint.core.backbones.alexnet import AlexNet
from stillpoint.core.layers import downsample_factory
from stillpoint.core.layers.blur import blur_pool2d

BLUR = downsample_factory("blur", size=4)


def small(**options):
    torch.manual_seed(0)
    return AlexNet(head="linear", num_classes=3, **options).eval()


@pytest.mark.parametrize("stem", ["full", "pool_only"])
def test_names_and_shapes_are_torchvisions_plain_and_filled(stem):
    with torch.device("meta"):
        theirs = {name: t.shape for name, t in torchvision.models.alexnet().state_dict().items()}
        for downsample in (None, BLUR):
            net = AlexNet(downsample=downsample, stem=stem)
            assert list({name: t.shape for name, t in net.state_dict().items()}.items()) == list(theirs.items())


def test_the_plain_networks_features_are_torchvisions():
    theirs = torchvision.models.alexnet().features.eval()
    ours = small()
    ours.features.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 70, 95)
    torch.testing.assert_close(ours.features(x), theirs(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("relu_first", [True, False])
def test_the_full_stem_splits_the_stride_of_four(relu_first):
    net = small(downsample=BLUR, relu_first=relu_first)
    x = torch.randn(1, 3, 80, 80)
    conv = net.features[0]
    y = F.conv2d(x, conv.weight, conv.bias, stride=2, padding=2)
    y = blur_pool2d(F.relu(y), size=4) if relu_first else F.relu(blur_pool2d(y, size=4))
    y = blur_pool2d(F.max_pool2d(y, 3, 1), size=4)
    got = net.features[2](net.features[1](net.features[0](x)))
    torch.testing.assert_close(got, y)


def test_the_bare_pool_only_stem_has_no_relu():
    net = small(downsample=BLUR, stem="pool_only", first_relu=False)
    assert net.features[0].stride == (4, 4)
    with torch.no_grad():
        net.features[0].bias.fill_(-9)
        x = torch.randn(1, 3, 80, 80)
        expected = blur_pool2d(F.max_pool2d(net.features[0](x), 3, 1), size=4)
        assert float(expected.max()) < 0
        torch.testing.assert_close(net.features[:3](x), expected)


def test_maps_at_224_have_the_published_sizes():
    sizes, net = [], small(downsample=BLUR)
    for module in net.features.modules():
        if isinstance(module, torch.nn.Conv2d) or type(module).__name__ in ("DenseMaxPool2d", "BlurPool2d"):
            module.register_forward_hook(lambda m, i, o: sizes.append(o.shape[-1]))
    net(torch.zeros(1, 3, 224, 224))
    assert sizes == [109, 55, 53, 27, 27, 25, 13, 13, 13, 13, 11, 6]


def test_a_stem_of_ones_own_takes_the_place_of_the_first_layers():
    stem = torch.nn.Conv2d(1, 64, 3, stride=2)
    net = small(stem=stem, in_channels=1)
    assert net.features[0] is stem and net(torch.zeros(2, 1, 63, 63)).shape == (2, 3)


def test_an_unknown_stem_is_refused():
    with pytest.raises(ValueError, match="stem must be 'full', 'pool_only' or a module, got 'half'"):
        AlexNet(stem="half")
