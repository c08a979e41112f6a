"""Dense max-pools: the values and gradients of PyTorch's pools, by the kernels and by the plain code."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from stillpoint.core.kernels import max_pool
from stillpoint.core.layers import MaxBlurPool2d, blur_pool2d
from stillpoint.core.layers.dense_max_pool import MARGINS, DenseMaxPool2d, dense_max_pool2d

LAST = torch.channels_last
SHAPES = [(2, 16, 8, 8), (3, 5, 3, 7), (1, 67, 9, 4), (2, 2, 3, 3)]
POOLS = [(size, margin) for size, margin in itertools.product((2, 3), MARGINS) if size == 3 or margin != "same"]


@pytest.fixture
def calls(monkeypatch):
    """How often the kernels ran, forward and backward."""
    seen: list[str] = []
    for name in ("_forward", "_backward"):
        real = getattr(max_pool, name)
        monkeypatch.setattr(max_pool, name, lambda *a, name=name, real=real: seen.append(name) or real(*a))
    return seen


def reference(x, size, margin):
    if margin == "same":
        return F.max_pool2d(x, size, 1, (size - 1) // 2)
    if margin != "none":
        x = F.pad(x, (0, size - 1, 0, size - 1), mode="circular" if margin == "circular" else "constant")
    return F.max_pool2d(x, size, 1)


def image(shape, dtype=torch.float64, ties=True, layout=LAST):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    x = x.relu() if ties else x
    return x.to(dtype).contiguous(memory_format=layout).requires_grad_()


@pytest.mark.parametrize(("size", "margin"), POOLS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [LAST, torch.contiguous_format])
def test_values_and_gradients_are_pytorchs(calls, size, margin, dtype, layout):
    for shape in SHAPES:
        x = image(shape, dtype, layout=layout)
        y, want = dense_max_pool2d(x, kernel_size=size, margin=margin), reference(x, size, margin)
        assert y.dtype == dtype and y.is_contiguous(memory_format=layout)
        assert torch.equal(y, want)
        seed = torch.randn_like(want)
        got = torch.autograd.grad(y, x, seed)[0]
        wide = x.detach().double().requires_grad_()
        exact = torch.autograd.grad(reference(wide, size, margin), wide, seed.double())[0]
        # of equal numbers the first has the gradient, there as here; sums are rounded once
        rounding = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2**-8}[dtype]
        torch.testing.assert_close(got.double(), exact, rtol=rounding, atol=1e-6 if dtype != torch.float64 else 1e-12)
    assert calls == ["_forward", "_backward"] * len(SHAPES)


@pytest.mark.parametrize(("size", "margin"), POOLS)
def test_a_nan_and_infinities_are_passed_on_as_pytorch_does(calls, size, margin):
    x = image((2, 8, 6, 6), torch.float32, ties=False).detach()
    x[0, :, 2, 3], x[1, 0, 1, 1], x[1, 1, 1, 1] = torch.nan, torch.inf, -torch.inf
    x[1, 2] = -torch.inf
    x.requires_grad_()
    y, want = dense_max_pool2d(x, kernel_size=size, margin=margin), reference(x, size, margin)
    torch.testing.assert_close(y, want, rtol=0, atol=0, equal_nan=True)
    seed = torch.randn_like(want)
    got, other = (torch.autograd.grad(out, x, seed)[0] for out in (y, want))
    torch.testing.assert_close(got, other)
    assert calls == ["_forward", "_backward"]


@pytest.mark.parametrize(("size", "margin"), POOLS)
def test_gradients_of_every_order(calls, size, margin):
    x = image((2, 2, 4, 5), ties=False)

    def call(x):
        return dense_max_pool2d(x, kernel_size=size, margin=margin)

    assert torch.autograd.gradcheck(call, x) and torch.autograd.gradgradcheck(call, x)
    assert calls


def test_the_same_bits_whatever_the_number_of_threads(calls):
    x = image((5, 24, 11, 9), torch.float32)
    seed = torch.randn(5, 24, 11, 9)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            y = dense_max_pool2d(x, kernel_size=3, margin="same")
            found.append((y.detach(), torch.autograd.grad(y, x, seed)[0]))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("size", [2, 3])
def test_around_a_torus_it_moves_with_the_image(size):
    x = image((2, 6, 8, 8), torch.float32).detach()
    pool = DenseMaxPool2d(size, margin="circular")
    assert torch.equal(pool(x.roll((3, 1), (2, 3))), pool(x).roll((3, 1), (2, 3)))


def test_whatever_could_see_the_difference_gets_pytorchs_pool(calls):
    x = image((2, 4, 6, 6), torch.float32).detach()
    pool = DenseMaxPool2d(2, margin="none")
    seen = []

    class Noted(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    with Noted():
        pool(x)
    assert F.max_pool2d in seen
    pool(image((2, 4, 6, 1), torch.float32).detach().expand(2, 4, 6, 6))
    DenseMaxPool2d(4)(x), DenseMaxPool2d(3, margin="circular")(x[:, :, :2].contiguous(memory_format=LAST))
    torch.func.vmap(pool)(x[None])
    assert "max_pool2d" in str(torch.jit.trace(pool, x, check_trace=False).graph)
    assert "max_pool2d" in str(torch.jit.script(pool).inlined_graph)
    assert any("max_pool2d" in str(node.target) for node in torch.export.export(pool, (x,)).graph.nodes)
    assert not calls


def test_a_pool_before_a_blur_is_one_too(calls):
    x = image((2, 4, 8, 8), torch.float32).detach()
    for size, padding in ((2, 0), (3, 1), (3, 0)):
        got = MaxBlurPool2d(size, max_padding=padding, size=3)(x)
        torch.testing.assert_close(got, blur_pool2d(F.max_pool2d(x, size, 1, padding), size=3))
    assert calls == ["_forward"] * 3
    got = MaxBlurPool2d(2, max_padding=1, size=3)(x)
    torch.testing.assert_close(got, blur_pool2d(F.max_pool2d(x, 2, 1, 1), size=3))
    assert len(calls) == 3


def test_a_wrong_window_is_refused():
    with pytest.raises(ValueError, match="margin must be one of none, same, circular, zeros, got 'full'"):
        DenseMaxPool2d(2, margin="full")
    with pytest.raises(ValueError, match="odd for margin 'same', got 2"):
        DenseMaxPool2d(2, margin="same")
