"""Blur: defocus, glass, motion, zoom, Gaussian. Images are uint8 (N, H, W, 3)."""

import numpy as np

from stillpoint.core.data.corruptions import filters
from stillpoint.core.data.corruptions.draws import Draws

Images = np.ndarray


def gaussian_blur(x: Images, draws: Draws, sigma: float) -> Images:
    """A Gaussian filter with `sigma` in pixels, on each channel."""
    return filters.gaussian(x / 255.0, sigma)


def defocus_blur(x: Images, draws: Draws, radius: float, alias: float) -> Images:
    """The disk of an aperture. At 32 pixels, the first three severities have a radius below 1: soft 3x3 filters."""
    return filters.correlate(x / 255.0, filters.disk(radius, alias))


def glass_blur(x: Images, draws: Draws, sigma: float, reach: int, rounds: int) -> Images:
    """Replaces pixels by a neighbour at most `reach` away, between two Gaussian filters.

    Rows and columns are visited from last to first, without `reach` at each border; offsets are -reach..reach-1. An
    offset to a pixel that was visited before copies its new value.
    """
    pixels = (filters.gaussian(x / 255.0, sigma) * 255).astype(np.uint8)
    n, h, w = pixels.shape[:3]
    image = np.arange(n)
    rows, columns = np.arange(h - reach, reach, -1), np.arange(w - reach, reach, -1)
    for _ in range(rounds):
        offsets = draws.each(
            lambda stream: stream.randint(-reach, reach, (len(rows), len(columns), 2))
        )  # (N, h, w, xy)
        source_row, source_column = rows[:, None] + offsets[..., 1], columns + offsets[..., 0]
        if reach == 1:  # offsets of -1 and 0 point to pixels not visited yet, so all can be copied at once
            pixels[:, rows[:, None], columns] = pixels[image[:, None, None], source_row, source_column]
            continue
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                pixels[:, row, column] = pixels[image, source_row[:, i, j], source_column[:, i, j]]
    return filters.gaussian(pixels / 255.0, sigma)


def motion_blur(x: Images, draws: Draws, radius: float, sigma: float) -> Images:
    """Motion blur of the camera along a line within 45 degrees of the horizontal."""
    return filters.motion_blur(x, radius, sigma, draws.uniform(-45.0, 45.0))


def zoom_blur(x: Images, draws: Draws, last: float, step: float) -> Images:
    """The mean of the image and its enlargements by 1, 1 + step, ... below `last`, which rounding may include."""
    x = x.astype(np.float32) / np.float32(255)
    factors = np.arange(1, last, step)
    total = np.zeros_like(x)
    for factor in factors:
        total += filters.zoom(x, factor).astype(np.float32)
    return (x + total) / np.float32(len(factors) + 1)
