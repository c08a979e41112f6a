"""Wavelet packets as two strided passes of 1-D filters, one vertical and one horizontal: of maps, and of half sums.

Parts of `WaveletPackets2d` and `PacketHalves2d`, which choose the filters.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stillpoint.core.kernels import packets as kernel
from stillpoint.core.kernels.correlation import strided_correlation
from stillpoint.core.kernels.pool import plain_only
from stillpoint.core.layers.constants import ConstantBuffers
from stillpoint.core.layers.padding import pad
from stillpoint.core.layers.wavelet_filters import half_filters, split_packet, tree_filters


class MapPasses(ConstantBuffers):
    """A vertical pass by both trees of R paths (2, R, K), and a horizontal one by S maps of P parts (S, P, 2, K)."""

    vertical: Tensor
    horizontal: Tensor

    def __init__(self, vertical: Tensor, horizontal: Tensor, **build: Any) -> None:
        super().__init__()
        self.parts = horizontal.shape[1]
        # three axes at most: Module.to(memory_format=channels_last) reorders what has four
        self.register_constant("vertical", vertical.transpose(0, 1).flatten(0, 1), **build)  # (2R, K)
        self.register_constant("horizontal", horizontal.flatten(0, 1), **build)  # (S P, 2, K)

    def forward(self, x: Tensor, stride: int, before: list[int], count: list[int], padding: str) -> list[Tensor]:
        batch, channels, height, width = x.shape
        # images, colours and paths are all one batch axis: no grouped convolution, which is slow on every device
        y = x.reshape(batch * channels, 1, height, width)
        y = _correlate(y, self.vertical[:, None, :, None], 2, stride, before[0], count[0], padding)  # (B C, 2R, H', W)
        y = y.reshape(batch * channels * (self.vertical.shape[0] // 2), 2, count[0], width)  # (B C R, 2, H', W)
        # (B C R, S P, H', W')
        y = _correlate(y, self.horizontal[:, :, None, :], 3, stride, before[1], count[1], padding)
        maps = self.vertical.shape[0] // 2 * (self.horizontal.shape[0] // self.parts)
        return [y.reshape(batch, channels, maps, self.parts, count[0], count[1])]  # (B, C, R S, P, H', W')

    def kernels(self) -> tuple[Tensor, ...]:
        """The two-dimensional kernels, (R S, P, K, K)."""
        vertical = self.vertical.view(-1, 2, self.vertical.shape[-1])  # (R, 2, K)
        atoms = torch.einsum("rti,stj->rsij", vertical, self.horizontal)
        return (atoms.reshape(-1, self.parts, *atoms.shape[-2:]),)


class HalfPasses(ConstantBuffers):
    """A vertical pass by both trees of R paths (2, R, K), and horizontal ones to half sums and half differences of S
    pairs of maps of P parts (2, S, P, K)."""

    vertical: Tensor
    horizontal: Tensor

    def __init__(self, vertical: Tensor, horizontal: Tensor, **build: Any) -> None:
        super().__init__()
        self.parts = horizontal.shape[2]
        self.register_constant("vertical", vertical.flatten(0, 1), **build)  # (2R, K), tree a first
        self.register_constant("horizontal", horizontal.flatten(1, 2), **build)  # (2, S P, K)

    def forward(self, x: Tensor, stride: int, before: list[int], count: list[int], padding: str) -> list[Tensor]:
        batch, channels, height, width = x.shape
        y = x.reshape(batch * channels, 1, height, width)
        y = _correlate(y, self.vertical[:, None, :, None], 2, stride, before[0], count[0], padding)  # (B C, 2R, H', W)
        maps = self.vertical.shape[0] // 2 * (self.horizontal.shape[1] // self.parts)
        found: list[Tensor] = []
        for i, half in enumerate(y.chunk(2, dim=1)):
            half = half.reshape(-1, 1, count[0], width)  # (B C R, 1, H', W)
            half = _correlate(half, self.horizontal[i][:, None, None, :], 3, stride, before[1], count[1], padding)
            found.append(half.reshape(batch, channels, maps, self.parts, count[0], count[1]))  # (B, C, R S, P, H', W')
        return found

    def kernels(self) -> tuple[Tensor, ...]:
        """The kernels of the half sums and of the half differences, (R S, P, K, K) each."""
        pairs = zip(self.vertical.chunk(2), self.horizontal, strict=True)
        atoms = [torch.einsum("ri,sj->rsij", vertical, horizontal) for vertical, horizontal in pairs]
        return tuple(own.reshape(-1, self.parts, *own.shape[-2:]) for own in atoms)


class FusedFilters(ConstantBuffers):
    """Filters of all paths for the kernel of both passes, used when both maps of every packet are requested.

    `pairs` are the two maps of each packet; `maps` are those of the output, in order: the maps themselves if
    `combined`, else half sums and half differences.
    """

    vertical: Tensor
    horizontal: Tensor
    places: Tensor
    __jit_unused_properties__ = ("packets",)

    def __init__(
        self,
        depth: int,
        part: str,
        maps: Sequence[int],
        pairs: Sequence[tuple[int, int]],
        *,
        combined: bool,
        **build: Any,
    ) -> None:
        super().__init__()
        self.combined = combined
        trees, place = tree_filters(depth), {q: n for n, q in enumerate(maps)}
        places = [[*split_packet(first, depth), place[first], place[second]] for first, second in pairs]
        self.register_constant("vertical", trees, **build)  # (2, 2**J, K)
        self.register_constant("horizontal", half_filters(trees, range(2**depth), depth, part), **build)
        self.register_constant("places", torch.tensor(places, device="cpu"), **build)  # (N, 4)

    @property
    def packets(self) -> kernel.Packets:
        return kernel.Packets(self.vertical, self.horizontal, self.places, self.combined)


def joined(parts: list[Tensor], dim: int) -> Tensor:
    """`torch.cat`, which copies a single part too."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def reorder(y: Tensor, order: Tensor) -> Tensor:
    """``y[:, :, order]``; a permutation's derivative is the inverse permutation, not a sum into zeros."""
    if torch.jit.is_scripting():
        return y.index_select(2, order)
    else:  # TorchScript does not compile this branch
        return _reordered(y, order)


def _reordered(y: Tensor, order: Tensor) -> Tensor:
    if y.requires_grad and not plain_only():
        return _Permuted.apply(y, order)
    return y.index_select(2, order)


class _Permuted(torch.autograd.Function):
    @staticmethod
    def forward(y: Tensor, order: Tensor) -> Tensor:
        return y.index_select(2, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return reorder(grad, ctx.saved_tensors[0].argsort()), None


def _correlate(x: Tensor, weight: Tensor, axis: int, stride: int, before: int, count: int, padding: str) -> Tensor:
    """`count` correlations along one axis, the first starting `before` pixels before the first pixel."""
    taps, n = weight.shape[axis], x.shape[axis]
    if padding == "zeros" and before >= 0 and (n + 2 * before - taps) // stride + 1 == count:
        return strided_correlation(x, weight, axis, stride, before)
    extent = (count - 1) * stride + taps
    # wrap first, crop afterwards: wrapping needs the whole signal
    ends = (max(before, 0), max(extent - n - before, 0))
    x = pad(
        x, [ends, (0, 0)] if axis == 2 else [(0, 0), ends], padding="circular" if padding == "circular" else "zeros"
    )
    if x.shape[axis] != extent:  # the derivative of even a full narrow copies into zeros
        x = x.narrow(axis, max(-before, 0), extent)
    return strided_correlation(x, weight, axis, stride, 0)
