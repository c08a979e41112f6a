"""The linear map A from a sparse code to its signal, and its adjoint, for convolutions and matrices."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.layers.checks import check_sizes
from stillpoint.core.layers.norms import l2_norm


def repeated(x: Tensor, channels: int, axis: int) -> Tensor:
    """`x` repeated along an axis to the dictionary's number of channels, which must be a multiple of its own."""
    channels, own = int(channels), int(x.shape[axis])  # tensors when traced
    copies, left = divmod(channels, max(own, 1))
    if left or not copies:
        raise ValueError(f"x has {own} channels, but the dictionary's {channels} must be a multiple of them")
    return torch.cat([x] * copies, axis) if copies > 1 else x


def unit_atoms(weight: Tensor) -> Tensor:
    """`weight` (K, ...) with every atom ``weight[k]`` divided by its l2 norm, which autograd treats as a constant."""
    norm = l2_norm(weight.detach().flatten(1), 1).clamp_min(1e-12)
    return weight / norm.view(-1, *[1] * (weight.ndim - 1))


class Convolution:
    """A and its adjoint for a dictionary (K, C, kh, kw) and images (B, C, H, W)."""

    def __init__(self, weight: Tensor, stride: int, padding: int, size: tuple[int, int]) -> None:
        check_sizes(stride=stride, padding=padding)
        self.weight, self.stride, self.padding, self.size = weight, stride, padding, size
        kernel = weight.shape[2:]
        if not weight.numel():
            raise ValueError(
                f"a dictionary has atoms (K, n C, kh, kw) of at least one number each, got {tuple(weight.shape)}"
            )
        # border pixels that a strided convolution never reads are restored, so that A z has the input's size
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
        if not weight.numel():
            raise ValueError(f"a dictionary has atoms (K, n C) of at least one number each, got {tuple(weight.shape)}")
        self.weight, self.code_shape = weight, (len(weight),)

    def analyse(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, self.weight if weight is None else weight, bias)

    def synthesise(self, z: Tensor) -> Tensor:
        return z @ self.weight


LinearMap = Convolution | Matrix
