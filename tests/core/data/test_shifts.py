import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stillpoint.core.data.shifts import crop_subpixel, crop_window, fourier_shift, roll, shift_zeros

WHOLE = st.tuples(st.integers(-40, 40), st.integers(-40, 40))
REAL = st.tuples(st.floats(-9, 9), st.floats(-9, 9))
SIZE = st.integers(1, 9)


def images(h, w, batch=3):
    return torch.randn(batch, 2, h, w, dtype=torch.float64)


@given(h=SIZE, w=SIZE, shifts=st.lists(WHOLE, min_size=3, max_size=3))
@settings(max_examples=25, deadline=None)
def test_roll_moves_every_image_by_its_own_shift(h, w, shifts):
    x = images(h, w)
    got = roll(x, torch.tensor(shifts))
    assert torch.equal(got, torch.stack([torch.roll(image, s, (1, 2)) for image, s in zip(x, shifts, strict=True)]))
    assert torch.equal(roll(x, shifts), got)
    assert torch.equal(roll(got, -torch.tensor(shifts)), x)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32])
def test_one_shift_moves_the_whole_batch_in_any_dtype(dtype):
    x = (images(5, 6) * 50).abs().to(dtype)
    for shift in ((2, -3), torch.tensor([2, -3])):
        assert torch.equal(roll(x, shift), torch.roll(x, (2, -3), (2, 3)))


@given(h=SIZE, w=SIZE, shifts=st.lists(WHOLE, min_size=3, max_size=3))
@settings(max_examples=25, deadline=None)
def test_shift_zeros_is_a_window_of_the_padded_image(h, w, shifts):
    x = images(h, w)
    padded = F.pad(x, (40, 40, 40, 40))
    want = [p[:, 40 - i : 40 - i + h, 40 - j : 40 - j + w] for p, (i, j) in zip(padded, shifts, strict=True)]
    assert torch.equal(shift_zeros(x, torch.tensor(shifts)), torch.stack(want))
    assert torch.equal(shift_zeros(x, shifts[0])[0], want[0])


@given(data=st.data(), h=SIZE, w=SIZE)
@settings(max_examples=25, deadline=None)
def test_crop_window_cuts_every_image_at_its_own_offset(data, h, w):
    height, width = data.draw(st.integers(1, h)), data.draw(st.integers(1, w))
    one = st.tuples(st.integers(0, h - height), st.integers(0, w - width))
    offsets = data.draw(st.lists(one, min_size=3, max_size=3))
    x = images(h, w)
    want = [image[:, i : i + height, j : j + width] for image, (i, j) in zip(x, offsets, strict=True)]
    assert torch.equal(crop_window(x, torch.tensor(offsets), (height, width)), torch.stack(want))
    for one_offset in (offsets[0], torch.tensor(offsets[0])):
        assert torch.equal(crop_window(x, one_offset, (height, width))[0], want[0])


@given(h=SIZE, w=SIZE, shift=WHOLE)
@settings(max_examples=25, deadline=None)
def test_a_whole_fourier_shift_is_a_roll(h, w, shift):
    x = images(h, w)
    torch.testing.assert_close(fourier_shift(x, shift), roll(x, shift))
    torch.testing.assert_close(fourier_shift(x.float(), shift), roll(x.float(), shift), rtol=0, atol=1e-5)


@given(h=st.integers(0, 4), w=st.integers(0, 4), a=REAL, b=REAL)
@settings(max_examples=25, deadline=None)
def test_fourier_shifts_add_up_and_keep_the_energy_at_odd_sizes(h, w, a, b):
    x = images(2 * h + 1, 2 * w + 1)
    both = fourier_shift(x, (a[0] + b[0], a[1] + b[1]))
    torch.testing.assert_close(fourier_shift(fourier_shift(x, a), b), both)
    torch.testing.assert_close(both.square().sum(), x.square().sum())


def test_fourier_shifts_add_up_at_even_sizes_without_the_highest_frequency():
    x = images(6, 8)
    spectrum = torch.fft.fft2(x)
    spectrum[:, :, 3], spectrum[:, :, :, 4] = 0, 0
    smooth = torch.fft.ifft2(spectrum).real
    twice = fourier_shift(fourier_shift(smooth, (0.5, 0.25)), (0.5, 0.75))
    torch.testing.assert_close(twice, roll(smooth, (1, 1)))
    assert (fourier_shift(fourier_shift(x, (0.5, 0.0)), (0.5, 0.0)) - roll(x, (1, 0))).abs().max() > 0.05


def test_a_fourier_shift_moves_a_wave_by_a_fraction():
    rows, columns = torch.meshgrid(torch.arange(9.0).double(), torch.arange(8.0).double(), indexing="ij")

    def wave(i, j):
        return torch.cos(2 * np.pi * (2 * (rows - i) / 9 + 3 * (columns - j) / 8))[None, None]

    shifts = torch.tensor([[0.3, -1.7], [2.5, 0.5]], dtype=torch.float64)
    got = fourier_shift(wave(0, 0).expand(2, 1, 9, 8), shifts)
    torch.testing.assert_close(got, torch.cat([wave(*s) for s in shifts.tolist()]))


def test_the_highest_frequency_is_multiplied_by_a_cosine_on_either_axis():
    alternating = torch.tensor([1.0, -1.0] * 4).double()[:, None] * torch.randn(5, dtype=torch.float64)
    for x, shift in ((alternating, (0.3, 0.0)), (alternating.T, (0.0, 0.3))):
        torch.testing.assert_close(fourier_shift(x[None, None], shift)[0, 0], x * np.cos(np.pi * 0.3))


@given(h=SIZE, w=SIZE, shift=REAL)
@settings(max_examples=25, deadline=None)
def test_rows_and_columns_are_treated_alike(h, w, shift):
    x = images(h, w)
    torch.testing.assert_close(fourier_shift(x.mT, shift[::-1]).mT, fourier_shift(x, shift))


def test_fourier_shift_is_differentiable_and_keeps_half_precision():
    assert torch.autograd.gradcheck(lambda x: fourier_shift(x, (0.3, 1.2)), images(4, 5, 1).requires_grad_())
    assert fourier_shift(images(4, 4).bfloat16(), (0.5, 0.5)).dtype == torch.bfloat16


@pytest.mark.parametrize("factor", [2, 4])
def test_crop_subpixel_moves_a_ramp_by_fractions(factor):
    fine = (torch.arange(24.0 * factor).double()[:, None] * 10 + torch.arange(24.0 * factor)).expand(2, 1, -1, -1)
    offsets = torch.tensor([[1, 0], [factor, 3]])
    base = crop_subpixel(fine, (0, 0), 16, factor=factor)
    got = crop_subpixel(fine, offsets, 16, factor=factor)
    moved = (offsets.double() @ torch.tensor([10.0, 1.0]).double())[:, None, None, None]
    torch.testing.assert_close(got - base, moved.expand_as(got), rtol=0, atol=1e-9)


def test_crop_subpixel_at_whole_pixels_moves_the_result():
    fine = images(40, 40)
    a, b = crop_subpixel(fine, (0, 0), 16), crop_subpixel(fine, (2, 4), 16)
    torch.testing.assert_close(b[..., 1:-2, 1:-3], a[..., 2:-1, 3:-1])


def test_exceptions_name_the_value():
    x = images(5, 6)
    with pytest.raises(ValueError, match=r"\(2,\) or \(3, 2\), got \(2, 2\)"):
        roll(x, torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"integers, got torch.float32"):
        shift_zeros(x, (0.5, 0.5))
    with pytest.raises(ValueError, match="6x6 does not fit images of 5x6"):
        crop_window(x, (0, 0), 6)
    for offsets in ((-1, 0), torch.tensor([[0, 0], [0, 4], [0, 0]])):
        with pytest.raises(ValueError, match=r"\(0, 0\) to \(2, 3\)"):
            crop_window(x, offsets, 3)
    with pytest.raises(ValueError, match=r"floating image, got torch.uint8"):
        fourier_shift(x.to(torch.uint8), (0.5, 0.5))
    with pytest.raises(ValueError, match="four axes"):
        roll(x[0], (1, 1))
