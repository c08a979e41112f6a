import math

import pytest
import torch
from torch import nn

from stillpoint.core.backbones.perceptron import Perceptron
from stillpoint.core.base.errors import UserError
from stillpoint.core.evaluation.maximise import class_images, neuron_images, strongest_pair_share

SHAPE = (1, 8, 8)


def net(hidden=6):
    torch.manual_seed(0)
    return Perceptron(64, hidden=hidden, num_classes=3)


def stripe(row, column, phase=0.3, size=16):
    i, j = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.cos(2 * math.pi * (row * i + column * j) / size + phase)


def test_a_class_image_reaches_its_class():
    found = class_images(net(hidden=40), SHAPE)
    assert found.images.shape == (3, *SHAPE) and found.probabilities.shape == (3, 3)
    assert found.probabilities.argmax(1).tolist() == [0, 1, 2]
    torch.testing.assert_close(found.losses, -found.probabilities.diagonal().log())
    before = -net(hidden=40)(torch.zeros(1, *SHAPE))[0]
    assert (found.losses < before).all()


def test_one_class_is_the_same_as_among_all():
    torch.testing.assert_close(class_images(net(), SHAPE, [2]).images, class_images(net(), SHAPE).images[2:])


def test_a_perceptrons_neuron_is_maximised_by_its_own_weights():
    model = net()
    images = neuron_images(model, SHAPE, steps=7)
    weights = model.fc1.weight.detach().view(-1, *SHAPE)
    want = 7 * weights / weights.flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close(images, want)


def test_the_network_is_left_as_it_was():
    model = net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    neuron_images(model, SHAPE)
    class_images(model, SHAPE)
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model.fc1._forward_hooks


def test_a_stripe_has_all_its_energy_in_one_pair():
    images = torch.stack([stripe(2, 3), stripe(0, 5), stripe(8, 0, 0.0), stripe(-3, 1) * 4 + 7])
    torch.testing.assert_close(strongest_pair_share(images), torch.ones(4))


def test_two_stripes_share_by_their_energies():
    image = (2 * stripe(1, 2) + stripe(4, -3))[None]
    torch.testing.assert_close(strongest_pair_share(image), torch.tensor([0.8]))
    torch.testing.assert_close(strongest_pair_share(image.roll((3, 5), (1, 2))), torch.tensor([0.8]))


def test_noise_and_constants_are_no_stripes():
    noise = torch.randn(20, 32, 32, generator=torch.Generator().manual_seed(0))
    assert strongest_pair_share(noise).max() < 0.05
    assert strongest_pair_share(torch.full((1, 8, 8), 3.0)).item() == 0


@pytest.mark.parametrize("index", [-1, 3])
def test_a_class_out_of_range_is_refused(index):
    with pytest.raises(UserError, match=f"class {index} does not exist: the network has 0 to 2"):
        class_images(net(), SHAPE, [index])


def test_a_neuron_out_of_range_is_refused():
    with pytest.raises(UserError, match="neuron 6 does not exist: the network has 0 to 5"):
        neuron_images(net(), SHAPE, [6])


def test_a_network_without_that_layer_is_refused():
    with pytest.raises(UserError, match="no linear layer 'fc1': choose from 1"):
        neuron_images(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), SHAPE)
