import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillpoint.core.data.shifts import fourier_shift
from stillpoint.core.layers import band_limit2d, ideal_upsample2d
from stillpoint.core.layers.resampling import highest_bin


def map_of(h: int, w: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(2, 3, h, w, dtype=dtype)


def limited(h: int, w: int, part: float = 0.9) -> torch.Tensor:
    """A map without its highest frequency, which no fractional shift keeps."""
    return band_limit2d(map_of(h, w), cutoff=part)


@pytest.mark.parametrize("shape", [(8, 8), (12, 9), (7, 6), (1, 1), (2, 3)])
@pytest.mark.parametrize("cutoff", [0.25, 1 / 3, 0.5, 0.75, 1.0])
def test_the_bins_kept_are_those_below_the_cutoff(shape: tuple[int, int], cutoff: float) -> None:
    x = map_of(*shape)
    keep = [
        torch.tensor([abs(k) < n * cutoff / 2 - 1e-9 or cutoff == 1 for k in torch.fft.fftfreq(n, 1 / n).tolist()])
        for n in shape
    ]
    want = torch.fft.ifft2(torch.fft.fft2(x) * (keep[0][:, None] & keep[1])).real
    torch.testing.assert_close(band_limit2d(x, cutoff=cutoff), want)
    torch.testing.assert_close(band_limit2d(x, cutoff=cutoff, stride=(2, 3)), want[..., ::2, ::3])


@pytest.mark.parametrize(("n", "exact", "authors"), [(12, 1, 0), (16, 1, 1), (20, 2, 1), (28, 3, 2), (100, 12, 11)])
def test_the_authors_filters_for_a_stride_of_4_lose_a_bin(n: int, exact: int, authors: int) -> None:
    assert highest_bin(n, 0.25) == exact
    assert highest_bin(n, 0.25, rule="authors") == authors


@pytest.mark.parametrize("n", range(4, 65))
def test_for_a_stride_of_2_both_rules_agree(n: int) -> None:
    assert highest_bin(n, 0.5) == highest_bin(n, 0.5, rule="authors") == math.ceil(n / 4) - 1


@given(h=st.integers(1, 9), w=st.integers(1, 9), factor=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_upsampling_keeps_the_pixels_it_was_made_of_at_any_size_and_factor(h: int, w: int, factor: int) -> None:
    x = map_of(h, w)
    y = ideal_upsample2d(x, factor=factor)
    assert y.shape == (2, 3, factor * h, factor * w)
    torch.testing.assert_close(y[..., ::factor, ::factor], x)
    torch.testing.assert_close(
        ideal_upsample2d(x.roll((1, 2), (2, 3)), factor=factor), y.roll((factor, 2 * factor), (2, 3))
    )


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_upsampling_then_a_roll_is_a_fractional_shift(factor: int) -> None:
    x = limited(9, 8)
    moved = ideal_upsample2d(x, factor=factor).roll((1, -1), (2, 3))[..., ::factor, ::factor]
    torch.testing.assert_close(moved, fourier_shift(x, (1 / factor, -1 / factor)))


def test_the_authors_upsampling_by_3_does_not_keep_the_pixels() -> None:
    x = map_of(6, 6)
    y = ideal_upsample2d(x, factor=3, rule="authors")[..., ::3, ::3]
    assert (y - x).abs().max() > 0.1


@pytest.mark.parametrize("shift", [(0.25, -0.6), (1.5, 2.0)])
def test_filtering_commutes_with_every_shift_also_before_a_stride_that_divides(shift: tuple[float, float]) -> None:
    x = map_of(16, 8)
    torch.testing.assert_close(band_limit2d(fourier_shift(x, shift)), fourier_shift(band_limit2d(x), shift))
    half = (shift[0] / 2, shift[1] / 2)
    strided = band_limit2d(fourier_shift(x, shift), stride=2)
    torch.testing.assert_close(strided, fourier_shift(band_limit2d(x, stride=2), half))


def test_where_the_stride_does_not_divide_the_law_is_lost() -> None:
    x = map_of(10, 10)
    moved = band_limit2d(x.roll(4, 2), cutoff=0.25, stride=4)
    assert (moved - band_limit2d(x, cutoff=0.25, stride=4).roll(1, 2)).abs().max() > 1e-3


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layout_dtype_and_autocast(layout: torch.memory_format) -> None:
    x = map_of(8, 12, torch.float32)
    given = x.to(memory_format=layout)
    for function in (ideal_upsample2d, band_limit2d):
        torch.testing.assert_close(function(given), function(x.double()).float())
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(function(given), function(x))
        assert function(given.bfloat16()).dtype == torch.bfloat16


def test_gradient_inference_mode_and_compilation_at_any_size() -> None:
    for function in (ideal_upsample2d, band_limit2d):
        with torch.inference_mode():
            function(map_of(5, 6))
        # what was kept under inference mode serves a derivative
        assert torch.autograd.gradcheck(function, map_of(5, 6).requires_grad_())
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
        for size in (8, 10):
            x = map_of(size, 12)
            torch.testing.assert_close(compiled(x), function(x))


def test_exceptions_name_the_value() -> None:
    with pytest.raises(ValueError, match="got 0"):
        ideal_upsample2d(map_of(4, 4), factor=0)
    with pytest.raises(ValueError, match=r"\(0, 1\], got 1.5"):
        band_limit2d(map_of(4, 4), cutoff=1.5)
    with pytest.raises(ValueError, match="exact, authors, got 'paper'"):
        band_limit2d(map_of(4, 4), rule="paper")
    with pytest.raises(ValueError, match="int64"):
        ideal_upsample2d(torch.zeros(1, 1, 4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="got -3"):
        band_limit2d(map_of(4, 4), fixed_size=-3)
