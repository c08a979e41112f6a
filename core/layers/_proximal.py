"""The proximal gradient iteration behind the sparse-coding layers, and the two linear maps it is used with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

# torch.compiler.disable, but for importing the compiler, seconds, only when it is at work
from torch._compile import _disable_dynamo

from stillpoint.core.base.randomness import generator
from stillpoint.core.kernels.pool import plain_only
from stillpoint.core.kernels.proximal import fused, proximal_step
from stillpoint.core.layers._precision import without_autocast

Scheme = Literal["sdnet", "fista", "ista"]

# the authors' limits of the power iteration: at most so many steps, or a squared change of the unit vector below this
POWER_STEPS = 50
POWER_TOLERANCE = 1e-5
# step = SAFETY / lambda_max; below 1 because fifty steps may underestimate lambda_max by about one per cent
SAFETY = 0.9


def check_options(*, iterations: int, penalty: float, ridge: float, scheme: str) -> None:
    """Raises ValueError for options outside their range."""
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}; it must be at least 1")
    if not 0 <= penalty < float("inf"):
        raise ValueError(f"penalty is {penalty}; it must be a finite number of at least 0")
    if not 0 <= ridge < float("inf"):
        raise ValueError(f"ridge is {ridge}; it must be a finite number of at least 0")
    if scheme not in get_args(Scheme):
        raise ValueError(f"scheme is {scheme!r}; it must be one of {', '.join(get_args(Scheme))}")


def check_sizes(**sizes: int) -> None:
    """Raises ValueError for a size below 1, or a padding below 0."""
    for name, value in sizes.items():
        least = 0 if name == "padding" else 1
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")


class ProximalStep:
    """Proximal gradient steps on ``1/2 |x - A z|^2 + penalty |z|_1 + ridge/2 |z|^2``, z >= 0 if `nonnegative`."""

    def __init__(self, a: "LinearMap", step: Tensor, *, penalty: float, ridge: float, nonnegative: bool) -> None:
        self.a, self.ridge, self.nonnegative = a, ridge, nonnegative
        self.shrink = 1 / (1 + ridge * step)
        self.threshold = self.shrink * step * penalty
        # The step, the threshold and the rectifier cost nothing extra: they become the weight's scale and the bias.
        self.scaled = a.weight * (self.shrink * step)
        self.bias = (-self.threshold).expand(len(a.weight)) if nonnegative and penalty > 0 else None

    def first(self, x: Tensor) -> Tensor:
        """The step from the code 0, whose reconstruction is 0."""
        return self._prox(self.a.analyse(x, self.scaled, self.bias))

    def __call__(self, residual: Tensor, code: Tensor, previous: Tensor | None, momentum: float) -> Tensor:
        """The step along the gradient of a `residual` from `code`, moved on by `momentum` from a `previous` code."""
        moved = self.a.analyse(residual, self.scaled, self.bias)
        if fused(moved, self.shrink):
            constants = {"shrink": self.shrink, "threshold": self.threshold}
            return proximal_step(moved, code, previous, momentum=momentum, nonnegative=self.nonnegative, **constants)
        point = extrapolated(code, previous, momentum)
        return self._prox(moved.add_(point if self.ridge == 0 else self.shrink * point))

    def _prox(self, moved: Tensor) -> Tensor:
        return moved.relu_() if self.nonnegative else moved - moved.clamp(-self.threshold, self.threshold)


def iterate(x: Tensor, update: ProximalStep, *, iterations: int, squared: bool, scheme: Scheme) -> Tensor:
    """Codes after so many proximal gradient steps from the code 0.

    `scheme` says where the gradient is taken: "sdnet" at the last code while the momentum term is added to it (as
    the authors coded it), "fista" at the extrapolated point (Beck and Teboulle 2009), "ista" without momentum.
    With `squared=False` the data term is the norm ``|x - A z|`` per sample, from the second step on.
    """
    code, previous, t = update.first(x), None, 1.0
    for _ in range(iterations - 1):
        t, t_before = (1 + (1 + 4 * t * t) ** 0.5) / 2, t
        momentum, latest = (t_before - 1) / t, code
        if scheme == "ista":
            previous = None
        elif scheme == "fista":
            code, previous = extrapolated(code, previous, momentum), None
        residual = x - update.a.synthesise(code)
        if not squared:
            norm = residual.detach().flatten(1).norm(dim=1).clamp_min(1e-12)
            residual = residual * (0.5 / norm).view(-1, *[1] * (residual.ndim - 1))
        code, previous = update(residual, code, previous, momentum), latest
    return code


def extrapolated(code: Tensor, previous: Tensor | None, momentum: float) -> Tensor:
    """The code, moved on by the momentum of the last step where there was one."""
    return code if previous is None else code + momentum * (code - previous)


@torch.no_grad()
def power_iteration(
    gram: Callable[[Tensor], Tensor],
    synthesise: Callable[[Tensor], Tensor],
    vector: Tensor,
    *,
    readable: bool = True,
) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue of ``A^T A`` (0-dim) and its unit eigenvector, from the start `vector` (any length but 0).

    At most 50 steps; it stops when the squared distance of two successive vectors is at most 1e-5. Where that distance
    is not `readable`, as in a graph, it takes all 50, and those after the stop change nothing.
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
    """The step for lambda_max (0-dim); a finite one where the dictionary is zero, so that codes are zero too."""
    return SAFETY / largest.clamp_min(torch.finfo(largest.dtype).tiny)


def repeated(x: Tensor, channels: int, axis: int) -> Tensor:
    """`x` repeated along an axis until it has as many channels as the dictionary, of which its own must be a part."""
    channels, own = int(channels), int(x.shape[axis])  # tensors when traced
    copies, left = divmod(channels, max(own, 1))
    if left or not copies:
        raise ValueError(f"x has {own} channels; the dictionary's {channels} are no multiple of that")
    return torch.cat([x] * copies, axis) if copies > 1 else x


def unit_atoms(weight: Tensor) -> Tensor:
    """`weight` (K, ...) with every atom ``weight[k]`` divided by its l2 norm, which is a constant to autograd."""
    norm = weight.detach().flatten(1).norm(dim=1).clamp_min(1e-12)
    return weight / norm.view(-1, *[1] * (weight.ndim - 1))


class Convolution:
    """A and its adjoint for a dictionary (K, C, kh, kw) and images (B, C, H, W)."""

    def __init__(self, weight: Tensor, stride: int, padding: int, size: tuple[int, int]) -> None:
        check_sizes(stride=stride, padding=padding)
        self.weight, self.stride, self.padding = weight, stride, padding
        kernel = weight.shape[2:]
        # what a strided convolution never read at the border is given back, so that A z has the input's size
        self.rest = [(n + 2 * padding - k) % stride for n, k in zip(size, kernel, strict=True)]
        self.code_shape = (
            len(weight),
            *[(n + 2 * padding - k) // stride + 1 for n, k in zip(size, kernel, strict=True)],
        )
        if min(self.code_shape) < 1:
            raise ValueError(
                f"images of {size[0]}x{size[1]} are smaller than the kernel {tuple(kernel)} with {padding=}"
            )

    def analyse(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(x, self.weight if weight is None else weight, bias, self.stride, self.padding)

    def synthesise(self, z: Tensor) -> Tensor:
        return F.conv_transpose2d(z, self.weight, None, self.stride, self.padding, self.rest)


class Matrix:
    """A and its adjoint for a dictionary (K, C) and rows (N, C)."""

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.code_shape = weight, (len(weight),)

    def analyse(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, self.weight if weight is None else weight, bias)

    def synthesise(self, z: Tensor) -> Tensor:
        return z @ self.weight


LinearMap = Convolution | Matrix


@_disable_dynamo
def largest_eigenvalue(a: LinearMap, vector: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """lambda_max(A^T A) and its eigenvector, from `vector` or else from one fixed draw: a function of A alone.

    Constants to every derivative. What is transformed, traced or exported takes them as numbers, where A has numbers.
    """
    if vector is None:
        with unobserved():
            draw = torch.randn(1, *map(int, a.code_shape), generator=generator("power iteration"))
            vector = draw.to(device=a.weight.device, dtype=a.weight.dtype)
    weight = underlying(a.weight)
    readable = address(weight) != 0
    if readable:
        a = copy(a)
        a.weight = weight
    # full precision under autocast; never an inference tensor, because the step outlives the block it is measured in
    with unobserved() if readable else nullcontext(), torch.inference_mode(False), without_autocast(a.weight.device):
        return power_iteration(lambda v: a.analyse(a.synthesise(v)), a.synthesise, vector, readable=readable)


def address(x: Tensor) -> int:
    """Where the numbers of a tensor lie in memory; 0 where it has none: on the meta device, exporting, under vmap."""
    try:
        return x.data_ptr()
    except RuntimeError:
        return 0


def underlying(x: Tensor) -> Tensor:
    """The tensor that a derivative of torch.func, or a forward-mode one, is taken at."""
    while torch._C._functorch.is_gradtrackingtensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x.detach()


@contextmanager
def unobserved() -> Iterator[None]:
    """Within it PyTorch computes at once, and no transform, tracer or exporter takes note of it."""
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
