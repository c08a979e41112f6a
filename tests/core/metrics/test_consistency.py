import pytest
import torch

from stillpoint.core.metrics import agreement, consistency


def test_agreement_is_equality_of_the_first_argmax():
    first = torch.tensor([[1.0, 3.0, 3.0], [2.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    second = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [5.0, 5.0, 5.0]])
    assert agreement(first, second).tolist() == [True, False, True]
    assert consistency(first, second) == 2 / 3
    assert agreement(first.expand(4, 3, 3), second).shape == (4, 3)


def test_a_diverged_network_agrees_with_nothing():
    broken = torch.full((4, 3), float("nan"))
    assert not agreement(broken, broken).any()


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="3 and 4 classes"):
        agreement(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="at least one image"):
        consistency(torch.zeros(0, 3), torch.zeros(0, 3))
