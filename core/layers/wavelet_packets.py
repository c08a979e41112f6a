"""Dual-tree complex wavelet packets in two dimensions, as two strided passes of 1-D filters.

Source: Leterme, Polisano, Perrier, Alahari, "From CNNs to Shift-Invariant Twin Models Based on Complex Wavelets", after
Bayram and Selesnick, "On the dual-tree complex wavelet packet and M-band transforms" (IEEE Trans. Signal Processing
2008). With psi_p = a_p + i b_p the complex filter of a 1-D path p (see `wavelet_filters`), the two maps of a packet
are

    A = psi_v (vertical) psi_h (horizontal),    B = psi_v (vertical) conj(psi_h) (horizontal),

each an oriented band-pass filter. The reference computes four real filter banks stage by stage and combines them; here
a packet is one vertical and one horizontal pass at the given stride, for the requested packets only. On a CPU one
kernel does both, if both maps of every packet are requested.
"""

from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from stillpoint.core.kernels import packets as kernel
from stillpoint.core.layers.built_once import built_once
from stillpoint.core.layers.constants import ConstantBuffers
from stillpoint.core.layers.packet_passes import FusedFilters, MapPasses, joined, reorder
from stillpoint.core.layers.wavelet_filters import (
    check_geometry,
    computing_order,
    group_maps,
    horizontal_filters,
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
        depth: stages J of the packet tree, 1 to 8; the filter has 9 * 2**J - 6 taps along an axis.
        stride: 1 (undecimated), 2, 4, ..., 2**J pixels from one coefficient to the next.
        maps: which of the 2 * 4**J maps, in the order of the output; map q is A of packet q below 4**J, else B of
            packet q - 4**J. Packets are in quad-tree order, digit 2 * (vertical high) + (horizontal high), first stage
            first.
        part: "complex" returns real and imaginary parts, "real" only the real ones, at half the cost.
        analytic: conjugate maps so that all have their energy at negative horizontal frequencies; else A and B
            as above.
        padding: "zeros" as in the paper (14 pixels at depth 2 and stride 2, 34 at depth 3 and stride 2), "circular"
            (ceil(H/stride) coefficients), or "valid" (none).

    Returns:
        (B, C * M * P, H', W') with M maps and P = 2 (real, imaginary) or 1 parts, channels in that order of nesting.

    Raises:
        ValueError: an unknown option, a map that does not exist or is requested twice, an input that is not
            four-dimensional and floating, or an image without pixels or smaller than the filter.

    Laws: linear; with circular padding and stride s dividing H and W, f(roll(x, (s i, s j))) is roll(f(x), (i, j));
    every `stride` samples the undecimated transform (circular), on a grid that may begin some pixels later; at stride
    2**J (circular) the transform is a tight frame: the squares of all coefficients sum to 8 times those of x.

    Examples:
        >>> layers.wavelet_packets2d(torch.randn(1, 3, 32, 32)).shape  # 3 * 32 maps * 2 parts
        torch.Size([1, 192, 16, 16])
    """
    _check_images(x)
    chosen = None if maps is None else tuple(maps)
    build: dict[str, Any] = {"part": part, "analytic": analytic, "padding": padding}
    return _ready(depth, stride, maps=chosen, device=x.device, dtype=x.dtype, **build)(x).flatten(1, 3)


class WaveletPackets2d(ConstantBuffers):
    """`wavelet_packets2d` as a Module with precomputed filters: (B, C, H, W) -> (B, C, M, P, H', W').

    Maps requested in the order `computing_order(group_maps(maps, depth), depth)` are computed without a copy.

    Examples:
        >>> layers.WaveletPackets2d(depth=2, stride=4)(torch.randn(1, 3, 32, 32)).shape[:2]
        torch.Size([1, 3])
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
        self.taps = support(depth)
        #: pixels of padding before the first one
        self.before = 0 if padding == "valid" else zero_padding(depth, stride)
        groups = group_maps(self.maps, depth)
        cheapest = computing_order(groups, depth)
        build: dict[str, Any] = {"device": device, "dtype": dtype}
        trees = tree_filters(depth)
        self.passes = nn.ModuleList(
            MapPasses(trees[:, rows], horizontal_filters(trees, needs, depth, part, analytic), **build)
            for needs, rows in groups
        )
        self.register_buffer("order", None, persistent=False)
        if cheapest != self.maps:
            self.register_constant("order", torch.tensor([cheapest.index(q) for q in self.maps], device="cpu"), **build)
        pairs = [(q, q + 4**depth) for q in self.maps if q < 4**depth]
        self.fused: FusedFilters | None = None
        if analytic and {q for pair in pairs for q in pair} == set(self.maps):
            self.fused = FusedFilters(depth, part, self.maps, pairs, combined=True, **build)

    def output_size(self, size: int) -> int:
        """Coefficients along an axis of `size` pixels; ValueError where the padded axis is shorter than the filter."""
        if size < 1:
            raise ValueError(f"an image needs at least one pixel along each axis, got {size}")
        if self.padding == "circular":
            return (size + self.stride - 1) // self.stride
        room = size + 2 * self.before - self.taps
        if room < 0:
            raise ValueError(
                f"an image of {size} pixels, padded by {self.before} on both sides, is smaller than the filter of "
                f"{self.taps} taps at depth {self.depth}"
            )
        return room // self.stride + 1

    def forward(
        self, x: Tensor, every: int = 1, start: list[int] | None = None, size: list[int] | None = None
    ) -> Tensor:
        """Coefficients of (B, C, H, W) as (B, C, M, P, H', W').

        `start`, `size` and `every` select a window of the grid and every `every`-th of its coefficients; only those are
        computed: ``f(x)[..., i:i+h:e, j:j+w:e] == f(x, every=e, start=(i, j), size=(h, w))``. ValueError for a window
        that the grid does not contain.
        """
        if not torch.jit.is_scripting():
            _check_images(x)
        whole = [self.output_size(n) for n in x.shape[-2:]]
        first = [0, 0] if start is None else start
        window = [whole[0] - first[0], whole[1] - first[1]] if size is None else size
        if every < 1 or len(first) != 2 or len(window) != 2 or min(first) < 0 or min(window) < 1:
            raise ValueError(
                f"a window needs every of at least 1, start (i, j) and size (h, w), got {every}, {start}, {size}"
            )
        if first[0] + window[0] > whole[0] or first[1] + window[1] > whole[1]:
            raise ValueError(f"a window from {first} of size {window} is not within a grid of {whole}")
        count = [(n + every - 1) // every for n in window]
        before = [self.before - self.stride * n for n in first]
        if torch.jit.is_scripting():
            return self._passed(x, self.stride * every, before, count)
        else:  # TorchScript does not compile this branch
            return self._fastest(x, self.stride * every, before, count)

    def _fastest(self, x: Tensor, stride: int, before: list[int], count: list[int]) -> Tensor:
        if self.fused is not None and kernel.fused(x, self.fused.packets):
            options: dict[str, Any] = {
                "stride": stride,
                "before": before,
                "count": count,
                "circular": self.padding == "circular",
            }
            return kernel.packets2d(x, self.fused.packets, **options)
        return self._passed(x, stride, before, count)

    def _passed(self, x: Tensor, stride: int, before: list[int], count: list[int]) -> Tensor:
        firsts: list[Tensor] = []
        seconds: list[Tensor] = []
        for passes in self.passes:
            found = passes(x, stride, before, count, self.padding)
            firsts.append(found[0])
            seconds.extend(found[1:])
        y, order = joined(firsts + seconds, 2), self.order
        return y if order is None else reorder(y, order)

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


def _check_images(x: Tensor) -> None:
    if x.ndim != 4:
        raise ValueError(f"images are (B, C, H, W), got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"images must be floating, got {x.dtype}")


_ready = built_once(WaveletPackets2d)
