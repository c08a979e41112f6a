"""Projected gradient descent finds the worst point of its ball, and never leaves it."""

import pytest
import torch
from torch import nn

from stillpoint.core.evaluation.attack import pgd, project

X = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
Y = torch.tensor([0, 1, 0, 1, 0, 1])


def linear(x):
    """Two classes: the logits are plus and minus the sum of the pixels."""
    total = x.flatten(1).sum(1, keepdim=True) - 8
    return torch.cat([total, -total], 1)


def losses(logits, x, labels=Y):
    return nn.functional.cross_entropy(logits(x), labels, reduction="none")


def lengths(change, norm):
    return change.flatten(1).abs().amax(1) if norm == "linf" else change.flatten(1).norm(dim=1)


@pytest.mark.parametrize(("norm", "reach"), [("linf", 0.1 * 16), ("l2", 0.1 * 4)])
def test_of_a_linear_classifier_it_finds_the_corner_that_is_known(norm, reach):
    found = pgd(linear, X, Y, norm=norm, radius=0.1, steps=5)
    moved = (found - X).flatten(1).sum(1)
    assert torch.allclose(moved, torch.where(Y == 0, -reach, reach).float(), atol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("start", [None, 5 * torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))])
def test_it_stays_within_the_ball_and_the_range_of_pixels_and_is_never_kinder_than_the_image(norm, start):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 20), nn.Tanh(), nn.Linear(20, 2))
    found = pgd(net, X, Y, norm=norm, radius=0.5, steps=4, start=start)
    assert (lengths(found - X, norm) <= 0.5 + 1e-5).all()
    assert found.min() >= 0 and found.max() <= 1
    if start is None:
        assert (losses(net, found) >= losses(net, X)).all()


def test_more_steps_from_the_same_point_are_never_kinder():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 20), nn.Tanh(), nn.Linear(20, 2))
    few, many = (losses(net, pgd(net, X, Y, radius=0.2, steps=n, step_size=0.05)) for n in (2, 8))
    assert (many >= few).all() and (many > few).any()


def test_an_image_is_attacked_as_if_it_were_alone():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    together = pgd(net, X, Y, norm="l2", radius=0.3, steps=3)
    assert torch.allclose(together[2:3], pgd(net, X[2:3], Y[2:3], norm="l2", radius=0.3, steps=3), atol=1e-6)


def test_a_projection_keeps_what_is_inside_and_cuts_what_is_not():
    change = torch.tensor([[0.3, 0.4], [3.0, 4.0]]).view(2, 1, 1, 2)
    assert torch.allclose(project(change, "l2", 1.0).flatten(1), torch.tensor([[0.3, 0.4], [0.6, 0.8]]))
    assert torch.equal(project(change, "linf", 0.35).flatten(1), torch.tensor([[0.3, 0.35], [0.35, 0.35]]))


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="one of linf, l2"):
        pgd(linear, X, Y, norm="l1")
    with pytest.raises(ValueError, match="at least 0 and steps at least 1"):
        pgd(linear, X, Y, steps=0)
