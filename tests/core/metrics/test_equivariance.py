import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stillpoint.core.data.shifts import roll
from stillpoint.core.layers.polyphase import PolyphaseDownsample2d
from stillpoint.core.metrics import equivariance_error, nmse, psnr, ssim


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_whole_shifts_of_a_grid_are_followed_exactly():
    x = noise(3, 2, 12, 8)
    error = equivariance_error(x[..., ::4, ::2], roll(x, (8, -2))[..., ::4, ::2], shift=(8, -2), size=(12, 8))
    assert error.tolist() == [0, 0, 0]


@pytest.mark.parametrize("shift", [(1, 0), (0, 1), (3, 5), (-1, 2), (16, -7)])
def test_adaptive_sampling_moves_by_the_shift_rounded_down_or_up(shift):
    # two halvings: the map moves by s/4, rounded at each of them
    x = noise(4, 3, 16, 16)
    layer = PolyphaseDownsample2d(3, 2)

    def cascade(image):
        return layer(layer(image))

    assert equivariance_error(cascade(x), cascade(roll(x, shift)), shift=shift, size=(16, 16)).max() == 0
    fixed = equivariance_error(x[..., ::4, ::4], roll(x, shift)[..., ::4, ::4], shift=shift, size=(16, 16))
    assert fixed.min() > 0.1


def test_vectors_must_not_move():
    a = noise(2, 5)
    b = a.clone()
    b[1, 2] += 0.5
    error = equivariance_error(a, b, shift=(1, 0), size=(8, 8))
    assert error[0] == 0
    assert error[1] == pytest.approx(0.5 / float(a[1].abs().max()), rel=1e-6)


def test_upsampled_maps_move_further():
    x = noise(2, 1, 6, 6)
    up = F.interpolate(x, scale_factor=2, mode="nearest")
    moved = F.interpolate(roll(x, (1, 2)), scale_factor=2, mode="nearest")
    assert equivariance_error(up, moved, shift=(1, 2), size=(6, 6)).max() == 0


def test_maps_of_another_rank_are_refused():
    with pytest.raises(ValueError, match="maps must be"):
        equivariance_error(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), shift=(1, 0), size=(4, 4))


def test_nmse_and_psnr_are_their_definitions():
    a, b = np.abs(np.random.RandomState(0).randn(2, 3, 1, 9, 9))
    got = nmse(torch.from_numpy(a), torch.from_numpy(b)), psnr(torch.from_numpy(a), torch.from_numpy(b))
    for i in range(3):
        assert float(got[0][i]) == pytest.approx(((a[i] - b[i]) ** 2).sum() / (a[i] ** 2).sum(), rel=1e-12)
        decibel = 20 * math.log10(a[i].max() / math.sqrt(((a[i] - b[i]) ** 2).mean()))
        assert float(got[1][i]) == pytest.approx(decibel, rel=1e-12)
    assert psnr(torch.from_numpy(a), torch.from_numpy(a)).isinf().all()


def test_ssim_is_its_definition_window_by_window():
    a, b = np.abs(np.random.RandomState(1).randn(2, 2, 2, 11, 9))
    got = ssim(torch.from_numpy(a), torch.from_numpy(b))
    for i in range(2):
        peak, values = a[i].max(), []
        for c in range(2):
            for top in range(11 - 6):
                for left in range(9 - 6):
                    p, q = (im[i, c, top : top + 7, left : left + 7].ravel() for im in (a, b))
                    (vp, cov), (_, vq) = np.cov(p, q)
                    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
                    luminance = (2 * p.mean() * q.mean() + c1) / (p.mean() ** 2 + q.mean() ** 2 + c1)
                    values.append(luminance * (2 * cov + c2) / (vp + vq + c2))
        assert float(got[i]) == pytest.approx(np.mean(values), rel=1e-10)
    assert torch.equal(ssim(torch.from_numpy(a), torch.from_numpy(a)), torch.ones(2, dtype=torch.float64))


def test_images_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match="7x7"):
        ssim(torch.zeros(1, 1, 6, 9), torch.zeros(1, 1, 6, 9))
    with pytest.raises(ValueError, match="cannot be compared"):
        nmse(torch.zeros(1, 1, 6, 9), torch.zeros(1, 1, 9, 6))
