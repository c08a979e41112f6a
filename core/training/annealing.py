"""Temperatures that fall during training, as pure functions of the number of steps done, so without state to resume.

They are the schedules of learnable polyphase sampling (Rojas-Gomez et al., NeurIPS 2022), whose steps may be epochs or
batches. Before the first step the temperature is `start`.
"""

from collections.abc import Sequence
from itertools import pairwise


def step_decay(n: int, *, every: int, gamma: float, least: float = 0.0, start: float = 1.0) -> float:
    """`start` multiplied by gamma after every `every` steps, but never below `least`."""
    return max(start * gamma ** (n // every), least) if n >= every else start


def multistep(n: int, *, milestones: Sequence[int], temperatures: Sequence[float], start: float = 1.0) -> float:
    """The temperature of the last milestone passed; of milestones that coincide, one is passed at each step."""
    _check(milestones, temperatures)
    value, passed = start, 0
    for milestone, temperature in zip(milestones, temperatures, strict=True):
        passed = max(milestone, passed + 1)
        if passed > n:
            break
        value = temperature
    return value


def piecewise_linear(n: int, *, milestones: Sequence[int], temperatures: Sequence[float], start: float = 1.0) -> float:
    """Linear interpolation from `start` after the first step through the milestones; constant after the last.

    A first milestone of 0 or 1 replaces `start`.
    """
    _check(milestones, temperatures)
    if n < 1:
        return start
    knots = list(zip(milestones, temperatures, strict=True))
    if milestones[0] > 1:
        knots.insert(0, (1, start))
    for (before, high), (after, low) in pairwise(knots):
        if before <= n < after:
            return high + (low - high) * (n - before) / (after - before)
    return knots[0][1] if n < knots[0][0] else knots[-1][1]


def _check(milestones: Sequence[int], temperatures: Sequence[float]) -> None:
    if len(milestones) != len(temperatures) or not milestones or list(milestones) != sorted(milestones):
        raise ValueError(
            f"milestones must not decrease, with one temperature each, got {list(milestones)} and {list(temperatures)}"
        )
