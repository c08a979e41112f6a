"""The operator behind polynomial activations beside plain PyTorch, on the CPU, whose rules a GPU shares."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from stillpoint.core.kernels import quadratic
from stillpoint.core.layers import polynomial2d

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def numbers(layout=torch.contiguous_format, dtype=torch.float64):
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 6, generator=draws, dtype=dtype).to(memory_format=layout)
    return x.requires_grad_(), torch.randn(3, 3, generator=draws, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_and_derivatives_are_those_of_the_polynomial(layout):
    x, terms = numbers(layout)
    y, want = quadratic.quadratic(x, terms), quadratic.plain(x, terms)
    torch.testing.assert_close(y, want)
    assert y.is_contiguous(memory_format=layout)
    seed = torch.randn_like(want)
    for mine, exact in zip(*(torch.autograd.grad(v, (x, terms), seed) for v in (y, want)), strict=True):
        torch.testing.assert_close(mine, exact)
    assert gradcheck(quadratic.quadratic, numbers(layout)) and gradgradcheck(quadratic.quadratic, numbers(layout))


@pytest.mark.parametrize("shared", [False, True])
def test_the_activation_is_the_same_through_it(monkeypatch, shared):
    x, terms = numbers()
    terms = terms[0].detach().requires_grad_() if shared else terms
    scale = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)

    def found():
        y = polynomial2d(x, terms, in_scale=scale, out_scale=scale)
        return y, torch.autograd.grad(y.sin().sum(), (x, terms, scale))

    monkeypatch.setattr(quadratic, "fused", lambda map: False)
    plain, exact = found()
    calls = []
    monkeypatch.setattr(quadratic, "fused", lambda map: not calls.append(map.shape))
    y, grads = found()
    assert calls == [(2, 3, 8, 12)]
    torch.testing.assert_close(y, plain)
    torch.testing.assert_close(grads, exact)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 5, 7, 9), (1, 1, 40, 31), (2, 48, 9, 9), (2, 17, 1, 1)])
def test_in_float32_it_is_no_further_from_the_truth_than_plain_code(layout, shape):
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=draws).contiguous(memory_format=layout).requires_grad_()
    terms = torch.randn(shape[1], 3, generator=draws).requires_grad_()
    seed = torch.randn(shape, generator=draws)
    wide = [t.detach().double().requires_grad_() for t in (x, terms)]
    truth = quadratic.plain(*wide)
    truths = torch.autograd.grad(truth, wide, seed.double())
    assert quadratic.fused(x)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            y = quadratic.quadratic(x, terms)
            found.append((y.detach(), *torch.autograd.grad(y, (x, terms), seed)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    y = quadratic.plain(x, terms)
    usual = (y.detach(), *torch.autograd.grad(y, (x, terms), seed))
    for got, other, want in zip(found[0], usual, (truth.detach(), *truths), strict=True):
        off, allowed = ((v.double() - want).norm() / want.norm() for v in (got, other))
        assert off <= 1.5 * allowed + 1e-7


def test_other_numbers_are_left_to_the_plain_code():
    assert not quadratic.fused(torch.zeros(1, 3, 4, 4, dtype=torch.bfloat16))
    assert not quadratic.fused(torch.zeros(1, 3, 4))
    x, terms = torch.ones(1, 3, 4, 4, dtype=torch.bfloat16), torch.full((3, 3), 0.5)
    assert quadratic.quadratic(x, terms).unique().tolist() == [1.5]
