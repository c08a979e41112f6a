"""The penalty and the gradient record."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillpoint.core.base.errors import UserError
from stillpoint.pipelines.wavelet_twins.penalty import concentration, penalty, row_gradients

# a tenth of the smallest floats is zero
weights = st.floats(-3, 3).map(lambda v: round(v, 12))


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.lists(weights, min_size=3, max_size=3), min_size=1, max_size=4),
    factor=st.floats(0.1, 10),
)
def test_it_is_the_quotient_of_norms_less_one_whatever_the_scale(rows: list[list[float]], factor: float) -> None:
    weight = torch.tensor(rows, dtype=torch.float64)
    want = sum(sum(map(abs, row)) / max(map(abs, row)) - 1 for row in rows if any(row))
    torch.testing.assert_close(concentration(weight).item(), float(want), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(concentration(factor * weight), concentration(weight), rtol=1e-9, atol=1e-9)


def test_a_row_of_one_packet_is_free_and_a_flat_one_costs_the_most() -> None:
    assert concentration(torch.tensor([[0.0, -2.0, 0.0]])) == 0
    assert concentration(torch.tensor([[0.5, -0.5, 0.5]])) == 2
    assert concentration(torch.tensor([[3.0], [-1.0]])) == 0


def test_a_row_of_zeros_gives_neither_nan_nor_gradient() -> None:
    weight = torch.zeros(2, 3, requires_grad=True)
    concentration(weight).backward()
    assert torch.equal(weight.grad, torch.zeros(2, 3))


def test_sections_are_weighted_and_must_be_matched() -> None:
    weights = [torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 1.0]])]
    assert penalty(weights, [0.5, 2.0]).item() == pytest.approx(0.5 + 1.0)
    with pytest.raises(UserError, match="factors must be one for each of 2 sections of packets"):
        penalty(weights, [0.5])


def test_gradients_are_recorded_by_their_largest_in_each_row() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 3))
    with pytest.raises(ValueError, match="no gradient yet"):
        row_gradients([weight])
    (weight * torch.tensor([[1.0, -4.0, 2.0], [0.0, 0.5, -0.25]])).sum().backward()
    assert row_gradients([weight])[0].tolist() == [4.0, 0.5]
