"""The layers as their definitions say, pixel by pixel in NumPy; slow and plain, to compare with."""

from math import comb

import numpy as np

MODES = {"reflect": "reflect", "replicate": "edge", "zeros": "constant", "circular": "wrap"}


def blur(x: np.ndarray, size: int, strides: tuple[int, ...], padding: str, pad_off: int = 0) -> np.ndarray:
    """Binomial blur of the trailing len(strides) axes, then subsampling."""
    before, after = (size - 1) // 2 + pad_off, size - 1 - (size - 1) // 2 + pad_off
    taps = [comb(size - 1, i) / 2 ** (size - 1) for i in range(size)]
    for axis, stride in zip(range(x.ndim - len(strides), x.ndim), strides, strict=True):
        n = x.shape[axis]
        x = np.take(x, range(-min(before, 0), n + min(after, 0)), axis)
        ends = [(0, 0)] * x.ndim
        ends[axis] = (max(before, 0), max(after, 0))
        x = np.pad(x, ends, mode=MODES[padding])
        length = x.shape[axis] - size + 1
        x = sum(tap * np.take(x, range(i, i + length), axis) for i, tap in enumerate(taps))
        x = np.take(x, range(0, length, stride), axis)
    return x


def phases(x: np.ndarray, stride: tuple[int, int]) -> list[np.ndarray]:
    """All phases of (B, C, H, W), the row moving first, after circular extension."""
    s, t = stride
    x = np.pad(x, [(0, 0), (0, 0), (0, -x.shape[2] % s), (0, -x.shape[3] % t)], mode="wrap")
    return [x[:, :, r::s, c::t] for c in range(t) for r in range(s)]


def adaptive_blur(x: np.ndarray, logits: np.ndarray, size: int, stride: int, groups: int, normalise: str) -> np.ndarray:
    """Zou et al.'s filter with reflect padding; logits at the strided positions."""
    batch, channels, height, width = x.shape
    padded = np.pad(x, [(0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2], mode="reflect")
    e = np.exp(logits).reshape(batch, groups, size * size, *logits.shape[2:])
    w = e / e.sum((1, 2) if normalise == "joint" else 2, keepdims=True)
    y = np.zeros((batch, channels, -(-height // stride), -(-width // stride)))
    for n, c, i, j in np.ndindex(y.shape):
        window = padded[n, c, i * stride : i * stride + size, j * stride : j * stride + size]
        y[n, c, i, j] = (window.ravel() * w[n, c // (channels // groups), :, i, j]).sum()
    return y
