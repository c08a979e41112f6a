import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from stillpoint.core.kernels import proximal
from stillpoint.core.layers import proximal_gradient
from stillpoint.core.layers.sparse_coding import sparse_coding2d

SHRINK, THRESHOLD = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)


def maps(count, dtype=torch.float64):
    torch.manual_seed(0)
    return [torch.randn(2, 3, 4, 5, dtype=dtype, requires_grad=True) for _ in range(count)]


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_the_operator_obeys_the_rules_of_operators_and_has_derivatives_of_both_orders(nonnegative, count):
    def step(moved, code, previous=None):
        return proximal._step(moved, code, previous, SHRINK, THRESHOLD, 0.4, nonnegative)

    assert gradcheck(step, maps(count))
    assert gradgradcheck(step, maps(count))
    given = [*maps(count), *[None] * (3 - count)]
    torch.library.opcheck(proximal._step.overload, (*given, SHRINK, THRESHOLD, 0.4, nonnegative))
    grad, result = maps(2)
    torch.library.opcheck(proximal._backward.overload, (grad, result.detach().relu(), SHRINK, 0.4, count == 3))


@pytest.mark.parametrize("scheme", ["sdnet", "fista", "ista"])
@pytest.mark.parametrize(("nonnegative", "ridge"), [(True, 0.0), (False, 0.0), (True, 0.7), (False, 0.7)])
def test_a_layer_gives_the_same_by_the_operator_and_by_the_plain_code(monkeypatch, scheme, nonnegative, ridge):
    (x,) = maps(1)
    weight = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    options = {"iterations": 4, "penalty": 0.2, "nonnegative": nonnegative, "ridge": ridge, "scheme": scheme}

    def run():
        y = sparse_coding2d(x, weight, **options)
        return y, *torch.autograd.grad(y.square().sum(), (x, weight))

    want = run()
    steps = []
    monkeypatch.setattr(proximal_gradient, "fused", lambda *given: not steps.append(given))
    for mine, exact in zip(run(), want, strict=True):
        torch.testing.assert_close(mine, exact)
    assert len(steps) == 3
