import pytest
import torch
from torch import nn

from stillpoint.core.base.modes import evaluating
from stillpoint.core.evaluation.explain import explain
from stillpoint.core.evaluation.maximise import class_images


def mixed():
    """In training, but for a frozen batch norm and, within a frozen part, a dropout that is not."""
    shared = nn.BatchNorm2d(3)
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.Dropout(), shared), shared, nn.Flatten()).train()
    net[0].eval()
    net[1].eval()
    net[1][0].train()
    return net, [module.training for module in net.modules()]


def test_every_module_comes_back_to_its_own_mode():
    net, before = mixed()
    assert len(set(before)) == 2
    with evaluating(net):
        assert not any(module.training for module in net.modules())
    assert [module.training for module in net.modules()] == before
    with pytest.raises(KeyError), evaluating(net):
        raise KeyError
    assert [module.training for module in net.modules()] == before


def test_a_module_that_does_more_than_set_the_flag_is_asked():
    class Merged(nn.Linear):
        def train(self, mode=True):
            self.merged = not mode
            return super().train(mode)

    net = nn.Sequential(Merged(2, 2)).train()
    with evaluating(net):
        assert net[0].merged
    assert not net[0].merged and net[0].training


def test_looking_into_a_network_wakes_nothing():
    net, before = mixed()
    explain(net, torch.randn(2, 3, 4, 4))
    assert [module.training for module in net.modules()] == before
    class_images(net, (3, 2, 2), [0], steps=1)
    assert [module.training for module in net.modules()] == before
