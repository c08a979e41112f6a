import pytest
import torch
import torchvision

from stillpoint.core.backbones.vgg import DEPTHS, VGG
from stillpoint.core.layers import downsample_factory

WIDTHS = (4, 6, 8, 8, 8)
BLUR = downsample_factory("blur", size=4)


def shapes(net):
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize("depth", sorted(DEPTHS))
@pytest.mark.parametrize("norm", [False, True])
def test_names_and_shapes_are_torchvisions_plain_and_filled(depth, norm):
    with torch.device("meta"):
        theirs = shapes(getattr(torchvision.models, f"vgg{depth}{'_bn' if norm else ''}")())
        for downsample in (None, BLUR):
            assert list(shapes(VGG(depth, batch_norm=norm, downsample=downsample)).items()) == list(theirs.items())


def test_the_plain_networks_logits_are_torchvisions():
    torch.manual_seed(0)
    theirs = torchvision.models.VGG(
        torchvision.models.vgg.make_layers([4, "M", 6, "M", 8, 8, "M", 8, 8, "M", 8, 8, "M"], batch_norm=True), 7
    )
    # torchvision's classifier is made for 512 channels
    theirs.classifier[0] = torch.nn.Linear(8 * 49, 4096)
    ours = VGG(11, batch_norm=True, num_classes=7, widths=WIDTHS)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 50)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), atol=1e-5, rtol=1e-5)


def test_a_filled_network_is_dense_pooling_before_each_slot():
    torch.manual_seed(0)
    net = VGG(11, downsample=BLUR, widths=WIDTHS, head="linear", num_classes=5).eval()
    x = y = torch.randn(2, 3, 96, 96)
    for module in net.features:
        if isinstance(module, torch.nn.Sequential):
            dense = torch.nn.functional.max_pool2d(y, 2, 1)
            y = module[1](dense)
            assert y.shape[-1] == -(-dense.shape[-1] // 2)
        else:
            y = module(y.clone())
    torch.testing.assert_close(net(x), net.classifier(y.mean((2, 3))), atol=1e-5, rtol=1e-5)


def test_maps_at_224_have_the_published_sizes():
    sizes = []
    net = VGG(11, downsample=BLUR, widths=(1,) * 5, head="linear")
    for module in net.features.modules():
        if type(module).__name__ in ("DenseMaxPool2d", "BlurPool2d"):
            module.register_forward_hook(lambda m, i, o: sizes.append(o.shape[-1]))
    net(torch.zeros(1, 3, 224, 224))
    assert sizes == [223, 112, 111, 56, 55, 28, 27, 14, 13, 7]


def test_a_slot_at_every_pool_and_gradients_to_every_parameter():
    net = VGG(11, batch_norm=True, downsample=BLUR, widths=WIDTHS, head="linear", num_classes=3)
    assert sum(type(module).__name__ == "BlurPool2d" for module in net.modules()) == 5
    net(torch.randn(3, 3, 112, 112)).logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_an_unknown_depth_is_refused():
    with pytest.raises(ValueError, match="depth must be one of 11, 13, 16, 19, got 12"):
        VGG(12)
