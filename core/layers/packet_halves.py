"""Half sums and half differences of the two maps of each wavelet packet, at half the cost of the maps."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from stillpoint.core.layers.packet_passes import FusedFilters, HalfPasses
from stillpoint.core.layers.wavelet_filters import (
    check_geometry,
    computing_order,
    group_maps,
    half_filters,
    tree_filters,
)
from stillpoint.core.layers.wavelet_packets import Part, WaveletPackets2d


class PacketHalves2d(WaveletPackets2d):
    """(A + B) / 2 of each packet, then (B - A) / 2 of each: (B, C, H, W) -> (B, C, 2 N, P, H', W').

    For layers that combine the maps linearly anyway. For analytic maps A and B the half sum needs a vertical filter of
    tree a only, the half difference one of tree b, each with one horizontal filter: half the multiplications.

    The argument `maps` selects the packets; the attribute `maps` lists A of all N packets, then B, in output order.

    Examples:
        >>> layers.PacketHalves2d()(torch.randn(1, 3, 32, 32)).shape[:2]
        torch.Size([1, 3])
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
        check_geometry(depth, stride)
        count = 4**depth
        chosen = tuple(range(count) if maps is None else maps)
        if not all(isinstance(q, int) for q in chosen):
            raise ValueError(f"maps must be numbers of packets, got {list(chosen)}")
        packets = sorted({q % count for q in chosen})
        groups = group_maps([*packets, *(count + packet for packet in packets)], depth)
        build: dict[str, Any] = {"device": device, "dtype": dtype}
        first = [(needs[: len(needs) // 2], rows) for needs, rows in groups]
        order = computing_order(first, depth)
        super().__init__(depth, stride, maps=order, part=part, padding=padding, **build)
        self.maps = (*order, *(count + packet for packet in order))
        self.order = None
        trees = tree_filters(depth)
        self.passes = nn.ModuleList(
            HalfPasses(
                trees[:, rows],
                half_filters(trees, [path for bank, path in needs if bank == 0], depth, part),
                **build,
            )
            for needs, rows in groups
        )
        pairs = [(packet, count + packet) for packet in order]
        self.fused = FusedFilters(depth, part, self.maps, pairs, combined=False, **build)
