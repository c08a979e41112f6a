"""Filters of the dual-tree complex wavelet packet transform: the two trees, their 1-D paths, and their sampling grid.

Source of the taps: Kingsbury, "A dual-tree complex wavelet transform with improved orthogonality and symmetry
properties" (ICIP 2000), q-shift filter of 10 taps with a delay of a quarter of a sample. Source of the packets:
Leterme, Polisano, Perrier, Alahari, "From CNNs to Shift-Invariant Twin Models Based on Complex Wavelets", whose first
stage is the same filter in both trees, shifted by one sample, instead of a biorthogonal one.

A path is one choice of low (0) or high (1) pass for each stage, written as a number in base 2 whose first digit is the
first stage (natural order). The filter of a path is the cascade of its stages; a stage after j others is dilated by
2**j, and subsampling along the cascade changes neither the filter nor the remaining samples.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_LOW = (
    -0.006181881892116438,
    -0.0016896812725281543,
    -0.1002312195074762,
    0.0008736226952170968,
    0.5636557101270515,
    0.7666284677930372,
    0.26383956105893763,
    -0.10983605166597087,
    -0.013975370246888838,
    0.051130405283831656,
)
_FIRST_LENGTH = len(_LOW) + 2


def qshift_filters() -> tuple[Tensor, Tensor]:
    """Low-pass and high-pass filters of trees a and b, each (2, 10) in float64; tree b is tree a reversed in time."""
    # real data, even while a network is built on the meta device
    low = torch.tensor(_LOW, dtype=torch.float64, device="cpu")
    sign = low.new_tensor([-1.0, 1.0]).repeat(len(_LOW) // 2)
    high = sign * low.flip(0)
    return torch.stack([low, low.flip(0)]), torch.stack([high, high.flip(0)])


def support(depth: int) -> int:
    """Taps of a path filter: 12, 30, 66, ... for depth 1, 2, 3, ..."""
    return _FIRST_LENGTH + (len(_LOW) - 1) * (2**depth - 2)


def tree_filters(depth: int) -> Tensor:
    """Real filters of all paths of both trees, (2, 2**depth, support), float64, to be correlated with the signal.

    Law: each tree, sampled every 2**depth samples, is an orthonormal basis.
    """
    (low_a, low_b), (high_a, high_b) = qshift_filters()
    pairs = ((low_a, high_a), (low_b, high_b))
    none = low_a.new_zeros(1)
    # in the first stage both trees have the same filter, one sample apart: half a sample after subsampling
    first = (
        (torch.cat([none, none, low_a]), torch.cat([high_a, none, none])),
        (torch.cat([none, low_a, none]), torch.cat([none, -high_a, none])),
    )
    trees = []
    for tree in (0, 1):
        # (filter so far, the pair of filters of its next stage); a high pass in the first stage swaps the trees, a
        # later one continues in tree a for both, which then differ by their earlier stages only
        paths = [(first[tree][0], tree), (first[tree][1], 1 - tree)]
        for stage in range(1, depth):
            paths = [
                (_cascade(filter_, pairs[pair][digit], 2**stage), 0 if digit else pair)
                for filter_, pair in paths
                for digit in (0, 1)
            ]
        trees.append(torch.stack([filter_ for filter_, _ in paths]))
    return torch.stack(trees)


def _cascade(first: Tensor, second: Tensor, dilation: int) -> Tensor:
    """The filter equivalent to correlating with `first` and then with `second`, dilated."""
    total = first.new_zeros(len(first) + dilation * (len(second) - 1))
    for k, tap in enumerate(second):
        total[k * dilation : k * dilation + len(first)] += tap * first
    return total


def runs_backwards(path: int, depth: int) -> bool:
    """Whether correlation with the complex filter a + ib of a path passes mostly positive frequencies.

    True for exactly the paths that are low-pass in every stage after the first, at every depth.
    """
    return path % 2 ** (depth - 1) == 0


def zero_padding(depth: int, stride: int) -> int:
    """Zeros that the reference pads on either side, an even number close to half of the support.

    Counted over the cascade, whose first log2(stride) stages have stride 2 and whose later ones are dilated instead.
    """
    total, jump, dilation, left = 0, 1, 1, stride
    for stage in range(depth):
        length = _FIRST_LENGTH if stage == 0 else len(_LOW)
        step = 2 if left > 1 else 1
        total += jump * (dilation * (length - 1) + 1 - step + 1)
        jump, left = jump * step, left // 2
        dilation *= 1 if step == 2 else 2
    return 2 * (total // 2 // 2)


def check_geometry(depth: int, stride: int) -> None:
    """Raises ValueError for a depth outside 1 to 8, or a stride that is not a power of two up to 2**depth."""
    if not isinstance(depth, int) or not 1 <= depth <= 8:
        raise ValueError(f"depth must be an integer from 1 to 8, got {depth!r}")
    allowed = [2**k for k in range(depth + 1)]
    if not isinstance(stride, int) or stride not in allowed:
        raise ValueError(f"stride must be one of {', '.join(map(str, allowed))} at depth {depth}, got {stride!r}")


def split_packet(packet: int, depth: int) -> tuple[int, int]:
    """(vertical, horizontal) path of a packet, whose base-4 digits are 2 * vertical + horizontal, first stage first."""
    vertical = horizontal = 0
    for stage in reversed(range(depth)):
        digit = packet >> 2 * stage & 3
        vertical, horizontal = 2 * vertical + digit // 2, 2 * horizontal + digit % 2
    return vertical, horizontal


def horizontal_filters(
    trees: Tensor, needs: Sequence[tuple[int, int]], depth: int, part: str, analytic: bool
) -> Tensor:
    """Filters (S, P, 2, K) from a_v and b_v to the parts of the maps `needs`: pairs of bank (0: A, 1: B) and path."""
    maps = []
    for bank, path in needs:
        a, b = trees[0, path], trees[1, path]
        # (a_v + i v b_v)(a + i h b) with signs v and h
        v, h = 1, (1, -1)[bank]
        if analytic and runs_backwards(path, depth) != bool(bank):
            v, h = -v, -h
        parts = [torch.stack([a, -v * h * b]), torch.stack([h * b, v * a])]
        maps.append(torch.stack(parts if part == "complex" else parts[:1]))
    return torch.stack(maps)


def half_filters(trees: Tensor, paths: Sequence[int], depth: int, part: str) -> Tensor:
    """Filters (2, S, P, K) to (A + B) / 2, from a_v alone, and to (B - A) / 2, from b_v alone, of analytic maps."""
    needs = [(bank, path) for bank in (0, 1) for path in paths]
    first, second = horizontal_filters(trees, needs, depth, part, analytic=True).chunk(2)
    return torch.stack([(first + second)[:, :, 0], (second - first)[:, :, 1]]) / 2


Groups = list[tuple[tuple[tuple[int, int], ...], list[int]]]


def group_maps(maps: Sequence[int], depth: int) -> Groups:
    """Vertical paths grouped by the maps they need: [(((bank, horizontal path), ...), [vertical path, ...])]."""
    whole = all(isinstance(q, int) for q in maps)
    if not maps or not whole or len(set(maps)) != len(maps) or not set(maps) <= set(range(2 * 4**depth)):
        raise ValueError(
            f"maps must be distinct numbers from 0 to {2 * 4**depth - 1} at depth {depth}, got {list(maps)}"
        )
    needs: dict[int, list[tuple[int, int]]] = {}
    for q in sorted(maps):
        bank, packet = divmod(q, 4**depth)
        vertical, horizontal = split_packet(packet, depth)
        needs.setdefault(vertical, []).append((bank, horizontal))
    groups: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for vertical in sorted(needs):
        groups.setdefault(tuple(sorted(needs[vertical])), []).append(vertical)
    return list(groups.items())


def computing_order(groups: Groups, depth: int) -> tuple[int, ...]:
    """The maps of `groups`, in the order in which they are computed."""
    number = {split_packet(packet, depth): packet for packet in range(4**depth)}
    return tuple(
        bank * 4**depth + number[row, column] for needs, rows in groups for row in rows for bank, column in needs
    )
