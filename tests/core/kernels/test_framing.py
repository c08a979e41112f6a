"""The framed phases, and means of rectified maps, beside plain PyTorch."""

import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from stillpoint.core.kernels import activity, framing
from stillpoint.core.layers import phase_scorer
from stillpoint.core.layers.phase_convolution import framed_phases, split_phases

LAYOUTS = (torch.contiguous_format, torch.channels_last)
SHAPES = [(2, 3, 6, 10), (3, 20, 8, 8), (1, 1, 2, 2), (2, 5, 2, 8), (2, 9, 4, 36)]


@pytest.mark.parametrize("padding", framing.FRAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_they_and_their_gradient_have_the_bits_of_the_plain_code(monkeypatch, dtype, padding):
    for shape, layout in itertools.product(SHAPES, LAYOUTS):
        x = torch.randn(shape, dtype=dtype).to(memory_format=layout).requires_grad_()
        assert framing.fused(x, padding)
        y = framed_phases(x, 2, padding)
        with monkeypatch.context() as patch:
            patch.setattr(framing, "fused", lambda *all: False)
            want = framed_phases(x, 2, padding)
        assert torch.equal(y, want)
        assert torch.equal(y[..., 1:-1, 1:-1], split_phases(x, stride=2))
        assert y.is_contiguous(memory_format=layout)
        seed = torch.randn_like(want)
        found, exact = (torch.autograd.grad(v, x, seed)[0] for v in (y, want))
        assert torch.equal(found, exact)


@pytest.mark.parametrize("padding", framing.FRAMES)
def test_derivatives_of_every_order_of_the_framed_phases(padding):
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    assert gradcheck(framing.framed_phases, (x, padding)) and gradgradcheck(framing.framed_phases, (x, padding))


def test_maps_that_are_not_packed_and_other_frames():
    x = torch.randn(2, 3, 8, 20)[..., ::5]
    assert torch.equal(framed_phases(x, 2, "circular"), framed_phases(x.contiguous(), 2, "circular"))
    assert not framing.fused(x, "reflect") and not framing.fused(x[..., 1:], "zeros")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_they_do_not_depend_on_the_number_of_threads(layout):
    before, x = torch.get_num_threads(), torch.randn(3, 5, 8, 8).to(memory_format=layout).requires_grad_()
    y = framed_phases(x, 2, "circular")
    seed = torch.randn_like(y)
    (found,) = torch.autograd.grad(y, x, seed)
    try:
        torch.set_num_threads(2)
        again = framed_phases(x, 2, "circular")
        assert torch.equal(again, y) and torch.equal(torch.autograd.grad(again, x, seed)[0], found)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_mean_of_a_rectified_map_and_its_derivatives(dtype):
    for layout in LAYOUTS:
        x = torch.randn(3, 4, 5, 6).to(dtype).to(memory_format=layout).requires_grad_()
        y, want = activity.mean_rectified(x), activity.plain(x)
        assert torch.equal(y, want)
        seed = torch.randn_like(want)
        found, exact = (torch.autograd.grad(v, x, seed)[0] for v in (y, want))
        torch.testing.assert_close(found, exact)
        assert found.stride() == x.stride()
    if dtype == torch.float64:
        assert gradcheck(activity.mean_rectified, x) and gradgradcheck(activity.mean_rectified, x)


def test_compiled_scorers_call_the_operator():
    from torch._dynamo.testing import CompileCounter

    counter, scorer, x = CompileCounter(), phase_scorer("conv", channels=3, hidden=2), torch.randn(2, 3, 8, 8)
    compiled = torch.compile(scorer, backend=counter, fullgraph=True)
    torch.testing.assert_close(compiled(x), scorer(x))
    assert counter.frame_count == 1
