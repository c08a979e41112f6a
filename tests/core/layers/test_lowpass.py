from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillpoint.core.layers import IdealLowPass2d, ideal_lowpass2d


def map_of(h, w, dtype=torch.float64):
    return torch.randn(2, 3, h, w, dtype=dtype)


@pytest.mark.parametrize("shape", [(8, 8), (12, 10), (9, 7), (1, 1), (2, 3)])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_values_are_the_definition(shape, factor):
    x = map_of(*shape)
    spectrum = np.fft.fft2(x.numpy())
    for axis, n in zip((2, 3), shape, strict=True):
        cutoff = ceil(n / (2 * factor))
        keep = np.ones(n)
        keep[cutoff : n - cutoff + 1] = 0
        spectrum = spectrum * (keep[:, None] if axis == 2 else keep)
    want = torch.from_numpy(np.fft.ifft2(spectrum).real)
    torch.testing.assert_close(ideal_lowpass2d(x, factor=factor), want)
    torch.testing.assert_close(IdealLowPass2d(3, 2, factor=factor)(x), want[..., ::2, ::2])


@given(h=st.integers(1, 12), w=st.integers(1, 12), i=st.integers(-9, 9), j=st.integers(-9, 9))
@settings(max_examples=25, deadline=None)
def test_every_circular_shift_commutes_and_a_second_pass_changes_nothing(h, w, i, j):
    x = map_of(h, w)
    y = ideal_lowpass2d(x)
    torch.testing.assert_close(ideal_lowpass2d(x.roll((i, j), (2, 3))), y.roll((i, j), (2, 3)))
    torch.testing.assert_close(ideal_lowpass2d(y), y)


def test_a_circular_shift_by_the_stride_rolls_the_result():
    x, f = map_of(8, 12), IdealLowPass2d()
    torch.testing.assert_close(f(x.roll((2, 6), (2, 3))), f(x).roll((1, 3), (2, 3)))


def test_a_phase_moves_the_grid():
    x, f = map_of(8, 6), IdealLowPass2d()
    y, phase = f(x, torch.tensor([3, 1]), return_grid=True)
    torch.testing.assert_close(y[0], ideal_lowpass2d(x)[0, :, 1::2, 1::2])
    torch.testing.assert_close(y[1], ideal_lowpass2d(x)[1, :, 1::2, ::2])
    assert phase.tolist() == [3, 1]
    assert f(x, return_grid=True)[1] is None


def test_gradient_dtype_and_compilation():
    assert torch.autograd.gradcheck(IdealLowPass2d(), map_of(4, 5).requires_grad_())
    x = map_of(8, 8, torch.bfloat16)
    assert ideal_lowpass2d(x).dtype == torch.bfloat16
    compiled = torch.compile(ideal_lowpass2d, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x.float()), ideal_lowpass2d(x.float()))


def test_exceptions_name_the_value():
    with pytest.raises(ValueError, match="got 0"):
        ideal_lowpass2d(map_of(4, 4), factor=0)
    with pytest.raises(ValueError, match="got -1"):
        IdealLowPass2d(stride=-1)
    with pytest.raises(ValueError, match="int64"):
        ideal_lowpass2d(torch.zeros(1, 1, 4, 4, dtype=torch.int64))
