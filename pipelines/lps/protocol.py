"""The authors' consistency measures: one draw of shifts for a whole batch, from a running generator."""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from stillpoint.core.metrics.fidelity import all_agree

Offset = tuple[int, int]


def draw_offsets(random: np.random.RandomState, low: int, high: int, samples: int) -> list[Offset]:
    """Draws `samples` pairs (rows, columns), uniform from `low` to `high` - 1, one number at a time, rows first."""
    return [(int(random.randint(low, high)), int(random.randint(low, high))) for _ in range(samples)]


def imagenet_offsets(random: np.random.RandomState, *, largest: int, samples: int) -> tuple[list[Offset], list[Offset]]:
    """Draws the shifts of one batch: windows that start at 0..largest-1, then rolls by -largest..largest-1."""
    standard = draw_offsets(random, 0, largest, samples)
    return standard, draw_offsets(random, -largest, largest, samples)


def imagenet_consistency(
    net: Callable[[Tensor], Tensor], images: Tensor, offsets: tuple[Sequence[Offset], Sequence[Offset]], *, patch: int
) -> tuple[float, float]:
    """Percentages of a batch (B, C, H, W) with one class in all windows of `patch` pixels, and under all rolls.

    Rolled images are classified at full size, unlike the windows.
    """
    standard, circular = offsets
    windows = [net(images[:, :, i : i + patch, j : j + patch]).argmax(1) for i, j in standard]
    rolled = [net(images.roll(shift, (2, 3))).argmax(1) for shift in circular]
    return tuple(100 * float(all_agree(found).float().mean()) for found in (windows, rolled))  # type: ignore[return-value]
