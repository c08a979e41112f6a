"""Padding of feature maps by a number of pixels that may differ at the two ends of an axis, and may be negative."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PADDINGS = ("reflect", "replicate", "zeros", "circular")


def check_padding(padding: str) -> str:
    """Return `padding`, or raise ValueError when it is none of `PADDINGS`."""
    if padding not in PADDINGS:
        raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
    return padding


def pad(x: Tensor, pads: Sequence[tuple[int, int]], *, padding: str) -> Tensor:
    """Pad the last ``len(pads)`` axes of `x`.

    Args:
        x: (..., N_1, ..., N_d).
        pads: (before, after) in pixels for each of the last d axes, first axis first; negative numbers crop.
        padding: "reflect" mirrors without repeating the edge, "replicate" repeats it, "zeros" adds zeros, "circular"
            wraps, as many times as it takes.

    Returns:
        (..., before_1 + N_1 + after_1, ...), in the dtype of `x`.

    Raises:
        ValueError: an unknown padding, an axis that nothing is left of, or a reflection longer than its axis.
    """
    check_padding(padding)
    first = x.ndim - len(pads)
    sizes = list(x.shape[first:])
    if any(n + min(before, 0) + min(after, 0) < 1 for n, (before, after) in zip(sizes, pads, strict=True)):
        raise ValueError(f"padding by {list(pads)} leaves nothing of a map of size {_by(sizes)}")
    for axis, (before, after) in enumerate(pads, start=first):
        if before < 0 or after < 0:
            x = x.narrow(axis, max(-before, 0), x.shape[axis] + min(before, 0) + min(after, 0))
    amounts = [(max(before, 0), max(after, 0)) for before, after in pads]
    if padding == "zeros":
        return F.pad(x, [n for ends in reversed(amounts) for n in ends])
    if padding == "reflect" and any(max(ends) >= n for ends, n in zip(amounts, x.shape[first:], strict=True)):
        widest = max(max(ends) for ends in amounts)
        raise ValueError(
            f"reflect padding by up to {widest} pixels needs a map larger than that along every padded axis, "
            f"got size {_by(sizes)}; use replicate, zeros or circular padding"
        )
    # The last axis first: the pieces are then cut from the smaller map. Concatenated slices are many times as fast on a
    # CPU as PyTorch's own reflection and replication, which copy pixel by pixel.
    for axis in reversed(range(first, x.ndim)):
        before, after = amounts[axis - first]
        if before or after:
            x = torch.cat(_extended(x, axis, before, after, padding), dim=axis)
    return x


def _extended(x: Tensor, axis: int, before: int, after: int, padding: str) -> list[Tensor]:
    n = x.shape[axis]
    if padding == "reflect":
        head, tail = x.narrow(axis, 1, before).flip(axis), x.narrow(axis, n - 1 - after, after).flip(axis)
        return [head, x, tail]
    if padding == "replicate":
        shape = list(x.shape)
        shape[axis] = before
        head = x.narrow(axis, 0, 1).expand(shape)
        shape[axis] = after
        return [head, x, x.narrow(axis, n - 1, 1).expand(shape)]
    return [
        *([x.narrow(axis, n - before % n, before % n)] if before % n else []),
        *([x] * (before // n + 1 + after // n)),
        *([x.narrow(axis, 0, after % n)] if after % n else []),
    ]


def _by(sizes: Sequence[int]) -> str:
    return "x".join(str(n) for n in sizes)
