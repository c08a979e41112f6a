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

    plain, exact = found()
    calls = []
    monkeypatch.setattr(quadratic, "fused", lambda map: not calls.append(map.shape))
    y, grads = found()
    assert calls == [(2, 3, 8, 12)]
    torch.testing.assert_close(y, plain)
    torch.testing.assert_close(grads, exact)


def test_on_a_cpu_the_plain_code_is_used():
    assert not quadratic.fused(torch.zeros(1, 3, 4, 4))
