"""Random numbers as a function of their purpose: (seed, epoch, step) or (seed, image, repeat), never of history.

The same key yields the same numbers on every machine and in any order. So an interrupted run resumes bitwise, and an
image's draws do not depend on its batch.
"""

import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch

_MASK = 0xFFFFFFFFFFFFFFFF


def _fold(*key: int | str) -> int:
    """A 64-bit number from the parts of a key, by NumPy's SeedSequence, whose algorithm is documented as stable."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part & _MASK for part in key]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def generator(*key: int | str) -> torch.Generator:
    """A CPU `torch.Generator` whose stream is a function of `key`, for example ``("augment", seed, epoch, step)``."""
    # torch.Generator takes 64-bit seeds; the top bit is dropped because manual_seed wants a non-negative int64
    return torch.Generator().manual_seed(_fold(*key) >> 1)


def seed_for(*key: int | str) -> int:
    """A non-negative 63-bit seed for libraries with their own generators."""
    return _fold(*key) >> 1


def _splitmix64(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64-bit integers."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform_integers(index: torch.Tensor, low: int, high: int, draws: int, *key: int | str) -> torch.Tensor:
    """For each image number in `index` (N,), `draws` integers uniform in low..high-1, as int64 (N, draws).

    Each number depends on (key, image number, draw) alone, so an image gets the same draws in any batch. The bias of
    taking a 64-bit number modulo the span is below span / 2**64. ValueError for an empty range.
    """
    if high <= low:
        raise ValueError(f"the range of integers from {low} to {high - 1} is empty")
    with np.errstate(over="ignore"):
        image = index.cpu().numpy().astype(np.uint64)[:, None]
        draw = np.arange(draws, dtype=np.uint64)[None, :]
        golden = np.uint64(0x9E3779B97F4A7C15)
        start = np.uint64(_fold(*key))
        bits = _splitmix64(_splitmix64(start + golden * (image + np.uint64(1))) + golden * (draw + np.uint64(1)))
    return torch.from_numpy((bits % np.uint64(high - low)).astype(np.int64) + low)


def uniform_fraction(index: torch.Tensor, *key: int | str) -> torch.Tensor:
    """For each image number in `index` (N,), a uniform number in [0, 1), float64 (N,); see `uniform_integers`."""
    return uniform_integers(index, 0, 1 << 53, 1, *key)[:, 0].double() / (1 << 53)


def open_uniform(shape: Sequence[int], key: torch.Tensor) -> torch.Tensor:
    """Uniform numbers in the open interval (0, 1), float32 of `shape`, a function of (key, position) alone.

    `key` is an int64 scalar on the device of the result. PyTorch operations only, so that a compiled network draws anew
    at every step.
    """
    place = torch.arange(math.prod(shape), device=key.device).view(*shape)
    bits = _splitmix64_of(_splitmix64_of(key) + (place + 1) * _signed(0x9E3779B97F4A7C15))
    # 23 bits plus a half fit float32's 24-bit significand exactly: no value rounds to 0 or 1
    return ((bits >> 41 & 0x7FFFFF).float() + 0.5) / 2**23


def _splitmix64_of(x: torch.Tensor) -> torch.Tensor:
    """`_splitmix64` for int64, whose arithmetic right shift is masked."""
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * _signed(0x94D049BB133111EB)
    return x ^ (x >> 31 & (1 << 33) - 1)


def _signed(bits: int) -> int:
    return bits - (1 << 64) if bits >> 63 else bits
