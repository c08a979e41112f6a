import math

import numpy as np
import pytest
import torch

from stillpoint.core.metrics import relative_logit_change


def test_it_is_the_largest_difference_over_the_largest_logit():
    random = np.random.RandomState(0)
    a, b = random.randn(2, 20, 7)
    wanted = [max(abs(p - q)) / max(abs(p)) for p, q in zip(a, b, strict=True)]
    got = relative_logit_change(torch.from_numpy(a), torch.from_numpy(b))
    assert got.dtype == torch.float64
    assert got.tolist() == wanted
    scaled = relative_logit_change(torch.from_numpy(4 * a), torch.from_numpy(4 * b))
    assert scaled.tolist() == wanted


def test_zero_logits_give_finite_numbers():
    zero, one = torch.zeros(1, 3), torch.ones(1, 3)
    assert relative_logit_change(zero, zero).item() == 0
    assert math.isfinite(relative_logit_change(zero, 1e30 * one).item())


def test_float32_differences_are_not_rounded_away():
    a = torch.tensor([[1.0, 0.5]])
    b = torch.tensor([[1.0 + 2**-23, 0.5]])
    assert relative_logit_change(a, b).item() == 2**-23


def test_nan_stays_nan_and_shapes_must_match():
    assert relative_logit_change(torch.tensor([[float("nan")]]), torch.ones(1, 1)).isnan().all()
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        relative_logit_change(torch.zeros(2, 3), torch.zeros(1, 3))
