import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from stillpoint.core.kernels.operators import operator

CALLS = []


@operator("stillpoint_test::double")
def double(x: Tensor, y: Tensor | None) -> Tensor:
    CALLS.append("function")
    return 2 * x if y is None else x + y


@torch.library.register_fake(double.overload)
def _(x: Tensor, y: Tensor | None) -> Tensor:
    return torch.empty_like(x)


torch.library.register_autograd(double.overload, lambda ctx, grad: (2 * grad, None))


@pytest.fixture
def dispatched(monkeypatch):
    """Whether calling the operator goes through the dispatcher; checks that the function behind it was called too."""

    def ask(*arguments):
        seen = []
        with monkeypatch.context() as patch:
            overload = double.overload
            patch.setattr(double, "overload", lambda *given: seen.append(1) or overload(*given))
            CALLS.clear()
            torch.testing.assert_close(double(*arguments).detach(), 2 * arguments[0].detach())
            assert CALLS == ["function"]
        return bool(seen)

    return ask


class Watched(torch.Tensor):
    pass


class Spy(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function)
        return function(*args, **(kwargs or {}))


def test_numbers_alone_need_no_dispatcher(dispatched):
    x = torch.randn(2, 3)
    assert not dispatched(x, None)
    assert not dispatched(x.t(), x.t())
    assert not dispatched(x.bfloat16(), None)
    with torch.inference_mode():
        assert not dispatched(x, torch.as_tensor(x))
        assert not dispatched(torch.ones(2), None)
    with torch.no_grad():
        assert not dispatched(x.clone().requires_grad_(), None)
        assert not dispatched(x, torch.nn.Parameter(x))
    assert not dispatched(torch.nn.Parameter(x, requires_grad=False), None)


def test_whoever_has_to_see_a_call_sees_it(dispatched):
    x = torch.randn(2, 3)
    assert dispatched(x.clone().requires_grad_(), None)
    assert dispatched(x, x.clone().requires_grad_())
    assert dispatched(x.as_subclass(Watched), None)
    assert dispatched(torch.randn(3, dtype=torch.complex64).conj().imag, None)  # its sign is still to be turned
    with Spy() as spy:
        double(x, None)
    assert double.overload in spy.seen
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        double(x, None)
    assert any(event.key == "stillpoint_test::double" for event in profile.key_averages())
    with forward_ad.dual_level():
        assert dispatched(x, None)
    traced = torch.jit.trace(lambda x: double(x, None), x, check_trace=False)
    assert "stillpoint_test::double" in str(traced.graph)


def test_a_compiled_network_keeps_the_operator():
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    x = torch.randn(2, 3)
    got = torch.compile(lambda x: double(x, None) + 1, fullgraph=True, backend=keep)(x)
    torch.testing.assert_close(got, 2 * x + 1)
    assert double.overload in [node.target for node in graphs[0].graph.nodes]


def test_the_derivative_is_that_of_the_operator():
    x = torch.randn(2, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(double(x, None).sum(), x)
    torch.testing.assert_close(grad, torch.full((2, 3), 2.0))


def test_a_mode_that_catches_functions_sees_the_operator():
    seen = []

    class Noted(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    with Noted():
        double(torch.ones(3), None)
    assert any("double" in name for name in seen)
