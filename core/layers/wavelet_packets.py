"""Dual-tree complex wavelet packets in two dimensions, as two strided passes of 1-D filters.

Source: Leterme, Polisano, Perrier, Alahari, "From CNNs to Shift-Invariant Twin Models Based on Complex Wavelets", after
Bayram and Selesnick, "On the dual-tree complex wavelet packet and M-band transforms" (IEEE Trans. Signal Processing
2008). With psi_p = a_p + i b_p the complex filter of a 1-D path p (see `wavelet_filters`), the two maps of a packet
are

    A = psi_v (vertical) psi_h (horizontal),    B = psi_v (vertical) conj(psi_h) (horizontal),

each an oriented band-pass filter. The reference computes four real filter banks stage by stage and combines them; here
a packet is one vertical and one horizontal pass, at the stride that is asked for, and only for the packets that are
asked for. On a CPU one kernel makes both, where both maps of every packet are asked for.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from stillpoint.core.kernels import packets as kernel
from stillpoint.core.kernels.correlation import strided_correlation
from stillpoint.core.kernels.pool import plain_only
from stillpoint.core.layers.padding import pad
from stillpoint.core.layers.wavelet_filters import (
    check_geometry,
    computing_order,
    group_maps,
    half_filters,
    horizontal_filters,
    split_packet,
    support,
    tree_filters,
    zero_padding,
)

Part = Literal["complex", "real"]
PADDINGS = ("zeros", "circular", "valid")


def wavelet_packets2d(
    x: Tensor,
    *,
    depth: int = 2,
    stride: int = 2,
    maps: Iterable[int] | None = None,
    part: Part = "complex",
    analytic: bool = True,
    padding: str = "zeros",
) -> Tensor:
    """Wavelet packet coefficients of every channel of an image.

    Args:
        x: (B, C, H, W), float32 or float64; any size that holds the filter once padded.
        depth: stages J of the packet tree; the filter has 9 * 2**J - 6 taps along an axis.
        stride: 1 (undecimated), 2, 4, ..., 2**J pixels from one coefficient to the next.
        maps: which of the 2 * 4**J maps, in the order of the output; map q is A of packet q below 4**J, else B of
            packet q - 4**J. Packets are in quad-tree order, digit 2 * (vertical high) + (horizontal high), first stage
            first.
        part: "complex" gives real and imaginary parts, "real" only the real ones, at half the cost.
        analytic: conjugate maps so that all have their energy at negative horizontal frequencies; else A and B
            as above.
        padding: "zeros" as in the paper (14 pixels at depth 2 and stride 2, 34 at depth 3 and stride 2), "circular"
            (ceil(H/stride) coefficients), or "valid" (none).

    Returns:
        (B, C * M * P, H', W') with M maps and P = 2 (real, imaginary) or 1 parts, channels in that order of nesting.

    Raises:
        ValueError: an unknown option, a map that does not exist, or an image smaller than the filter.

    Laws: linear; with circular padding and stride s dividing H and W, f(roll(x, (s i, s j))) is roll(f(x), (i, j));
    every `stride` gives samples of the undecimated transform (circular), on a grid that may begin some pixels later; at
    stride 2**J (circular) the transform is a tight frame: the squares of all coefficients sum to 8 times those of x.
    """
    packets = WaveletPackets2d(
        depth, stride, maps=maps, part=part, analytic=analytic, padding=padding, device=x.device, dtype=x.dtype
    )
    return packets(x).flatten(1, 3)


class WaveletPackets2d(nn.Module):
    """`wavelet_packets2d` as a Module with its filters ready: (B, C, H, W) -> (B, C, M, P, H', W').

    Maps that are asked for in the order `computing_order(group_maps(maps, depth), depth)` are computed without a copy.
    """

    order: Tensor | None

    def __init__(
        self,
        depth: int = 2,
        stride: int = 2,
        *,
        maps: Iterable[int] | None = None,
        part: Part = "complex",
        analytic: bool = True,
        padding: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_geometry(depth, stride)
        if part not in get_args(Part):
            raise ValueError(f"part must be one of {', '.join(get_args(Part))}, got {part!r}")
        if padding not in PADDINGS:
            raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
        self.depth, self.stride, self.part, self.analytic, self.padding = depth, stride, part, analytic, padding
        self.maps = tuple(range(2 * 4**depth)) if maps is None else tuple(maps)
        groups = group_maps(self.maps, depth)
        cheapest = computing_order(groups, depth)
        dtype = dtype or torch.get_default_dtype()
        trees = tree_filters(depth)
        self.passes = nn.ModuleList(
            _Passes(
                trees[:, rows].to(device, dtype),
                horizontal_filters(trees, needs, depth, part, analytic).to(device, dtype),
            )
            for needs, rows in groups
        )
        order = None if cheapest == self.maps else torch.tensor([cheapest.index(q) for q in self.maps], device=device)
        self.register_buffer("order", order, persistent=False)
        pairs = [(q, q + 4**depth) for q in self.maps if q < 4**depth]
        self.fused: _Fused | None = None
        if analytic and {q for pair in pairs for q in pair} == set(self.maps):
            self.fused = _Fused(depth, part, self.maps, pairs, combined=True).to(device, dtype)

    @property
    def before(self) -> int:
        """Pixels of padding before the first one."""
        return 0 if self.padding == "valid" else zero_padding(self.depth, self.stride)

    def output_size(self, size: int) -> int:
        """Coefficients along an axis of `size` pixels; ValueError where the padded axis is shorter than the filter."""
        if self.padding == "circular":
            return -(-size // self.stride)
        room = size + 2 * self.before - support(self.depth)
        if room < 0:
            raise ValueError(
                f"an image of {size} pixels, padded by {self.before} on both sides, is smaller than the filter of "
                f"{support(self.depth)} taps at depth {self.depth}"
            )
        return room // self.stride + 1

    def forward(
        self, x: Tensor, *, every: int = 1, start: Sequence[int] = (0, 0), size: Sequence[int] | None = None
    ) -> Tensor:
        """Coefficients of (B, C, H, W) as (B, C, M, P, H', W').

        `start`, `size` and `every` choose a window of the grid and keep every so many of its coefficients; only those
        are computed: ``f(x)[..., i:i+h:e, j:j+w:e] == f(x, every=e, start=(i, j), size=(h, w))``.
        """
        if x.ndim != 4:
            raise ValueError(f"images are (B, C, H, W), got shape {tuple(x.shape)}")
        whole = [self.output_size(n) for n in x.shape[-2:]]
        window = [n - first for n, first in zip(whole, start, strict=True)] if size is None else size
        count = [-(-n // every) for n in window]
        before = [self.before - self.stride * first for first in start]
        if self.fused is not None and kernel.fused(x, self.fused.packets):
            circular = self.padding == "circular"
            return kernel.packets2d(
                x, self.fused.packets, stride=self.stride * every, before=before, count=count, circular=circular
            )
        found = [p(x, self.stride * every, before, count, self.padding) for p in self.passes]
        y = _joined([part for same in zip(*found, strict=True) for part in same], dim=2)
        return y if self.order is None else _reorder(y, self.order)

    def kernels(self) -> Tensor:
        """The two-dimensional filters of the maps, (M, P, K, K), to be correlated with the padded image."""
        found = [p.kernels() for p in self.passes]  # type: ignore[operator]
        y = torch.cat([part for same in zip(*found, strict=True) for part in same])
        return y if self.order is None else y[self.order]

    def extra_repr(self) -> str:
        return (
            f"depth={self.depth}, stride={self.stride}, maps={len(self.maps)}, part={self.part!r}, "
            f"padding={self.padding!r}"
        )


class _Passes(nn.Module):
    """A vertical pass by both trees of R paths (2, R, K), and a horizontal one by S maps of P parts (S, P, 2, K)."""

    vertical: Tensor
    horizontal: Tensor

    def __init__(self, vertical: Tensor, horizontal: Tensor) -> None:
        super().__init__()
        self.parts = horizontal.shape[1]
        # three axes at most: Module.to(memory_format=channels_last) reorders what has four
        self.register_buffer("vertical", vertical.transpose(0, 1).flatten(0, 1), persistent=False)  # (2R, K)
        self.register_buffer("horizontal", horizontal.flatten(0, 1), persistent=False)  # (S P, 2, K)

    def forward(
        self, x: Tensor, stride: int, before: Sequence[int], count: Sequence[int], padding: str
    ) -> tuple[Tensor, ...]:
        batch, channels, height, width = x.shape
        # images, colours and paths are all one batch axis: no grouped convolution, which is slow on every device
        y = x.reshape(batch * channels, 1, height, width)
        y = _correlate(y, self.vertical[:, None, :, None], 2, stride, before[0], count[0], padding)  # (B C, 2R, H', W)
        y = y.reshape(-1, 2, count[0], width)  # (B C R, 2, H', W)
        # (B C R, S P, H', W')
        y = _correlate(y, self.horizontal[:, :, None, :], 3, stride, before[1], count[1], padding)
        return (y.reshape(batch, channels, -1, self.parts, *count),)  # (B, C, R S, P, H', W')

    def kernels(self) -> tuple[Tensor, ...]:
        """(R S, P, K, K)"""
        vertical = self.vertical.view(-1, 2, self.vertical.shape[-1])  # (R, 2, K)
        atoms = torch.einsum("rti,stj->rsij", vertical, self.horizontal)
        return (atoms.reshape(-1, self.parts, *atoms.shape[-2:]),)


class PacketHalves2d(WaveletPackets2d):
    """(A + B) / 2 of each packet, then (B - A) / 2 of each: (B, C, H, W) -> (B, C, 2 N, P, H', W').

    For whoever combines maps linearly anyway. Of analytic maps A and B the half sum is a vertical filter of tree a
    alone and the half difference one of tree b, each times one horizontal filter: half the multiplications of the maps.

    `maps` says whose packets; the attribute `maps` is then A of all N packets and B of all, in the order of the output.
    """

    def __init__(
        self,
        depth: int = 2,
        stride: int = 2,
        *,
        maps: Iterable[int] | None = None,
        part: Part = "complex",
        padding: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        count = 4**depth
        packets = range(count) if maps is None else sorted({q % count for q in maps})
        groups = group_maps([*packets, *(count + packet for packet in packets)], depth)
        dtype = dtype or torch.get_default_dtype()
        first = [(needs[: len(needs) // 2], rows) for needs, rows in groups]
        order = computing_order(first, depth)
        super().__init__(depth, stride, maps=order, part=part, padding=padding, device=device, dtype=dtype)
        self.maps = (*order, *(count + packet for packet in order))
        self.order = None
        trees = tree_filters(depth)
        self.passes = nn.ModuleList(
            _HalfPasses(
                trees[:, rows].to(device, dtype),
                half_filters(trees, [path for bank, path in needs if bank == 0], depth, part).to(device, dtype),
            )
            for needs, rows in groups
        )
        pairs = [(packet, count + packet) for packet in order]
        self.fused = _Fused(depth, part, self.maps, pairs, combined=False).to(device, dtype)


class _HalfPasses(nn.Module):
    """A vertical pass by both trees of R paths (2, R, K), and horizontal ones to half sums and half differences of S
    pairs of maps of P parts (2, S, P, K)."""

    vertical: Tensor
    horizontal: Tensor

    def __init__(self, vertical: Tensor, horizontal: Tensor) -> None:
        super().__init__()
        self.parts = horizontal.shape[2]
        self.register_buffer("vertical", vertical.flatten(0, 1), persistent=False)  # (2R, K), tree a first
        self.register_buffer("horizontal", horizontal.flatten(1, 2), persistent=False)  # (2, S P, K)

    def forward(
        self, x: Tensor, stride: int, before: Sequence[int], count: Sequence[int], padding: str
    ) -> tuple[Tensor, ...]:
        batch, channels, height, width = x.shape
        y = x.reshape(batch * channels, 1, height, width)
        y = _correlate(y, self.vertical[:, None, :, None], 2, stride, before[0], count[0], padding)  # (B C, 2R, H', W)
        found = []
        for half, filters in zip(y.chunk(2, dim=1), self.horizontal, strict=True):
            half = half.reshape(-1, 1, count[0], width)  # (B C R, 1, H', W)
            half = _correlate(half, filters[:, None, None, :], 3, stride, before[1], count[1], padding)
            found.append(half.reshape(batch, channels, -1, self.parts, *count))  # (B, C, R S, P, H', W')
        return tuple(found)

    def kernels(self) -> tuple[Tensor, ...]:
        """Twice (R S, P, K, K)"""
        pairs = zip(self.vertical.chunk(2), self.horizontal, strict=True)
        atoms = [torch.einsum("ri,sj->rsij", vertical, horizontal) for vertical, horizontal in pairs]
        return tuple(own.reshape(-1, self.parts, *own.shape[-2:]) for own in atoms)


class _Fused(nn.Module):
    """Filters of all paths for the kernel of both passes, for whoever wants both maps of every packet.

    `pairs` are the two maps of each packet, and `maps` those of the output in their order: the maps themselves if they
    are to be `combined`, else half sums and half differences.
    """

    vertical: Tensor
    horizontal: Tensor
    places: Tensor

    def __init__(
        self, depth: int, part: str, maps: Sequence[int], pairs: Sequence[tuple[int, int]], *, combined: bool
    ) -> None:
        super().__init__()
        self.combined = combined
        trees, place = tree_filters(depth), {q: n for n, q in enumerate(maps)}
        places = [[*split_packet(first, depth), place[first], place[second]] for first, second in pairs]
        self.register_buffer("vertical", trees, persistent=False)  # (2, 2**J, K)
        self.register_buffer("horizontal", half_filters(trees, range(2**depth), depth, part), persistent=False)
        self.register_buffer("places", torch.tensor(places), persistent=False)  # (N, 4)

    @property
    def packets(self) -> kernel.Packets:
        return kernel.Packets(self.vertical, self.horizontal, self.places, self.combined)


def _joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    """`torch.cat`, which copies a single part too."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


def _reorder(y: Tensor, order: Tensor) -> Tensor:
    """``y[:, :, order]``; a permutation's derivative is the inverse permutation, not a sum into zeros."""
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
        return _reorder(grad, ctx.saved_tensors[0].argsort()), None


def _correlate(x: Tensor, weight: Tensor, axis: int, stride: int, before: int, count: int, padding: str) -> Tensor:
    """`count` correlations along one axis, the first one beginning `before` pixels before the first pixel."""
    taps, n = weight.shape[axis], x.shape[axis]
    if padding == "zeros" and before >= 0 and (n + 2 * before - taps) // stride + 1 == count:
        return strided_correlation(x, weight, axis, stride, before)
    extent = (count - 1) * stride + taps
    # first wrapped, then cut: a circular signal has no part that may be cropped before
    ends = (max(before, 0), max(extent - n - before, 0))
    x = pad(
        x, [ends, (0, 0)] if axis == 2 else [(0, 0), ends], padding="circular" if padding == "circular" else "zeros"
    )
    if x.shape[axis] != extent:  # narrowed to the whole, it would still be copied into zeros by its derivative
        x = x.narrow(axis, max(-before, 0), extent)
    return strided_correlation(x, weight, axis, stride, 0)
