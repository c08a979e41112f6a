"""A hook that changes weights before each forward is seen by every forward of a validation."""

import torch
from torch import nn

from stillpoint.core.layers import conv_norm_act
from stillpoint.core.training.train import TrainHooks
from tests.core.tiny import trained


class Watched(nn.Module):
    """Notes how far its convolution and norm are from the modules' own, in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.bn, self.fc = nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.off: list[float] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        y = conv_norm_act(x, self.conv, self.bn)
        if not self.training:
            self.off.append(float((y - self.bn(self.conv(x))).abs().max()))
        return self.fc(y.mean((2, 3)))


def test_it_is_not_hidden_by_what_was_folded_before(tmp_path):
    nets = []

    def kept(config):
        torch.manual_seed(config.seed)
        nets.append(Watched())
        return nets[-1]

    def grow(net):
        net.conv.weight.mul_(1.05)

    trained(tmp_path, network=kept, hooks=TrainHooks(before_forward=grow))
    assert len(nets[-1].off) > 3 and max(nets[-1].off) < 1e-4
