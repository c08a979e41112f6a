"""Sparse-coding layers: the output is the code of the input in a learnt dictionary.

Source: Dai, Li, Tong, Cheng, Ma: "Revisiting Sparse Convolutional Model for Visual Recognition" (NeurIPS 2022), whose
iteration is ``scheme="sdnet"``; Beck and Teboulle (2009) for FISTA. Both layers approximate

    z* = argmin  1/2 |x - A z|^2 + penalty |z|_1 + ridge/2 |z|^2     (z >= 0 unless nonnegative=False)

where A z is the transposed convolution of the code with the dictionary, or ``z @ weight`` in the layer for vectors.

Laws: with ``scheme="ista"`` and a step of at most 1/lambda_max(A^T A) no iteration increases the objective; one and two
iterations are the same in all schemes; ``A`` and ``A^T`` are adjoint for every size and stride.
"""

import math
from contextlib import nullcontext
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

# torch.compiler.disable, but for importing the compiler, seconds, only when it is at work
from torch._compile import _disable_dynamo
from torch.utils.checkpoint import checkpoint

from stillpoint.core.kernels.pool import plain_only
from stillpoint.core.layers._proximal import (
    Convolution,
    LinearMap,
    Matrix,
    ProximalStep,
    Scheme,
    address,
    check_options,
    check_sizes,
    iterate,
    largest_eigenvalue,
    repeated,
    step_for,
    underlying,
    unit_atoms,
    unobserved,
)

#: On a CPU a batch is coded in blocks, one after another, of so many images at least: what an iteration holds for a
#: moment, and what backward adds to what was kept, is then that of a block. Two halve the peak of a forward pass alone,
#: four that of both; each costs some time.
_IMAGES, _BLOCKS, _BLOCKS_WITH_BACKWARD = 4, 2, 4


def _code(x: Tensor, a: LinearMap, step: Tensor | None, recompute: bool, options: dict[str, Any]) -> Tensor:
    check_options(**{k: options[k] for k in ("iterations", "penalty", "ridge", "scheme")})
    if step is None:
        step = step_for(largest_eigenvalue(a)[0])
    update = ProximalStep(a, step, **{k: options.pop(k) for k in ("penalty", "ridge", "nonnegative")})

    def code(block: Tensor) -> Tensor:
        if recompute and torch.is_grad_enabled():
            return checkpoint(iterate, block, update, use_reentrant=False, **options)
        return iterate(block, update, **options)

    blocks = 1
    if x.device.type == "cpu" and not torch.compiler.is_compiling() and not plain_only():
        blocks = min(_BLOCKS_WITH_BACKWARD if torch.is_grad_enabled() else _BLOCKS, len(x) // _IMAGES)
    return code(x) if blocks < 2 else torch.cat([code(block) for block in x.split(-(-len(x) // blocks))])


def sparse_coding2d(
    x: Tensor,
    weight: Tensor,
    *,
    stride: int = 1,
    padding: int = 0,
    iterations: int = 2,
    penalty: float = 0.1,
    ridge: float = 0.0,
    nonnegative: bool = True,
    squared: bool = True,
    scheme: Scheme = "sdnet",
    step: Tensor | None = None,
    recompute: bool = False,
) -> Tensor:
    """Convolutional sparse code (B, K, H', W') of images `x` (B, C, H, W), H' = (H + 2 padding - kh) // stride + 1.

    `weight` (K, n C, kh, kw) holds K atoms, used as they are; with n > 1 the input is repeated n times along the
    channels. `step` (0-dim) defaults to 0.9 / lambda_max by a power iteration from a fixed start. With `recompute`
    nothing but the input is kept for backward, at the cost of a second forward. Gradients are those of the unrolled
    iterations with the step constant. ValueError for shapes that do not fit and options out of range.
    """
    if x.ndim != 4 or weight.ndim != 4:
        raise ValueError(f"x and weight have {x.ndim} and {weight.ndim} dimensions; both must have 4")
    x = repeated(x, weight.shape[1], 1)  # (B, n C, H, W)
    options: dict[str, Any] = {"iterations": iterations, "penalty": penalty, "ridge": ridge, "nonnegative": nonnegative}
    options |= {"squared": squared, "scheme": scheme}
    return _code(x, Convolution(weight, stride, padding, (x.shape[2], x.shape[3])), step, recompute, options)


def sparse_coding1d(
    x: Tensor,
    weight: Tensor,
    *,
    iterations: int = 2,
    penalty: float = 0.1,
    ridge: float = 0.0,
    nonnegative: bool = True,
    squared: bool = True,
    scheme: Scheme = "sdnet",
    step: Tensor | None = None,
    recompute: bool = False,
) -> Tensor:
    """Sparse codes (..., K) of the vectors `x` (..., C), tokens for example, in the dictionary `weight` (K, n C).

    Everything else is as in `sparse_coding2d`; with ``squared=False`` the norm is taken per vector.
    """
    if weight.ndim != 2 or x.ndim < 1:
        raise ValueError(f"x and weight have {x.ndim} and {weight.ndim} dimensions; x has at least 1 and weight 2")
    x = repeated(x, weight.shape[1], -1)  # (..., n C)
    options: dict[str, Any] = {"iterations": iterations, "penalty": penalty, "ridge": ridge, "nonnegative": nonnegative}
    options |= {"squared": squared, "scheme": scheme}
    rows = x.reshape(-1, x.shape[-1])  # (N, C)
    return _code(rows, Matrix(weight), step, recompute, options).view(*x.shape[:-1], len(weight))


class _Measured(NamedTuple):
    """A step, and what it was measured of: a dictionary at a version of it, and the shape of an image's code.

    The dictionary is held, so that no other one comes to lie where it lay.
    """

    weight: Tensor
    step: Tensor
    version: int
    shape: tuple[int, ...]

    def serves(self, weight: Tensor, shape: tuple[int, ...]) -> bool:
        same = self.weight.data_ptr() == address(weight) and self.weight._version == self.version
        return same and self.shape == shape


class _SparseCoding(nn.Module):
    """The dictionary, and a step size that belongs to it: what both layers share.

    In training every forward measures the step, on the dictionary as the optimiser left it and starting from the last
    eigenvector (a step or two, then), and scales the atoms to unit norm in place: the authors' order. In evaluation
    nothing is changed: the step is measured once per dictionary and image size, on the unit atoms, from a fixed start.
    So an evaluation is a function of weights and input, and evaluating leaves no trace in a training. (A change made
    in evaluation through ``weight.data``, which no tensor tells of, is seen from the next ``eval()`` on, and so is, by
    an exporter, another parameter in the place of `weight`.) With ``measure = False`` both take `step_size` as it is
    stored, and `update_step_size` is the caller's to call.

    The last eigenvector is a non-persistent buffer: whoever resumes a training bitwise keeps it with the state.
    """

    weight: nn.Parameter
    step_size: Tensor
    eigenvector: Tensor | None

    def __init__(self, weight: Tensor, penalty: float, normalise: bool, recompute: bool, **options: Any) -> None:
        super().__init__()
        check_options(penalty=penalty, **{name: options[name] for name in ("iterations", "ridge", "scheme")})
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(weight))
        self.register_buffer("step_size", torch.tensor(0.1, device=weight.device, dtype=weight.dtype))
        self.register_buffer("eigenvector", None, persistent=False)
        self.penalty, self.normalise, self.recompute, self.options = penalty, normalise, recompute, options
        self.measure = True
        self._evaluation: _Measured | None = None
        # in a tuple, which torch does not look into for parameters and constants
        self._seen: tuple[Tensor, ...] = ()

    def _map(self, weight: Tensor, x: Tensor) -> LinearMap:
        return Matrix(weight)

    @_disable_dynamo
    def dictionary(self) -> Tensor:
        """The atoms that codes refer to: `weight`, of unit norm unless ``normalise=False``."""
        if self.training:
            return self.weight  # normalised in place by the forward
        atoms = unit_atoms(self.weight) if self.normalise else self.weight.view_as(self.weight)
        if atoms.requires_grad:
            # after a backward an optimiser may have moved the atoms; the fused ones raise no version counter
            atoms.register_hook(self._forget)
        return atoms

    def _forget(self, _: Tensor | None = None) -> None:
        self._evaluation = None

    def train(self, mode: bool = True) -> Self:
        self._forget()
        self._seen = (self.weight.detach(),)
        return super().train(mode)

    def _apply(self, *args: Any, **options: Any) -> Self:
        self._seen = ()
        return super()._apply(*args, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_evaluation": None, "_seen": ()}

    @torch.no_grad()
    def update_step_size(self, x: Tensor) -> None:
        """Measures `step_size` for `weight` as it is and inputs shaped like `x`, from the last eigenvector."""
        a = self._map(self.weight, x)
        start = self.eigenvector
        if start is not None and start.shape[1:] != a.code_shape:
            start = None
        largest, self.eigenvector = largest_eigenvalue(a, start)
        self.step_size = step_for(largest).to(self.step_size.dtype)

    @torch.no_grad()
    def normalise_(self) -> None:
        """Scales every atom to unit norm in place, and leaves `step_size` as it is."""
        # by .data: atoms that are unit already change by a rounding at most, so a graph that holds them stays valid
        self.weight.data.copy_(unit_atoms(self.weight))

    @_disable_dynamo
    def _step(self, x: Tensor) -> Tensor:
        if self.training:
            if self.measure:
                self.update_step_size(x)
            if self.normalise:
                self.normalise_()
            return self.step_size
        if not self.measure:
            return self.step_size
        a, held = self._map(self.weight, x), self._evaluation
        # an exporter puts a tensor without numbers in the place of the dictionary
        weight = self._seen[0] if self._seen and torch.compiler.is_exporting() else underlying(self.weight)
        if held is not None and held.serves(weight, a.code_shape):
            return held.step
        readable = address(weight) != 0
        with torch.no_grad(), unobserved() if readable else nullcontext():
            source = weight if readable else self.weight
            a.weight = unit_atoms(source) if self.normalise else source
            step = step_for(largest_eigenvalue(a)[0])
        # atoms made in inference mode have no version that tells a change: measured every time
        if readable and not weight.is_inference() and not torch.compiler.is_exporting():
            self._evaluation = _Measured(weight, step, weight._version, a.code_shape)
        return step

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        self._seen = ()
        super()._load_from_state_dict(state, prefix, *args)
        weight = state.get(f"{prefix}weight")
        if self.normalise and weight is not None:
            empty = (weight.flatten(1) == 0).all(dim=1).nonzero().flatten().tolist()
            if empty:
                args[-1].append(f"{prefix}weight: atoms {empty} are zero; every atom of a dictionary needs a direction")


class SparseCoding2d(_SparseCoding):
    """`sparse_coding2d` with a learnt dictionary `weight` (dictionary_size, expansion * channels, k, k).

    (B, C, H, W) -> (B, dictionary_size, H', W'), any H and W at any time. `penalty` may be set after construction, as
    robust inference does, and acts at once; with `adaptive_penalty` it is multiplied by the number of values of an
    input over that of its code. The dictionary starts Kaiming-uniform and is used with unit atoms if `normalise`.
    """

    def __init__(
        self,
        channels: int,
        dictionary_size: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        padding: int = 0,
        expansion: int = 1,
        iterations: int = 2,
        penalty: float = 0.1,
        adaptive_penalty: bool = False,
        ridge: float = 0.0,
        nonnegative: bool = True,
        squared: bool = True,
        scheme: Scheme = "sdnet",
        normalise: bool = True,
        recompute: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_sizes(channels=channels, dictionary_size=dictionary_size, expansion=expansion, kernel_size=kernel_size)
        check_sizes(stride=stride, padding=padding)
        weight = torch.empty(
            dictionary_size, expansion * channels, kernel_size, kernel_size, device=device, dtype=dtype
        )
        options = {"iterations": iterations, "ridge": ridge, "nonnegative": nonnegative, "squared": squared}
        super().__init__(weight, penalty, normalise, recompute, scheme=scheme, **options)
        self.expansion, self.stride, self.padding = expansion, stride, padding
        self.adaptive_penalty = adaptive_penalty

    def _map(self, weight: Tensor, x: Tensor) -> LinearMap:
        if x.ndim != 4:
            raise ValueError(f"x has {x.ndim} dimensions; a batch of images has 4")
        return Convolution(weight, self.stride, self.padding, (x.shape[2], x.shape[3]))

    def effective_penalty(self, x: Tensor) -> float:
        """The penalty that inputs of this size get."""
        code_shape = self._map(self.weight, x).code_shape
        return self.penalty * (x[0].numel() / math.prod(code_shape) if self.adaptive_penalty else 1.0)

    def forward(self, x: Tensor) -> Tensor:
        options: dict[str, Any] = {
            "step": self._step(x),
            "penalty": self.effective_penalty(x),
            "recompute": self.recompute,
        }
        return sparse_coding2d(
            x, self.dictionary(), stride=self.stride, padding=self.padding, **options, **self.options
        )

    def reconstruct(self, code: Tensor, size: tuple[int, int]) -> Tensor:
        """``A code``: images (B, expansion * channels, *size) from their codes."""
        return Convolution(self.dictionary(), self.stride, self.padding, size).synthesise(code)

    def losses(self, x: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Per image (B,): ``|x - A code|^2 / expansion``, and ``penalty |code|_1 + ridge/2 |code|^2``."""
        residual = repeated(x, self.weight.shape[1], 1) - self.reconstruct(code, (x.shape[2], x.shape[3]))
        cost = self.effective_penalty(x) * code.abs() + self.options["ridge"] / 2 * code.square()
        return residual.square().sum((1, 2, 3)) / self.expansion, cost.sum((1, 2, 3))

    def extra_repr(self) -> str:
        shape = f"{self.weight.shape[1]}, {self.weight.shape[0]}, {self.weight.shape[2]}"
        return f"{shape}, stride={self.stride}, padding={self.padding}, penalty={self.penalty}, " + ", ".join(
            f"{name}={value!r}" for name, value in self.options.items()
        )


class SparseCoding1d(_SparseCoding):
    """`sparse_coding1d` with a learnt dictionary `weight` (dictionary_size, expansion * channels).

    Everything else is as in `SparseCoding2d`.
    """

    def __init__(
        self,
        channels: int,
        dictionary_size: int,
        *,
        expansion: int = 1,
        iterations: int = 2,
        penalty: float = 0.1,
        ridge: float = 0.0,
        nonnegative: bool = True,
        squared: bool = True,
        scheme: Scheme = "sdnet",
        normalise: bool = True,
        recompute: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_sizes(channels=channels, dictionary_size=dictionary_size, expansion=expansion)
        weight = torch.empty(dictionary_size, expansion * channels, device=device, dtype=dtype)
        options = {"iterations": iterations, "ridge": ridge, "nonnegative": nonnegative, "squared": squared}
        super().__init__(weight, penalty, normalise, recompute, scheme=scheme, **options)
        self.expansion = expansion

    def forward(self, x: Tensor) -> Tensor:
        options: dict[str, Any] = {"step": self._step(x), "penalty": self.penalty, "recompute": self.recompute}
        return sparse_coding1d(x, self.dictionary(), **options, **self.options)

    def reconstruct(self, code: Tensor) -> Tensor:
        """``A code``: vectors (..., expansion * channels) from their codes."""
        return code @ self.dictionary()

    def losses(self, x: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Per vector (...): ``|x - A code|^2 / expansion``, and ``penalty |code|_1 + ridge/2 |code|^2``."""
        cost = self.penalty * code.abs() + self.options["ridge"] / 2 * code.square()
        residual = repeated(x, self.weight.shape[1], -1) - self.reconstruct(code)
        return residual.square().sum(-1) / self.expansion, cost.sum(-1)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, penalty={self.penalty}, " + ", ".join(
            f"{name}={value!r}" for name, value in self.options.items()
        )
