import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stillpoint.core.kernels import pool
from stillpoint.core.layers import PADDINGS, PaddedConv2d, pad
from tests.core.layers.definitions import MODES


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", [(2, 7), (2, 3, 5, 6), (1, 2, 4, 5, 6)])
@pytest.mark.parametrize("ends", [(0, 0), (0, 1), (1, 2), (3, 0), (1, 1), (3, 3)])
def test_values_are_numpys(padding, shape, ends):
    x = torch.randn(shape, dtype=torch.float64)
    dims = max(len(shape) - 2, 1)
    want = np.pad(x.numpy(), [(0, 0)] * (len(shape) - dims) + [ends] * dims, mode=MODES[padding])
    assert np.array_equal(pad(x, [ends] * dims, padding=padding).numpy(), want)


@given(n=st.integers(1, 5), before=st.integers(0, 13), after=st.integers(0, 13))
@settings(max_examples=25, deadline=None)
def test_circular_padding_wraps_as_often_as_it_takes(n, before, after):
    x = torch.arange(n, dtype=torch.float64)[None]
    want = torch.arange(-before, n + after).remainder(n).double()[None]
    assert torch.equal(pad(x, [(before, after)], padding="circular"), want)


@given(height=st.integers(1, 5), width=st.integers(1, 5), margin=st.integers(1, 13))
@settings(max_examples=25, deadline=None)
def test_so_it_does_in_two_dimensions(height, width, margin):
    x = torch.arange(1.0, 1 + height * width).reshape(1, 1, height, width)
    want = np.pad(x.numpy(), [(0, 0), (0, 0), (margin, margin), (margin, margin)], mode="wrap")
    assert np.array_equal(pad(x, [(margin, margin)] * 2, padding="circular").numpy(), want)


@pytest.mark.parametrize("padding", PADDINGS)
def test_negative_pads_crop(padding):
    x = torch.randn(1, 2, 5, 6)
    assert torch.equal(pad(x, [(-1, -2), (-2, 0)], padding=padding), x[:, :, 1:3, 2:])


@pytest.mark.parametrize("padding", PADDINGS)
def test_gradient(padding):
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pad(x, [(2, 3), (-1, 2)], padding=padding), x)
    assert torch.autograd.gradgradcheck(lambda x: pad(x, [(2, 3), (-1, 2)], padding=padding), x)


@pytest.mark.parametrize(("before", "after"), [(0, 0), (0, 4), (4, 0), (4, 4), (1, 3), (3, 5), (9, 2)])
def test_the_gradient_of_a_wrap_sums_what_each_pixel_became(before, after):
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    seed = torch.randn(2, before + 4 + after, dtype=torch.float64)
    (got,) = torch.autograd.grad(pad(x, [(before, after)], padding="circular"), x, seed)
    want = torch.zeros(2, 4, dtype=torch.float64)
    want.index_add_(1, torch.arange(-before, 4 + after).remainder(4), seed)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_circular_padding_keeps_the_layout_and_its_gradient_is_pytorchs(dtype, layout):
    x = torch.randn(2, 3, 4, 6).to(dtype).contiguous(memory_format=layout).requires_grad_()
    assert pool.fused(x)
    got, want = pad(x, [(2, 2)] * 2, padding="circular"), F.pad(x, [2] * 4, mode="circular")
    assert torch.equal(got, want)
    assert got.is_contiguous(memory_format=layout)
    # whole numbers, whose sums are exact in any order
    seed = torch.randint(-8, 8, got.shape).to(dtype)
    assert torch.equal(*(torch.autograd.grad(y, x, seed)[0] for y in (got, want)))


def test_gradients_of_a_frame_of_one_width():
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pad(x, [(3, 3)] * 2, padding="circular"), x)
    assert torch.autograd.gradgradcheck(lambda x: pad(x, [(3, 3)] * 2, padding="circular"), x)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": 0},
        {"padding": (2, 1), "stride": (2, 1), "bias": False},
        {"padding": "same", "dilation": 2, "groups": 2},
        {"padding": 2, "dilation": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(2, 4, 7, 6), (4, 6, 7)])
def test_a_padded_convolution_is_pytorchs(mode, options, shape):
    theirs = nn.Conv2d(4, 6, 3, padding_mode=mode, dtype=torch.float64, **options)
    ours = PaddedConv2d(4, 6, 3, padding_mode=mode, dtype=torch.float64, **options)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(ours(x), theirs(x))
    got, want = (torch.autograd.grad(net(x).square().sum(), [x, *net.parameters()]) for net in (ours, theirs))
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.fx.symbolic_trace(nn.Sequential(ours))(x), theirs(x))


def test_a_padded_convolution_of_channels_last_stays_so():
    conv = PaddedConv2d(3, 8, 3, padding=1, padding_mode="circular").to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(conv, backend="eager", fullgraph=True)
    assert conv(x).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(compiled(x), conv(x))
    exported = torch.export.export(conv, (x,)).module()
    torch.testing.assert_close(exported(x), conv(x))


@pytest.mark.parametrize("options", [{"padding": 1}, {"kernel_size": 5, "padding": 2}, {"padding": 2, "dilation": 2}])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_around_a_torus_the_gradient_is_a_convolution_of_the_same_size(options, dtype):
    torch.manual_seed(0)
    options = {"kernel_size": 3, "padding_mode": "circular", "bias": False, "dtype": torch.float64, **options}
    theirs, ours = nn.Conv2d(4, 6, **options), PaddedConv2d(4, 6, **options)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 4, 8, 7, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    seed = torch.randn(2, 6, 8, 7, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    want = [theirs(x), *torch.autograd.grad(theirs(x), [x, theirs.weight], seed)]
    if dtype == torch.bfloat16:
        x, seed = x.detach().float().requires_grad_(), seed.bfloat16()
        ours.float()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = ours(x)
    assert y.dtype == dtype and "Circular" in type(y.grad_fn).__name__
    got = [y, *torch.autograd.grad(y, [x, ours.weight], seed)]
    assert [t.dtype for t in got[1:]] == [x.dtype, ours.weight.dtype]
    for a, b in zip(got, want, strict=True):
        assert (a.double() - b).norm() <= (1e-12 if dtype == torch.float64 else 2**-7) * b.norm()


def test_and_its_gradients_have_gradients():
    torch.manual_seed(0)
    conv = PaddedConv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False, dtype=torch.float64)
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()

    def call(x, weight):
        own = copy.copy(conv)
        own._parameters = {"weight": weight, "bias": None}
        return own(x)

    assert "Circular" in type(call(x, conv.weight).grad_fn).__name__
    assert torch.autograd.gradcheck(call, (x, conv.weight)) and torch.autograd.gradgradcheck(call, (x, conv.weight))


@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (2, 3)])
@pytest.mark.parametrize("margin", [1, 2, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_border_around_a_torus_is_copied_exactly(shape, margin, layout):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.randn(2, 3, *shape).to(dtype).contiguous(memory_format=layout)
        rows, columns = (torch.arange(-margin, n + margin).remainder(n) for n in shape)
        assert torch.equal(pad(x, [(margin, margin)] * 2, padding="circular"), x[:, :, rows][..., columns])


def test_exceptions_name_the_number_and_the_choice():
    x = torch.zeros(1, 1, 3, 2)
    with pytest.raises(ValueError, match=r"reflect, replicate, zeros, circular.*'mirror'"):
        pad(x, [(1, 1)], padding="mirror")
    with pytest.raises(ValueError, match=r"up to 2 pixels.*3x2"):
        pad(x, [(1, 1), (1, 2)], padding="reflect")
    with pytest.raises(ValueError, match=r"leaves nothing.*3x2"):
        pad(x, [(0, 0), (-1, -1)], padding="zeros")
