import torch

from stillpoint.core.backbones.perceptron import Perceptron


def test_it_is_the_notebooks_first_network():
    net = Perceptron(3136)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    assert shapes == {"fc1.weight": (100, 3136), "fc1.bias": (100,), "fc2.weight": (10, 100), "fc2.bias": (10,)}


def test_values_are_the_definition():
    net, x = Perceptron(12, hidden=5, num_classes=3), torch.randn(4, 3, 2, 2)
    hidden = (x.reshape(4, 12) @ net.fc1.weight.T + net.fc1.bias).clamp_min(0)
    scores = hidden @ net.fc2.weight.T + net.fc2.bias
    torch.testing.assert_close(net(x), scores - scores.exp().sum(1, keepdim=True).log())
