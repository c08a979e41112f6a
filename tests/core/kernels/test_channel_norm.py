"""The kernel of norms over channels beside plain PyTorch."""

import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from stillpoint.core.kernels import channel_norm
from stillpoint.core.layers import channel_norm2d

LAYOUTS = (torch.contiguous_format, torch.channels_last)
# one channel, fewer and more than a register holds, more pixels than a block
SHAPES = [(2, 3, 6, 10), (3, 20, 8, 8), (1, 1, 2, 2), (2, 37, 5, 7), (1, 300, 18, 20)]
NEAR = {torch.float64: (1e-10, 1e-10), torch.float32: (1e-4, 1e-4), torch.bfloat16: (0.02, 0.06)}


@pytest.mark.parametrize("divisor", ["image", "pixel"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_values_and_gradients_are_those_of_the_plain_code(dtype, divisor):
    rtol, atol = NEAR[dtype]
    for shape, layout in itertools.product(SHAPES, LAYOUTS):
        torch.manual_seed(0)
        x = (torch.randn(shape, dtype=dtype) + 3).to(memory_format=layout).requires_grad_()
        weight, bias = (torch.randn(shape[1], requires_grad=True) for _ in range(2))
        assert channel_norm.fused(x)
        y = channel_norm2d(x, weight, bias, divisor=divisor)
        want = channel_norm.plain(x, weight, bias, divisor, 1e-6)
        torch.testing.assert_close(y, want, rtol=rtol, atol=atol)
        assert y.stride() == x.stride()
        seed = torch.randn_like(want)
        found, exact = (torch.autograd.grad(v, (x, weight, bias), seed) for v in (y, want))
        assert [part.dtype for part in found] == [dtype, torch.float32, torch.float32]
        if shape[1] > 1 and dtype != torch.bfloat16:  # one channel is its own mean: what is left is rounding
            torch.testing.assert_close(found, exact, rtol=rtol, atol=10 * atol)


@pytest.mark.parametrize("divisor", ["image", "pixel"])
def test_first_and_second_derivatives(divisor):
    x, weight, bias = (torch.randn(n, dtype=torch.float64, requires_grad=True) for n in ((2, 3, 3, 2), (3,), (3,)))

    def run(*given):
        return channel_norm2d(*given, divisor=divisor, eps=1e-3)

    assert gradcheck(run, (x, weight, bias)) and gradgradcheck(run, (x, weight, bias))
    # of the map alone, where nobody asks for the weights' derivatives
    frozen = (weight.detach(), bias.detach())
    assert gradgradcheck(lambda v: run(v, *frozen), (x,))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("divisor", ["image", "pixel"])
def test_a_circular_shift_moves_the_result(layout, divisor):
    x = torch.randn(2, 70, 13, 11).to(memory_format=layout)
    weight, bias = torch.randn(70), torch.randn(70)
    y = channel_norm2d(x, weight, bias, divisor=divisor)
    moved = channel_norm2d(x.roll((3, -4), (2, 3)).contiguous(memory_format=layout), weight, bias, divisor=divisor)
    # sums over pixels are in double, and rounded once
    torch.testing.assert_close(moved, y.roll((3, -4), (2, 3)), rtol=3e-7, atol=3e-7)
    if divisor == "pixel":
        assert torch.equal(moved, y.roll((3, -4), (2, 3)))


def test_maps_that_are_not_packed_odd_weights_and_threads():
    x, weight, bias = torch.randn(3, 4, 5, 12)[..., ::2], torch.randn(8)[::2], torch.randn(4)
    y = channel_norm2d(x, weight, bias)
    torch.testing.assert_close(y, channel_norm.plain(x, weight, bias, "image", 1e-6))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(channel_norm2d(x, weight, bias), y)
    finally:
        torch.set_num_threads(before)
    assert channel_norm2d(x[:0], weight, bias).shape == (0, 4, 5, 6)


@pytest.mark.parametrize("divisor", ["image", "pixel"])
def test_maps_that_are_stored_past_the_caches_have_the_bits_of_their_images(divisor):
    x = torch.randn(10, 64, 42, 40).to(memory_format=torch.channels_last)  # more than 4 MiB
    weight, bias = torch.randn(64), torch.randn(64)
    y = channel_norm2d(x, weight, bias, divisor=divisor)
    for image, alone in zip(y.split(1), x.split(1), strict=True):
        assert torch.equal(image, channel_norm2d(alone, weight, bias, divisor=divisor))


def test_a_nan_stays_in_its_image():
    x = torch.randn(2, 4, 5, 6)
    x[1, 2, 3, 4] = float("nan")
    y = channel_norm2d(x, torch.ones(4), torch.zeros(4))
    assert y[0].isfinite().all() and y[1].isnan().all()
    y = channel_norm2d(x, torch.ones(4), torch.zeros(4), divisor="pixel")
    assert y.isnan().sum() == 4


def test_compiled_networks_call_the_operator():
    from torch._dynamo.testing import CompileCounter

    counter, weight, bias = CompileCounter(), torch.rand(3), torch.rand(3)
    compiled = torch.compile(lambda x: channel_norm2d(x, weight, bias), backend=counter, fullgraph=True)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(compiled(x), channel_norm2d(x, weight, bias))
    assert counter.frame_count == 1
