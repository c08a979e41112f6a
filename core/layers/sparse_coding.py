"""Sparse-coding layers: the output is the code of the input in a learnt dictionary.

Source: Dai, Li, Tong, Cheng, Ma: "Revisiting Sparse Convolutional Model for Visual Recognition" (NeurIPS 2022), whose
iteration is ``scheme="sdnet"``; Beck and Teboulle (2009) for FISTA. Both layers approximate

    z* = argmin  1/2 |x - A z|^2 + penalty |z|_1 + ridge/2 |z|^2     (z >= 0 unless nonnegative=False)

where A z is the transposed convolution of the code with the dictionary, or ``z @ weight`` in the layer for vectors.

Laws: with ``scheme="ista"`` and a step of at most 1/lambda_max(A^T A) no iteration increases the objective; one and two
iterations are the same in all schemes; ``A`` and ``A^T`` are adjoint for every size and stride.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stillpoint.core.kernels.pool import plain_only
from stillpoint.core.layers import scripted_codes
from stillpoint.core.layers.checks import check_sizes
from stillpoint.core.layers.dictionary import LearntDictionary
from stillpoint.core.layers.linear_maps import Convolution, LinearMap, Matrix, repeated
from stillpoint.core.layers.proximal_gradient import ProximalStep, Scheme, check_options, iterate
from stillpoint.core.layers.step_size import largest_eigenvalue, step_for

#: On a CPU a batch is coded in successive blocks of at least this many images, which bounds the temporary memory of an
#: iteration and of backward to that of one block. Two blocks halve the peak of a forward pass, four that of forward and
#: backward; each block costs some time.
_IMAGES, _BLOCKS, _BLOCKS_WITH_BACKWARD = 4, 2, 4


def _code(x: Tensor, a: LinearMap, step: Tensor | None, recompute: bool, options: dict[str, Any]) -> Tensor:
    check_options(**{k: options[k] for k in ("iterations", "penalty", "ridge", "scheme")})
    if step is not None and (not isinstance(step, Tensor) or step.ndim):
        found = f"shape {tuple(step.shape)}" if isinstance(step, Tensor) else repr(step)
        raise ValueError(f"step must be a tensor without axes, got {found}")
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

    `weight` (K, n C, kh, kw) holds K atoms, used without normalisation; with n > 1 the input is repeated n times along
    the channels. `step` (0-dim) defaults to 0.9 / lambda_max by a power iteration from a fixed start. With `recompute`
    only the input is stored for backward, at the cost of a second forward. Gradients are those of the unrolled
    iterations with the step constant. ValueError for shapes that do not fit and options out of range.

    Examples:
        >>> layers.sparse_coding2d(torch.randn(2, 3, 8, 8), torch.randn(16, 3, 3, 3)).shape
        torch.Size([2, 16, 6, 6])
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
    """Sparse codes (..., K) of vectors `x` (..., C), such as tokens, in the dictionary `weight` (K, n C).

    Everything else is as in `sparse_coding2d`; with ``squared=False`` the norm is taken per vector.

    Examples:
        >>> layers.sparse_coding1d(torch.eye(3), torch.eye(3), penalty=10.0).any().item()
        False
    """
    if weight.ndim != 2 or x.ndim < 1:
        raise ValueError(f"x and weight have {x.ndim} and {weight.ndim} dimensions; x needs at least 1, weight 2")
    x = repeated(x, weight.shape[1], -1)  # (..., n C)
    options: dict[str, Any] = {"iterations": iterations, "penalty": penalty, "ridge": ridge, "nonnegative": nonnegative}
    options |= {"squared": squared, "scheme": scheme}
    rows = x.reshape(-1, x.shape[-1])  # (N, C)
    return _code(rows, Matrix(weight), step, recompute, options).view(*x.shape[:-1], len(weight))


class SparseCoding2d(LearntDictionary):
    """`sparse_coding2d` with a learnt dictionary `weight` (dictionary_size, expansion * channels, k, k).

    (B, C, H, W) -> (B, dictionary_size, H', W'), for any H and W. `penalty` can be changed after construction, as
    robust inference does; with `adaptive_penalty` it is multiplied by the ratio of an input's size to its code's. The
    dictionary starts Kaiming-uniform and is used with unit atoms if `normalise`. Errors as in `sparse_coding2d`.

    Examples:
        >>> layers.SparseCoding2d(3, 16, padding=1)(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 16, 8, 8])
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

    def linear_map(self, weight: Tensor, x: Tensor) -> LinearMap:
        if x.ndim != 4:
            raise ValueError(f"x has {x.ndim} dimensions; a batch of images has 4")
        return Convolution(weight, self.stride, self.padding, (x.shape[2], x.shape[3]))

    def effective_penalty(self, x: Tensor) -> float:
        """The penalty for inputs of this size."""
        code_shape = self.linear_map(self.weight, x).code_shape
        return self.penalty * (x[0].numel() / math.prod(code_shape) if self.adaptive_penalty else 1.0)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self._scripted(x)
        else:  # TorchScript does not compile this branch
            return self._coded(x)

    def _scripted(self, x: Tensor) -> Tensor:
        x = x.repeat(1, self.expansion, 1, 1)
        penalty = float(self.penalty)
        if self.adaptive_penalty:
            shape = scripted_codes.code_shape(self.weight, self.stride, self.padding, list(x.shape[2:]))
            penalty *= x[0].numel() / self.expansion / (shape[0] * shape[1] * shape[2])
        return self.scripted_codes(x, self.stride, self.padding, penalty)

    def _coded(self, x: Tensor) -> Tensor:
        options: dict[str, Any] = {
            "step": self.step(x),
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


class SparseCoding1d(LearntDictionary):
    """`sparse_coding1d` with a learnt dictionary `weight` (dictionary_size, expansion * channels).

    Everything else is as in `SparseCoding2d`.

    Examples:
        >>> code = layers.SparseCoding1d(8, 16)(torch.randn(2, 5, 8))
        >>> code.shape, bool((code >= 0).all())
        (torch.Size([2, 5, 16]), True)
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
        if torch.jit.is_scripting():
            codes = self.scripted_codes(x.reshape(-1, x.shape[-1]).repeat(1, self.expansion), 1, 0, float(self.penalty))
            return codes.view(x.shape[:-1] + codes.shape[1:])
        else:  # TorchScript does not compile this branch
            return self._coded(x)

    def _coded(self, x: Tensor) -> Tensor:
        options: dict[str, Any] = {"step": self.step(x), "penalty": self.penalty, "recompute": self.recompute}
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
