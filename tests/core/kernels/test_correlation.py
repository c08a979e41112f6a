import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from stillpoint.core.kernels import correlation
from stillpoint.core.kernels.correlation import strided_correlation, transposed


def operands(axis, extent, taps, *, channels=3, dtype=torch.float64):
    torch.manual_seed(0)
    shape = (2, channels, extent, 4) if axis == 2 else (2, channels, 4, extent)
    weight = torch.randn(5, channels, *((taps, 1) if axis == 2 else (1, taps)), dtype=dtype)
    return torch.randn(shape, dtype=dtype, requires_grad=True), weight


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3, 17])
def test_values_and_gradients_are_those_of_the_convolution(axis, stride, channels):
    for extent, taps, before in itertools.product((1, 7, 12), (3, 6, 7), (0, 2, 5)):
        if extent + 2 * before < taps:
            continue
        x, weight = operands(axis, extent, taps, channels=channels)
        place = (axis == 2, axis == 3)
        steps, pads = (tuple(value if here else rest for here in place) for value, rest in ((stride, 1), (before, 0)))
        want = F.conv2d(x, weight, stride=steps, padding=pads)
        got = strided_correlation(x, weight, axis, stride, before)
        torch.testing.assert_close(got, want)
        seed = torch.randn_like(want)
        torch.testing.assert_close(torch.autograd.grad(got, x, seed), torch.autograd.grad(want, x, seed))


@pytest.mark.parametrize("axis", [2, 3])
def test_derivatives_of_both_orders(axis):
    x, weight = operands(axis, 7, 5)
    assert gradcheck(lambda x: strided_correlation(x, weight, axis, 2, 2), x)
    assert gradgradcheck(lambda x: strided_correlation(x, weight, axis, 2, 2), x)


def test_the_transpose_is_the_transpose():
    x, weight = operands(3, 9, 6)
    forward = strided_correlation(x.detach(), weight, 3, 3, 1)
    y = torch.randn_like(forward)
    torch.testing.assert_close((transposed(y, weight, 3, 3, 1, 9) * x.detach()).sum(), (forward * y).sum())


@pytest.mark.parametrize("taps", [30, 12])
def test_bfloat16_has_a_transpose_of_its_own_digits(taps):
    # with AMX, PyTorch's convolution has none for these shapes
    torch.manual_seed(0)
    weight, y = torch.randn(8, 1, taps, 1), torch.randn(1, 8, 56, 64)
    half = transposed(y.bfloat16(), weight.bfloat16(), 2, 4, 0, 220 + taps)
    assert half.dtype == torch.bfloat16
    want = transposed(y.bfloat16().double(), weight.bfloat16().double(), 2, 4, 0, 220 + taps)
    torch.testing.assert_close(half.double(), want, atol=0.01 * want.abs().max().item(), rtol=0.01)


def test_filters_that_learn_are_left_to_pytorch(monkeypatch):
    monkeypatch.setattr(correlation, "_Correlation", None)
    x, weight = operands(2, 7, 4)
    weight.requires_grad_()
    strided_correlation(x, weight, 2, 2, 1).sum().backward()
    assert weight.grad is not None


def test_autocast_gives_a_gradient_in_the_dtype_of_the_input():
    x, weight = operands(2, 8, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = strided_correlation(x, weight, 2, 2, 1)
    assert y.dtype == torch.bfloat16
    (found,) = torch.autograd.grad(y.float().sum(), x)
    (want,) = torch.autograd.grad(F.conv2d(x, weight, stride=(2, 1), padding=(1, 0)).sum(), x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, want, rtol=0.05, atol=0.05)


def test_torch_compile_takes_it_without_a_graph_break():
    x, weight = operands(2, 8, 4, dtype=torch.float32)

    def energy(x):
        return strided_correlation(x, weight, 2, 2, 1).square().sum()

    compiled = torch.compile(energy, fullgraph=True, backend="aot_eager")
    got, want = (torch.autograd.grad(f(x), x)[0] for f in (compiled, energy))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("axis", [2, 3])
def test_the_operators_of_the_gpu_path_obey_the_rules_of_operators(axis):
    x, weight = operands(axis, 8, 5, dtype=torch.float32)
    y = torch.randn_like(correlation._correlation(x, weight, axis, 2, 1)).requires_grad_()
    torch.library.opcheck(correlation._correlation.overload, (x, weight, axis, 2, 1))
    torch.library.opcheck(correlation._adjoint.overload, (y, weight, axis, 2, 1, 8))


def test_the_operators_of_the_gpu_path_have_derivatives_of_both_orders():
    x, weight = operands(3, 7, 5)
    assert gradcheck(lambda x: correlation._correlation(x, weight, 3, 2, 2), x)
    assert gradgradcheck(lambda x: correlation._correlation(x, weight, 3, 2, 2), x)
    want = strided_correlation(x, weight, 3, 2, 2)
    torch.testing.assert_close(correlation._correlation(x, weight, 3, 2, 2), want)
