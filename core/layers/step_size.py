"""The step of a proximal gradient iteration: below the inverse of the dictionary's largest eigenvalue."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import copy

import torch
from torch import Tensor

# torch.compiler.disable, without importing the compiler (seconds) before it is used
from torch._compile import _disable_dynamo

from stillpoint.core.base.randomness import generator, seed_for
from stillpoint.core.kernels.pool import plain_only
from stillpoint.core.layers.linear_maps import LinearMap
from stillpoint.core.layers.precision import without_autocast

# the authors' limits of the power iteration: the number of steps, and the squared change of the unit vector below which
# it stops
POWER_STEPS = 50
POWER_TOLERANCE = 1e-5
# step = SAFETY / lambda_max; below 1 because fifty steps may underestimate lambda_max by about one per cent
SAFETY = 0.9
# the key of the starting vector
_START = "power iteration"
#: all of these as numbers, for TorchScript
POWER = (POWER_STEPS, POWER_TOLERANCE, SAFETY, seed_for(_START))


@torch.no_grad()
def power_iteration(
    gram: Callable[[Tensor], Tensor],
    synthesise: Callable[[Tensor], Tensor],
    vector: Tensor,
    *,
    readable: bool = True,
) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue of ``A^T A`` (0-dim) and its unit eigenvector, from the start `vector` (any length but 0).

    At most 50 steps; it stops when the squared distance of two successive vectors is at most 1e-5. If that distance is
    not `readable`, as in a graph, all 50 run, and those after the stop change nothing.
    """
    stopped: Tensor | None = None
    for _ in range(POWER_STEPS):
        moved = gram(vector)
        moved /= moved.norm().clamp_min(1e-12)
        stop = (moved - vector).square_().sum() <= POWER_TOLERANCE
        vector = moved if stopped is None else torch.where(stopped, vector, moved)
        if not readable:
            stopped = stop if stopped is None else stopped | stop
        elif stop:
            break
    return synthesise(vector).square().sum(), vector


def step_for(largest: Tensor) -> Tensor:
    """The step for lambda_max (0-dim); finite for a zero dictionary, so that codes are zero too."""
    return SAFETY / largest.clamp_min(torch.finfo(largest.dtype).tiny)


@_disable_dynamo
def largest_eigenvalue(a: LinearMap, vector: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """lambda_max(A^T A) and its eigenvector, starting from `vector`, by default one fixed draw: a function of A alone.

    Constants to autograd. Under a transform, tracing or export they are plain numbers, unless A has no data.
    """
    if vector is None:
        with unobserved():
            draw = torch.randn(1, *map(int, a.code_shape), generator=generator(_START))
            vector = draw.to(device=a.weight.device, dtype=a.weight.dtype)
    weight = underlying(a.weight)
    readable = address(weight) != 0
    if readable:
        a = copy(a)
        a.weight = weight
    # full precision under autocast; never an inference tensor, because the step outlives its block
    with unobserved() if readable else nullcontext(), torch.inference_mode(False), without_autocast(a.weight.device):
        return power_iteration(lambda v: a.analyse(a.synthesise(v)), a.synthesise, vector, readable=readable)


def address(x: Tensor) -> int:
    """The memory address of a tensor's data; 0 if it has none: on the meta device, exporting, under vmap."""
    try:
        return x.data_ptr()
    except RuntimeError:
        return 0


def underlying(x: Tensor) -> Tensor:
    """The tensor underneath the wrappers of torch.func and forward-mode derivatives."""
    numbers = x
    while torch._C._functorch.is_gradtrackingtensor(numbers):
        numbers = torch._C._functorch.get_unwrapped(numbers)
    if numbers is x or torch._C._functorch.is_batchedtensor(numbers):
        return numbers.detach()
    with unobserved():  # otherwise it would be wrapped again
        return numbers.detach()


@contextmanager
def unobserved() -> Iterator[None]:
    """A context in which PyTorch computes eagerly, hidden from transforms, tracers and exporters."""
    if not plain_only():
        yield
        return
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
    from torch.utils._python_dispatch import _disable_current_modes

    trace = torch._C._get_tracing_state()
    with temporarily_clear_interpreter_stack(), _disable_current_modes():
        torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch._C._set_tracing_state(trace)  # type: ignore[attr-defined]
