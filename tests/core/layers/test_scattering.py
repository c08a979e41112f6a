import pytest
import torch
import torch.nn.functional as F

from stillpoint.core.layers import blur_pool2d
from stillpoint.core.layers.scattering import Scattering2d, scattering2d
from stillpoint.core.layers.wavelet_packets import wavelet_packets2d


def images(size=32, batch=2, channels=1):
    return torch.randn(batch, channels, size, size, dtype=torch.float64)


def test_values_are_the_definition():
    x = images(16, channels=2)
    packets = wavelet_packets2d(x, depth=2, stride=2, padding="circular").unflatten(1, (2, 32, 2))
    modulus = packets.square().sum(3).sqrt()
    oriented = [q for q in range(32) if q % 16]
    order1 = blur_pool2d(modulus[:, :, oriented].flatten(1, 2), size=5, padding="circular").unflatten(1, (2, 30))
    order0 = blur_pool2d(blur_pool2d(x, size=5, padding="circular"), size=5, padding="circular")[:, :, None]
    want = torch.cat([order0, order1], 2).flatten(1, 2)
    y = scattering2d(x)
    assert y.shape == (2, 2 * 31, 4, 4)
    torch.testing.assert_close(y, want)


@pytest.mark.parametrize("stride", [4, 8])
def test_a_shift_by_the_stride_rolls_the_result(stride):
    x, f = images(), Scattering2d(2, stride, dtype=torch.float64)
    torch.testing.assert_close(f(x.roll((stride, -3 * stride), (2, 3))), f(x).roll((1, -3), (2, 3)))


def test_a_small_shift_changes_less_than_it_changes_the_image():
    x = F.interpolate(images(16), scale_factor=2, mode="bicubic")
    moved = x.roll((1, 1), (2, 3))
    y, z = scattering2d(x), scattering2d(moved)
    plain = x[..., ::4, ::4]
    change, plainly = (y - z).norm() / y.norm(), (plain - moved[..., ::4, ::4]).norm() / plain.norm()
    assert change < plainly / 2


def test_order_one_sees_neither_a_sign_nor_a_constant():
    x = images()
    y = scattering2d(x)
    torch.testing.assert_close(scattering2d(-x)[:, 1:], y[:, 1:])
    # the published taps sum to zero up to 1e-7
    torch.testing.assert_close(scattering2d(x + 3)[:, 1:], y[:, 1:], rtol=0, atol=1e-5)
    torch.testing.assert_close(scattering2d(2.5 * x), 2.5 * y)


def test_nothing_of_it_is_learned_or_stored():
    f = Scattering2d()
    assert not list(f.parameters()) and not f.state_dict()
    assert f.maps == f(torch.zeros(1, 1, 16, 16)).shape[1] and f.output_size(56) == 14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_on_a_black_image(dtype):
    x = torch.zeros(1, 1, 16, 16, dtype=dtype, requires_grad=True)
    scattering2d(x).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("stride", [0, 2, 6])
def test_impossible_strides_are_refused(stride):
    with pytest.raises(ValueError, match=f"power of two of at least 4, got {stride}"):
        Scattering2d(2, stride)


def test_sizes_that_are_no_multiple_of_the_stride_are_refused():
    with pytest.raises(ValueError, match="multiples of the stride 4, got 30 pixels"):
        scattering2d(images(30))


def test_an_empty_batch_has_empty_maps():
    assert scattering2d(torch.zeros(0, 3, 16, 24)).shape == (0, 3 * 31, 4, 6)
