import pytest
import torch
import torch.nn.functional as F

from stillpoint.core.backbones.convnet import ConvNet
from stillpoint.core.layers import downsample_factory
from stillpoint.core.layers.scattering import Scattering2d


def test_it_is_the_notebooks_second_network():
    net = ConvNet(image_size=56)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    assert shapes == {
        "conv1.weight": (30, 1, 5, 5),
        "conv1.bias": (30,),
        "conv2.weight": (30, 5, 5, 5),
        "conv2.bias": (30,),
        "fc1.weight": (100, 3630),
        "fc1.bias": (100,),
        "fc2.weight": (10, 100),
        "fc2.bias": (10,),
    }
    assert net.conv2.groups == 6


def test_values_are_the_notebooks_order_of_layers():
    net, x = ConvNet(image_size=28), torch.randn(3, 1, 28, 28)
    y = F.max_pool2d(F.relu(net.conv1(x)), 2)
    y = F.max_pool2d(F.relu(net.conv2(y)), 2)
    y = F.log_softmax(net.fc2(F.relu(net.fc1(y.flatten(1)))), 1)
    assert torch.equal(net.eval()(x), y)


def test_whole_channels_are_dropped_after_the_second_convolution_alone():
    net, x = ConvNet(image_size=28, dropout=0.5).train(), torch.randn(2, 1, 28, 28)
    seen = {}
    for name in ("pool1", "pool2"):
        net.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: seen.__setitem__(name, i[0]))
    torch.manual_seed(0)
    net(x)
    torch.manual_seed(0)
    mask = F.dropout2d(torch.ones(2, 30, 1, 1), 0.5)
    want = F.relu(mask * net.conv2(F.max_pool2d(seen["pool1"], 2)))
    assert torch.equal(seen["pool1"], F.relu(net.conv1(x)))
    torch.testing.assert_close(seen["pool2"], want)


def test_circular_aps_with_an_average_does_not_see_where_the_object_is():
    pool = downsample_factory("polyphase", size=3, padding="circular")
    options = {"channels": (6, 12, 8), "kernels": (3, 3, 3), "groups": (1, 6, 1), "dropout": 0.0}
    net = ConvNet(image_size=16, head="average", circular=True, downsample=pool, **options).double().eval()
    x = torch.randn(4, 1, 16, 16, dtype=torch.float64)
    y = net(x)
    for shift in ((1, 0), (5, 3), (-2, 7)):
        torch.testing.assert_close(net(x.roll(shift, (2, 3))), y)


def test_a_flattening_head_does():
    net = ConvNet(image_size=16, kernels=(3, 3), circular=True, dropout=0.0).eval()
    x = torch.randn(4, 1, 16, 16)
    assert not torch.allclose(net(x.roll((4, 4), (2, 3))), net(x), atol=1e-3)


def test_a_front_decides_what_the_first_convolution_sees():
    net = ConvNet(image_size=32, front=Scattering2d(), channels=(4, 4), kernels=(3, 3), groups=(1, 1), head="average")
    assert net.conv1.in_channels == 31 and net(torch.randn(2, 1, 32, 32)).shape == (2, 10)
    assert not [name for name in net.state_dict() if name.startswith("front")]


def test_outputs_are_logarithms_of_probabilities():
    blur = downsample_factory("blur", size=3)
    y = ConvNet(image_size=28, downsample=blur)(torch.randn(2, 1, 28, 28))
    torch.testing.assert_close(y.exp().sum(1), torch.ones(2))


def test_images_that_vanish_are_refused():
    with pytest.raises(ValueError, match="images of 12 pixels vanish in 2 convolutions"):
        ConvNet(image_size=12)
