import pytest
import torch
import torchvision
from torch.nn import functional as F

from stillpoint.core.backbones.mobilenet import InvertedResidual, MobileNetV2, _scaled
from stillpoint.core.layers import downsample_factory
from stillpoint.core.layers.blur import blur_pool2d

BLUR = downsample_factory("blur", size=4)


@pytest.mark.parametrize("width", [1.0, 0.25, 1.4])
def test_names_and_shapes_are_torchvisions_plain_and_filled(width):
    with torch.device("meta"):
        theirs = {n: t.shape for n, t in torchvision.models.mobilenet_v2(width_mult=width).state_dict().items()}
        for downsample in (None, BLUR):
            net = MobileNetV2(width=width, downsample=downsample)
            assert list({name: t.shape for name, t in net.state_dict().items()}.items()) == list(theirs.items())


def test_the_plain_networks_logits_are_torchvisions():
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v2(width_mult=0.25, num_classes=5).eval()
    ours = MobileNetV2(width=0.25, num_classes=5).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 70, 65)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-4)


def test_a_filled_block_blurs_between_its_activation_and_its_projection():
    torch.manual_seed(0)
    block = InvertedResidual(4, 6, stride=2, expansion=6, downsample=BLUR).eval()
    x = torch.randn(2, 4, 17, 16)
    expand, depthwise, project, norm = block.conv
    y = F.relu6(expand[1](F.conv2d(x, expand[0].weight)))
    y = F.relu6(depthwise[1](F.conv2d(y, depthwise[0].weight, padding=1, groups=24)))
    expected = norm(project(blur_pool2d(y, size=4)))
    assert expected.shape == (2, 6, 9, 8)
    torch.testing.assert_close(block(x), expected)


def test_only_the_four_strided_blocks_are_filled():
    net = MobileNetV2(width=0.25, downsample=BLUR)
    places = [name.split(".")[1] for name, m in net.named_modules() if type(m).__name__ == "BlurPool2d"]
    assert places == ["2", "4", "7", "14"] and net.features[0].get_submodule("0").stride == (2, 2)
    strides = {
        m.stride for name, m in net.named_modules() if isinstance(m, torch.nn.Conv2d) and "features.0" not in name
    }
    assert strides == {(1, 1)}


@pytest.mark.parametrize(
    ("channels", "width", "divisor", "wanted"),
    [(32, 1.0, 8, 32), (24, 0.75, 8, 24), (16, 0.75, 8, 16), (16, 0.75, 1, 12), (32, 0.1, 8, 8), (24, 0.35, 1, 8)],
)
def test_scaled_channels_are_never_below_nine_tenths(channels, width, divisor, wanted):
    assert _scaled(channels, width, divisor) == wanted


def test_the_small_form_keeps_its_first_map():
    net = MobileNetV2(width=0.25, downsample=BLUR, stem_stride=1, in_channels=1, num_classes=4)
    sizes = []
    for block in net.features:
        block.register_forward_hook(lambda m, i, o: sizes.append(o.shape[-1]))
    assert net(torch.randn(2, 1, 32, 32)).shape == (2, 4)
    assert sizes[0] == 32 and sizes[-1] == 2
