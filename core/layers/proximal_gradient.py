"""The proximal gradient iteration behind the sparse-coding layers.

Source: Dai et al., NeurIPS 2022, whose iteration is "sdnet"; Beck and Teboulle, "A fast iterative
shrinkage-thresholding algorithm" (2009), "fista" and, without momentum, "ista".
"""

from typing import Literal, get_args

from torch import Tensor

from stillpoint.core.kernels.proximal import fused, proximal_step
from stillpoint.core.layers.checks import check_sizes
from stillpoint.core.layers.linear_maps import LinearMap
from stillpoint.core.layers.norms import l2_norm

Scheme = Literal["sdnet", "fista", "ista"]


def check_options(*, iterations: int, penalty: float, ridge: float, scheme: str) -> None:
    """Raises ValueError for an option out of range."""
    check_sizes(iterations=iterations)
    if not 0 <= penalty < float("inf"):
        raise ValueError(f"penalty is {penalty}; it must be a finite number of at least 0")
    if not 0 <= ridge < float("inf"):
        raise ValueError(f"ridge is {ridge}; it must be a finite number of at least 0")
    if scheme not in get_args(Scheme):
        raise ValueError(f"scheme is {scheme!r}; it must be one of {', '.join(get_args(Scheme))}")


class ProximalStep:
    """Proximal gradient steps on ``1/2 |x - A z|^2 + penalty |z|_1 + ridge/2 |z|^2``, z >= 0 if `nonnegative`."""

    def __init__(self, a: LinearMap, step: Tensor, *, penalty: float, ridge: float, nonnegative: bool) -> None:
        self.a, self.ridge, self.nonnegative = a, ridge, nonnegative
        self.shrink = 1 / (1 + ridge * step)
        self.threshold = self.shrink * step * penalty
        # step and threshold cost no pass of their own: they become the weight's scale and the bias
        self.scaled = a.weight * (self.shrink * step)
        self.bias = (-self.threshold).expand(len(a.weight)) if nonnegative and penalty > 0 else None

    def first(self, x: Tensor) -> Tensor:
        """The step from the code 0, whose reconstruction is 0."""
        return self._prox(self.a.analyse(x, self.scaled, self.bias))

    def __call__(self, residual: Tensor, code: Tensor, previous: Tensor | None, momentum: float) -> Tensor:
        """The step along the gradient of a `residual` from `code`, extrapolated from a `previous` code by
        `momentum`."""
        moved = self.a.analyse(residual, self.scaled, self.bias)
        if fused(moved, self.shrink):
            constants = {"shrink": self.shrink, "threshold": self.threshold}
            return proximal_step(moved, code, previous, momentum=momentum, nonnegative=self.nonnegative, **constants)
        point = extrapolated(code, previous, momentum)
        return self._prox(moved.add_(point if self.ridge == 0 else self.shrink * point))

    def _prox(self, moved: Tensor) -> Tensor:
        return moved.relu_() if self.nonnegative else moved - moved.clamp(-self.threshold, self.threshold)


def iterate(x: Tensor, update: ProximalStep, *, iterations: int, squared: bool, scheme: Scheme) -> Tensor:
    """The code after `iterations` proximal gradient steps from 0.

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
            norm = l2_norm(residual.detach().flatten(1), 1).clamp_min(1e-12)
            residual = residual * (0.5 / norm).view(-1, *[1] * (residual.ndim - 1))
        code, previous = update(residual, code, previous, momentum), latest
    return code


def extrapolated(code: Tensor, previous: Tensor | None, momentum: float) -> Tensor:
    """The code extrapolated by the momentum of the last step; the code itself without a previous one."""
    return code if previous is None else code + momentum * (code - previous)
