"""TorchScript versions of the functions of `sparse_coding`, for layers in evaluation."""

# ruff: noqa: B905, RUF005  (TorchScript knows neither strict nor a list unpacked within another)

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.layers.norms import l2_norm


def of_unit_norm(weight: Tensor) -> Tensor:
    """`linear_maps.unit_atoms`."""
    norm = l2_norm(weight.detach().flatten(1), 1).clamp_min(1e-12)
    return weight / norm.view([-1] + [1] * (weight.dim() - 1))


def analyse(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Codes of images by a convolution, or of rows by a matrix."""
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, [stride, stride], [padding, padding])


def synthesise(z: Tensor, weight: Tensor, stride: int, padding: int, size: list[int]) -> Tensor:
    """Signals from their codes: images of `size` (H, W), or rows for a matrix, which ignores `size`."""
    if weight.dim() == 2:
        return z @ weight
    rest = [(n + 2 * padding - k) % stride for n, k in zip(size, weight.shape[2:])]
    return F.conv_transpose2d(z, weight, None, [stride, stride], [padding, padding], rest)


def code_shape(weight: Tensor, stride: int, padding: int, size: list[int]) -> list[int]:
    """The shape of one image's code."""
    sides = [(n + 2 * padding - k) // stride + 1 for n, k in zip(size, weight.shape[2:])]
    return [weight.shape[0]] + sides  # a matrix has no sides


def step(weight: Tensor, stride: int, padding: int, size: list[int], power: tuple[int, float, float, int]) -> Tensor:
    """The step of `step_size`; `power`: maximum number of iterations, tolerance, safety factor, seed of the start."""
    generator = torch.Generator(device="cpu")
    generator.manual_seed(power[3])
    vector = torch.randn([1] + code_shape(weight, stride, padding, size), generator=generator)
    vector = vector.to(device=weight.device, dtype=weight.dtype)
    stopped = False
    for _ in range(power[0]):
        if not stopped:
            moved = analyse(synthesise(vector, weight, stride, padding, size), weight, None, stride, padding)
            moved = moved / moved.norm().clamp_min(1e-12)
            stopped = bool((moved - vector).square().sum() <= power[1])
            vector = moved
    largest = synthesise(vector, weight, stride, padding, size).square().sum()
    return power[2] / largest.clamp_min(2.0**-126)  # the smallest normal number of float32


def codes(
    x: Tensor,
    weight: Tensor,
    step: Tensor,
    stride: int,
    padding: int,
    iterations: int,
    penalty: float,
    ridge: float,
    nonnegative: bool,
    squared: bool,
    scheme: str,
) -> Tensor:
    """`proximal_gradient.iterate`."""
    shrink = 1 / (1 + ridge * step)
    threshold, scaled, size = shrink * step * penalty, weight * (shrink * step), list(x.shape[2:])
    bias: Tensor | None = None
    if nonnegative and penalty > 0:
        bias = (-threshold).expand(weight.shape[0])
    moved = analyse(x, scaled, bias, stride, padding)
    code = moved.relu() if nonnegative else moved - moved.clamp(-threshold, threshold)
    previous, t = code, 1.0
    for i in range(iterations - 1):
        following = (1 + (1 + 4 * t * t) ** 0.5) / 2
        momentum, t, latest = 0.0 if scheme == "ista" or i == 0 else (t - 1) / following, following, code
        point = code + momentum * (code - previous)
        at = point if scheme == "fista" else code
        residual = x - synthesise(at, weight, stride, padding, size)
        if not squared:
            norm = l2_norm(residual.detach().flatten(1), 1).clamp_min(1e-12)
            residual = residual * (0.5 / norm).view([-1] + [1] * (residual.dim() - 1))
        moved = analyse(residual, scaled, bias, stride, padding) + shrink * point
        code = moved.relu() if nonnegative else moved - moved.clamp(-threshold, threshold)
        previous = latest
    return code
