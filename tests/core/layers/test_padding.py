import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.layers import PADDINGS, pad
from tests.core.layers.definitions import MODES


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", [(2, 7), (2, 3, 5, 6), (1, 2, 4, 5, 6)])
@pytest.mark.parametrize("ends", [(0, 0), (0, 1), (1, 2), (3, 0)])
def test_values_are_numpys(padding, shape, ends):
    x = torch.randn(shape, dtype=torch.float64)
    dims = max(len(shape) - 2, 1)
    want = np.pad(x.numpy(), [(0, 0)] * (len(shape) - dims) + [ends] * dims, mode=MODES[padding])
    assert np.array_equal(pad(x, [ends] * dims, padding=padding).numpy(), want)


@given(n=st.integers(1, 5), before=st.integers(0, 13), after=st.integers(0, 13))
@settings(max_examples=25, deadline=None)
def test_circular_padding_wraps_as_often_as_it_takes(n, before, after):
    x = torch.arange(n, dtype=torch.float64)[None]
    want = torch.arange(-before, n + after).remainder(n).double()[None]
    assert torch.equal(pad(x, [(before, after)], padding="circular"), want)


@pytest.mark.parametrize("padding", PADDINGS)
def test_negative_pads_crop(padding):
    x = torch.randn(1, 2, 5, 6)
    assert torch.equal(pad(x, [(-1, -2), (-2, 0)], padding=padding), x[:, :, 1:3, 2:])


@pytest.mark.parametrize("padding", PADDINGS)
def test_gradient(padding):
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pad(x, [(2, 3), (-1, 2)], padding=padding), x)
    assert torch.autograd.gradgradcheck(lambda x: pad(x, [(2, 3), (-1, 2)], padding=padding), x)


@pytest.mark.parametrize(("before", "after"), [(0, 0), (0, 4), (4, 0), (4, 4), (1, 3), (3, 5), (9, 2)])
def test_the_gradient_of_a_wrap_sums_what_each_pixel_became(before, after):
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    seed = torch.randn(2, before + 4 + after, dtype=torch.float64)
    (got,) = torch.autograd.grad(pad(x, [(before, after)], padding="circular"), x, seed)
    want = torch.zeros(2, 4, dtype=torch.float64)
    want.index_add_(1, torch.arange(-before, 4 + after).remainder(4), seed)
    torch.testing.assert_close(got, want)


def test_exceptions_name_the_number_and_the_choice():
    x = torch.zeros(1, 1, 3, 2)
    with pytest.raises(ValueError, match=r"reflect, replicate, zeros, circular.*'mirror'"):
        pad(x, [(1, 1)], padding="mirror")
    with pytest.raises(ValueError, match=r"up to 2 pixels.*3x2"):
        pad(x, [(1, 1), (1, 2)], padding="reflect")
    with pytest.raises(ValueError, match=r"leaves nothing.*3x2"):
        pad(x, [(0, 0), (-1, -1)], padding="zeros")
