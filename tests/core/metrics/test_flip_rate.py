"""Flip rates against counting by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillpoint.core.metrics.flip_rate import flip_rates, flips


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 2), min_size=5, max_size=5), min_size=1, max_size=4), step=st.integers(1, 4)
)
def test_it_counts_pairs_of_shifts_a_step_apart(rows: list[list[int]], step: int) -> None:
    predictions = torch.tensor(rows)
    pairs = [row[k] != row[k + step] for row in rows for k in range(5 - step)]
    assert flips(predictions, step).flatten().tolist() == pairs
    assert flip_rates(predictions, 4)[step - 1].item() == pytest.approx(sum(pairs) / len(pairs))


def test_a_constant_classifier_never_flips_and_an_alternating_one_flips_at_odd_steps() -> None:
    assert flip_rates(torch.full((3, 6), 7), 5).tolist() == [0] * 5
    assert flip_rates(torch.tensor([[0, 1] * 3]), 5).tolist() == [1, 0, 1, 0, 1]


@pytest.mark.parametrize("step", [0, 4, -1])
def test_steps_without_a_pair_are_refused(step: int) -> None:
    with pytest.raises(ValueError, match="step must be from 1 to 3 for 4 shifts"):
        flips(torch.zeros(2, 4, dtype=torch.long), step)


def test_logits_are_refused() -> None:
    with pytest.raises(ValueError, match="class numbers"):
        flips(torch.zeros(2, 4), 1)
