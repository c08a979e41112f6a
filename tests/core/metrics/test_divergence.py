"""Divergence against its formula in high precision, and where probabilities underflow."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillpoint.core.metrics.divergence import kl_divergence, shift_divergence


def logits(*shape: int, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_the_sum_of_p_log_p_over_q() -> None:
    a, b = logits(3, 5), logits(3, 5, seed=1)
    p, q = a.softmax(-1), b.softmax(-1)
    torch.testing.assert_close(kl_divergence(a, b), (p * (p / q).log()).sum(-1))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), constant=st.floats(-50, 50), scale=st.floats(0.01, 30))
def test_it_is_never_negative_and_blind_to_a_constant(seed: int, constant: float, scale: float) -> None:
    a, b = logits(4, 6, seed=seed, scale=scale), logits(4, 6, seed=seed + 1, scale=scale)
    torch.testing.assert_close(kl_divergence(a + constant, b), kl_divergence(a, b), atol=1e-9, rtol=1e-9)
    assert (kl_divergence(a, b) > -1e-12).all()
    assert (kl_divergence(a, a) == 0).all()


def test_nothing_underflows_in_single_precision() -> None:
    a = torch.tensor([[0.0, 300.0, -300.0]])
    b = torch.tensor([[300.0, 0.0, 10.0]])
    assert b.softmax(-1)[0, 1] == 0  # a quotient of probabilities would be infinite here
    torch.testing.assert_close(kl_divergence(a, b), torch.tensor([300.0]))
    assert kl_divergence(a, -a).isfinite().all()


def test_shifts_are_compared_with_the_first_one() -> None:
    z = logits(2, 4, 3)
    got = shift_divergence(z)
    assert (got[:, 0] == 0).all()
    for shift in range(4):
        torch.testing.assert_close(got[:, shift], kl_divergence(z[:, 0], z[:, shift]))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="logits of 5 and 4 classes"):
        kl_divergence(logits(2, 5), logits(2, 4))
    with pytest.raises(ValueError, match=r"\(B, S, K\), got shape \(2, 5\)"):
        shift_divergence(logits(2, 5))
