"""One stream of random numbers for each image, independent of the batch."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.random import MT19937, RandomState
from numpy.random.bit_generator import ISeedSequence


class _Replaced(ISeedSequence):
    """A placeholder for the first state of a stream that is reseeded at once. NumPy's own, mixed from the system's
    entropy, takes 50 times as long as the seeding, and longer than a corruption of an image."""

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Any:
        return [1] * n_words  # NumPy reads word by word, ten times as fast from a list as from an array


def stream(seed: int) -> RandomState:
    """The stream of ``RandomState(seed)``, made faster."""
    made = RandomState(MT19937(_Replaced()))  # type: ignore[arg-type]
    made.seed(seed)
    return made


class Draws:
    """Draws for a batch, each image's from its own legacy NumPy stream, whose numbers NumPy guarantees never to change.

    Every call continues the streams. `seeds` are 32-bit integers, one per image.
    """

    def __init__(self, seeds: np.ndarray) -> None:
        self.seeds = seeds

    def __len__(self) -> int:
        return len(self.seeds)

    @cached_property
    def streams(self) -> list[RandomState]:
        # made on first use, since half of the corruptions draw nothing, and a stream costs as much as a blur
        return [stream(int(seed)) for seed in self.seeds]

    def each(self, draw: Callable[[RandomState], np.ndarray | float]) -> np.ndarray:
        """Applies `draw` to each image's stream, and stacks the results: (N, ...)."""
        return np.stack([np.asarray(draw(stream)) for stream in self.streams])

    def normal(self, loc: float, scale: float, *shape: int) -> np.ndarray:
        """(N, *shape) from N(loc, scale)."""
        return self.each(lambda stream: stream.normal(loc, scale, shape))

    def uniform(self, low: float, high: float, *shape: int) -> np.ndarray:
        """(N, *shape) uniform between low and high."""
        return self.each(lambda stream: stream.uniform(low, high, shape))
