import pytest
import torch
import torch.nn.functional as F

from stillpoint.core.data.shifts import fourier_shift
from stillpoint.core.layers import PolynomialActivation2d, band_limit2d, ideal_upsample2d, polynomial2d

COEFFICIENTS = torch.tensor([[0.1, 0.5, 0.3], [-0.2, 1.0, 0.7], [0.0, -0.4, 2.0]], dtype=torch.float64)


def map_of(h: int, w: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(2, 3, h, w, dtype=dtype)


def change(function, x: torch.Tensor, shift: tuple[float, float]) -> float:
    """Largest difference between shifting before and after, relative to the largest value."""
    y = function(x)
    return float((function(fourier_shift(x, shift)) - fourier_shift(y, shift)).abs().max() / y.abs().max())


@pytest.mark.parametrize("shape", [(8, 8), (7, 10)])
def test_values_are_the_definition(shape: tuple[int, int]) -> None:
    x, s, t = map_of(*shape), 2.0, 3.0
    a0, a1, a2 = COEFFICIENTS[:, :, None, None].unbind(1)
    scales = {"in_scale": s, "out_scale": t}
    u = s * x
    pointwise = t * (a0 + a1 * u + a2 * u * u)
    torch.testing.assert_close(polynomial2d(x, COEFFICIENTS, form="pointwise", **scales), pointwise)
    filtered = t * (a0 + a1 * u + a2 * u * band_limit2d(u, cutoff=0.6))
    torch.testing.assert_close(polynomial2d(x, COEFFICIENTS, form="filtered", cutoff=0.6, **scales), filtered)
    fine = s * ideal_upsample2d(x)
    fine = band_limit2d(t * (a0 + a1 * fine + a2 * fine * fine), stride=2)
    torch.testing.assert_close(polynomial2d(x, COEFFICIENTS, **scales), fine)
    torch.testing.assert_close(polynomial2d(x, COEFFICIENTS[0]), polynomial2d(x, COEFFICIENTS[:1].expand(3, 3)))


@pytest.mark.parametrize("shift", [(1, 3), (0.5, 0.5), (0.25, 0.125), (0.3, -2.7)])
def test_it_commutes_with_every_shift_and_a_gelu_there_only_with_half_pixels(shift: tuple[float, float]) -> None:
    x = band_limit2d(map_of(12, 12), cutoff=0.9)
    assert change(lambda x: polynomial2d(x, COEFFICIENTS), x, shift) < 1e-13

    def gelu(x: torch.Tensor) -> torch.Tensor:
        return band_limit2d(F.gelu(ideal_upsample2d(x)), stride=2)

    # half a pixel is a whole one of the finer map, where any function of a pixel passes: a test with those sees nothing
    halves = all(float(2 * s).is_integer() for s in shift)
    assert change(gelu, x, shift) < 1e-13 if halves else change(gelu, x, shift) > 1e-4


def test_pointwise_it_commutes_with_whole_pixels_only() -> None:
    x = band_limit2d(map_of(12, 12), cutoff=0.9)
    form = {"form": "pointwise"}
    assert change(lambda x: polynomial2d(x, COEFFICIENTS, **form), x, (3, -2)) < 1e-13
    assert change(lambda x: polynomial2d(x, COEFFICIENTS, **form), x, (0.5, 0.5)) > 1e-2


@pytest.mark.parametrize(("cutoff", "exact"), [(0.5, True), (0.75, True), (0.9, False), (1.0, False)])
def test_before_a_filter_for_a_stride_of_4_one_factor_may_keep_three_quarters(cutoff: float, exact: bool) -> None:
    x = map_of(32, 32)

    def stem(x: torch.Tensor) -> torch.Tensor:
        return band_limit2d(polynomial2d(x, COEFFICIENTS, form="filtered", cutoff=cutoff), cutoff=0.25)

    error = change(stem, x, (0.5, 0.5))
    assert error < 1e-13 if exact else error > 1e-4
    # whole pixels cannot tell
    assert change(stem, x, (5, -7)) < 1e-13


def test_an_even_size_comes_out_without_its_highest_frequency() -> None:
    x = torch.ones(1, 3, 8, 8, dtype=torch.float64)
    x[..., ::2] = -1
    spectrum = torch.fft.fft2(polynomial2d(x, COEFFICIENTS)).abs()
    assert spectrum[..., 4].max() < 1e-12


def test_degree_two_at_twice_the_resolution_is_what_fits() -> None:
    # a cube of a map of band n/2 has band 3n/2, which still folds above what the filter keeps; a fourth power does not
    x = band_limit2d(map_of(12, 12), cutoff=0.9)
    for power, clean in ((2, True), (3, True), (4, False)):
        error = change(lambda x, power=power: band_limit2d(ideal_upsample2d(x) ** power, stride=2), x, (0.25, 0.25))
        assert error < 1e-12 if clean else error > 1e-3


@pytest.mark.parametrize("form", ["upsampled", "filtered", "pointwise"])
def test_gradient(form: str) -> None:
    scales = [torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (1.5, 0.5)]
    inputs = (map_of(4, 5).requires_grad_(), COEFFICIENTS.clone().requires_grad_(), *scales)
    assert torch.autograd.gradcheck(
        lambda x, c, s, t: polynomial2d(x, c, form=form, in_scale=s, out_scale=t), inputs, atol=1e-6
    )


def test_the_module_begins_as_a_gelu_and_names_what_is_trained() -> None:
    layer = PolynomialActivation2d(3, scale=7)
    assert dict(layer.named_parameters()).keys() == {"coefficients", "in_scale", "out_scale"}
    assert layer.coefficients.shape == (3, 3) and float(layer.in_scale) == 7
    fixed = PolynomialActivation2d(3, train_scale=False, form="pointwise")
    assert dict(fixed.named_parameters()).keys() == {"coefficients"} == fixed.state_dict().keys()
    x = torch.linspace(-1, 1, 48).view(1, 3, 4, 4)
    torch.testing.assert_close(fixed(x), F.gelu(x), atol=0.03, rtol=0)
    shared = PolynomialActivation2d(form="pointwise", train=False)
    assert shared(x).shape == x.shape and not shared.coefficients.requires_grad


def test_exceptions_name_the_value() -> None:
    with pytest.raises(ValueError, match="got 'smooth'"):
        PolynomialActivation2d(3, form="smooth")
    with pytest.raises(ValueError, match=r"got \(2, 3\) for a map \(2, 3, 4, 4\)"):
        polynomial2d(map_of(4, 4), COEFFICIENTS[:2])
