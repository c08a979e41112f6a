"""Edges, distances and histograms of 8-bit grey images (N, H, W), in integer arithmetic."""

import numpy as np

from stillpoint.core.data.corruptions import filters

TANGENT = round((2**0.5 - 1) * (1 << 15))  # of 22.5 degrees, in 15-bit fixed point


def canny(x: np.ndarray, low: int, high: int) -> np.ndarray:
    """Canny's edges (bool): 3x3 Sobel, |dx| + |dy|, thinning in four directions, hysteresis over eight neighbours."""
    h, w = x.shape[1:]
    grid = np.pad(x.astype(np.int32), [(0, 0), (1, 1), (1, 1)], mode="edge")
    smooth_rows = grid[:, :-2] + 2 * grid[:, 1:-1] + grid[:, 2:]  # (N, H, W + 2)
    smooth_columns = grid[:, :, :-2] + 2 * grid[:, :, 1:-1] + grid[:, :, 2:]  # (N, H + 2, W)
    dx, dy = smooth_rows[:, :, 2:] - smooth_rows[:, :, :-2], smooth_columns[:, 2:] - smooth_columns[:, :-2]
    size = np.pad(np.abs(dx) + np.abs(dy), [(0, 0), (1, 1), (1, 1)])

    def beside(down: int, right: int) -> np.ndarray:
        return size[:, 1 + down : 1 + down + h, 1 + right : 1 + right + w]

    m = beside(0, 0)
    flat, steep = np.abs(dx).astype(np.int64) * TANGENT, np.abs(dy).astype(np.int64) << 15
    horizontal = steep < flat
    vertical = steep > flat + (np.abs(dx).astype(np.int64) << 16)
    falling = (dx ^ dy) < 0
    peak = np.where(
        horizontal,
        (m > beside(0, -1)) & (m >= beside(0, 1)),
        np.where(
            vertical,
            (m > beside(-1, 0)) & (m >= beside(1, 0)),
            np.where(falling, (m > beside(-1, 1)) & (m > beside(1, -1)), (m > beside(-1, -1)) & (m > beside(1, 1))),
        ),
    )
    candidates = peak & (m > low)
    within_image = np.zeros((3, 3, 3), bool)
    within_image[1] = True
    from scipy import ndimage  # here, because its import takes half a second that nothing else needs

    groups, count = ndimage.label(candidates, within_image)
    strong = np.zeros(count + 1, bool)
    strong[groups[candidates & (m > high)]] = True
    strong[0] = False
    return strong[groups]


# lengths of the steps of the 5x5 chamfer distance (Borgefors), in 16-bit fixed point
_STEPS = {(0, 1): 65536, (1, 1): round(1.4 * 65536), (1, 2): round(2.1969 * 65536)}


def distance(marks: np.ndarray, limit: int) -> np.ndarray:
    """Chamfer distance (5x5) of every pixel to the nearest mark (True) of its image, float32, at most `limit`."""
    n, h, w = marks.shape
    far = np.int32(limit << 16)
    out = np.full((n, h + 4, w + 4), far, np.int32)
    inner = out[:, 2:-2, 2:-2]
    inner[marks] = 0
    moves = {(i, j) for i in range(-2, 3) for j in range(-2, 3) if tuple(sorted((abs(i), abs(j)))) in _STEPS}
    lengths = {move: _STEPS[tuple(sorted(map(abs, move)))] for move in moves}  # type: ignore[index]
    for _ in range(limit):  # every step is at least one pixel long
        nearer = inner.copy()
        for (down, right), length in lengths.items():
            np.minimum(nearer, out[:, 2 + down : 2 + down + h, 2 + right : 2 + right + w] + length, out=nearer)
        if np.array_equal(nearer, inner):
            break
        inner[...] = nearer
    return inner.astype(np.float32) / np.float32(65536)


def box(x: np.ndarray) -> np.ndarray:
    """The mean over 3x3, borders mirrored about the outermost pixels, float64."""
    return filters.correlate(x.astype(np.float64), np.ones((3, 3))) * (1 / 9)


def equalise(x: np.ndarray) -> np.ndarray:
    """Histogram equalisation of each uint8 image; one with a single level is unchanged."""
    n = len(x)
    flat = x.reshape(n, -1)
    counts = np.bincount((flat + 256 * np.arange(n)[:, None]).ravel(), minlength=256 * n).reshape(n, 256)
    lowest = (counts > 0).argmax(axis=1)
    rest = flat.shape[1] - counts[np.arange(n), lowest]
    counts[np.arange(n), lowest] = 0
    scale = np.float32(255) / np.maximum(rest, 1).astype(np.float32)
    table = np.rint(counts.cumsum(axis=1).astype(np.float32) * scale[:, None]).clip(0, 255).astype(np.uint8)
    out = np.take_along_axis(table, flat.astype(np.intp), axis=1).reshape(x.shape)
    return np.where((rest == 0)[:, None, None], x, out)
