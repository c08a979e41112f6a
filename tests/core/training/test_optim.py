"""The optimisers are PyTorch's, step for step."""

import copy

import pytest
import torch
from torch import nn

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.schema import TrainConfig
from stillpoint.core.training import optim


def _steps(optimizer: torch.optim.Optimizer, net: nn.Module, count: int) -> None:
    for number in range(count):
        optimizer.zero_grad()
        net(torch.linspace(-1, 1, 12).view(4, 3) + number).square().sum().backward()
        optimizer.step()


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


@pytest.mark.parametrize(
    ("given", "theirs"),
    [
        ({"momentum": 0.9, "weight_decay": 0.1}, {"momentum": 0.9, "weight_decay": 0.1}),
        (
            {"momentum": 0.9, "weight_decay": 0.0, "nesterov": True},
            {"momentum": 0.9, "nesterov": True},
        ),
        ({"optimizer": "adam", "weight_decay": 0.1}, {"weight_decay": 0.1}),
    ],
)
def test_the_optimisers_are_pytorchs_bit_for_bit_and_take_each_others_states(given: dict, theirs: dict) -> None:
    kind = torch.optim.Adam if given.get("optimizer") == "adam" else torch.optim.SGD
    net, reference = _net(), _net()
    ours = optim.optimizer(TrainConfig(lr=0.01, **given), net)
    other = kind(reference.parameters(), lr=0.01, fused=True, **theirs)
    assert isinstance(ours, kind)
    _steps(ours, net, 3)
    _steps(other, reference, 3)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), reference.parameters(), strict=True))
    again = optim.optimizer(TrainConfig(lr=0.01, **given), net)
    again.load_state_dict(copy.deepcopy(other.state_dict()))
    _steps(again, net, 2)
    _steps(other, reference, 2)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), reference.parameters(), strict=True))


def test_a_step_leaves_no_graph_and_the_gradient_mode_as_it_was() -> None:
    net = _net()
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    _steps(optimizer, net, 1)
    assert torch.is_grad_enabled() and net.weight.is_leaf and net.weight.requires_grad


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(UserError, match=r"NESTEROV needs a TRAIN\.MOMENTUM"):
        optim.optimizer(TrainConfig(lr=0.1, momentum=0.0, nesterov=True), _net())


class _Scored(nn.Module):
    """A layer, and a scorer that is not to be drawn towards zero, as some layers have inside."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scorer, self.frozen = nn.Linear(3, 2), nn.Linear(2, 1), nn.Linear(1, 1)
        self.scorer.decays = False
        self.frozen.requires_grad_(False)


def test_parameters_may_have_a_rate_and_a_decay_of_their_own() -> None:
    net = _Scored()
    usual = optim.optimizer(TrainConfig(lr=0.5, weight_decay=0.1), net).param_groups
    assert [(len(g["params"]), g["weight_decay"], g["lr_factor"]) for g in usual] == [(2, 0.1, 1.0), (2, 0.0, 1.0)]
    group = optim.ParameterGroup(list(net.scorer.parameters()), weight_decay=0.3, lr_factor=0.1)
    ours = optim.optimizer(TrainConfig(lr=0.5, weight_decay=0.1), net, [group]).param_groups
    assert [(g["weight_decay"], g["lr"]) for g in ours] == [(0.1, 0.5), (0.3, pytest.approx(0.05))]
    assert ours[1]["params"] == list(net.scorer.parameters())
    for wrong in ([group, group], [optim.ParameterGroup(list(nn.Linear(1, 1).parameters()))]):
        with pytest.raises(ValueError, match="in two groups, or not in the network"):
            optim.optimizer(TrainConfig(lr=0.5), net, wrong)


def test_norms_biases_have_a_rate_of_their_own_and_decay_by_as_much() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.GroupNorm(1, 2))
    groups = optim.optimizer(TrainConfig(lr=0.5, bias_rate=64, weight_decay=0.01), net).param_groups
    assert [len(group["params"]) for group in groups] == [6, 2]
    assert groups[1]["params"][0] is net[1].bias and groups[1]["params"][1] is net[4].bias
    assert [(group["lr"], group["lr_factor"]) for group in groups] == [(0.5, 1.0), (32.0, 64)]
    assert groups[0]["lr"] * groups[0]["weight_decay"] == groups[1]["lr"] * groups[1]["weight_decay"]


def test_norms_biases_are_not_decayed_where_only_matrices_are_and_a_papers_own_group_stays() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    own = optim.ParameterGroup([net[1].bias], 0.2, 3.0)
    recipe = TrainConfig(lr=0.5, bias_rate=64, decay="matrices")
    groups = optim.optimizer(recipe, net, [own]).param_groups
    found = {id(p): (group["lr_factor"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert found[id(net[1].bias)] == (3.0, 0.2) and found[id(net[2].bias)] == (64, 0.0)
    assert found[id(net[2].weight)] == (1.0, 0.0) and len(found) == 6
