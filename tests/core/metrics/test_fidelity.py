import pytest
import torch

from stillpoint.core.metrics.fidelity import all_agree, shift_fidelity


def test_stability_and_fidelity_are_two_things():
    """A net that keeps its class everywhere, and has it right for two images of five."""
    predicted, labels = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([0, 1, 0, 0, 0])
    assert all_agree([predicted] * 3).double().mean() == 1.0
    accuracy = (predicted == labels).double().mean().item()
    assert shift_fidelity(accuracy, 1.0) == pytest.approx(0.4)


def test_one_other_prediction_is_enough_to_disagree():
    first, second, third = torch.tensor([1, 1, 1]), torch.tensor([1, 2, 1]), torch.tensor([1, 1, 0])
    assert all_agree([first, second, third]).tolist() == [True, False, False]


def test_what_is_no_comparison_is_refused():
    with pytest.raises(ValueError, match=r"two or more predictions of one shape, got \[\(3,\)\]"):
        all_agree([torch.zeros(3)])
    with pytest.raises(ValueError, match="two or more"):
        all_agree([torch.zeros(3), torch.zeros(4)])
    with pytest.raises(ValueError, match=r"fractions, got 91\.6 and 0\.9"):
        shift_fidelity(91.6, 0.9)
