import pytest
import torch
import torch.nn.functional as F

from stillpoint.core.data.shifts import fourier_shift
from stillpoint.core.layers import ChannelNorm2d, band_limit2d, channel_norm2d


def test_by_pixel_it_is_the_layer_norm_over_channels() -> None:
    x, weight, bias = torch.randn(2, 5, 6, 4), torch.rand(5), torch.randn(5)
    want = F.layer_norm(x.permute(0, 2, 3, 1), (5,), weight, bias, 1e-6).permute(0, 3, 1, 2)
    torch.testing.assert_close(channel_norm2d(x, weight, bias, divisor="pixel"), want)


def test_by_image_one_number_divides_what_is_left_of_the_mean_over_channels() -> None:
    x = torch.randn(2, 5, 6, 4, dtype=torch.float64) + 100
    y = channel_norm2d(x, torch.ones(5).double(), torch.zeros(5).double())
    centred = x - x.mean(1, keepdim=True)
    want = torch.stack([image / (image.square().mean() + 1e-6).sqrt() for image in centred])
    torch.testing.assert_close(y, want)


@pytest.mark.parametrize(("divisor", "exact"), [("image", True), ("pixel", False)])
def test_only_one_divisor_for_the_image_commutes_with_fractions_of_a_pixel(divisor: str, exact: bool) -> None:
    x = band_limit2d(torch.randn(2, 5, 12, 12, dtype=torch.float64), cutoff=0.9)
    norm = ChannelNorm2d(5, divisor=divisor, dtype=torch.float64)
    for shift in ((0.25, 0.5), (3, -2)):
        error = float((norm(fourier_shift(x, shift)) - fourier_shift(norm(x), shift)).abs().max())
        assert error < 1e-12 if exact or float(shift[0]).is_integer() else error > 1e-2


def test_gradient_dtype_and_exceptions() -> None:
    norm = ChannelNorm2d(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(norm, torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True))
    assert ChannelNorm2d(3)(torch.randn(1, 3, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="pixel, image, got 'row'"):
        ChannelNorm2d(3, divisor="row")
    with pytest.raises(ValueError, match=r"shape \(3, 4\)"):
        channel_norm2d(torch.zeros(3, 4), torch.ones(4), torch.zeros(4))
