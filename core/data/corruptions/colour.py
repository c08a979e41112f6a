"""Conversion between RGB and HSV: the textbook formulas in float64, in scikit-image's order of operations."""

import numpy as np


def rgb_to_hsv(x: np.ndarray) -> np.ndarray:
    """(..., 3) RGB in [0, 1] -> HSV, hue in turns."""
    value = x.max(axis=-1)
    spread = value - x.min(axis=-1)
    grey = spread == 0
    safe = np.where(grey, 1.0, spread)
    red, green, blue = np.moveaxis(x, -1, 0)
    hue = np.where(red == value, (green - blue) / safe, 0.0)
    hue = np.where(green == value, 2.0 + (blue - red) / safe, hue)
    hue = np.where(blue == value, 4.0 + (red - green) / safe, hue)
    hue = np.where(grey, 0.0, (hue / 6.0) % 1.0)
    saturation = np.where(grey, 0.0, spread / np.where(value == 0, 1.0, value))
    return np.stack([hue, saturation, value], axis=-1)


def hsv_to_rgb(x: np.ndarray) -> np.ndarray:
    """(..., 3) HSV -> RGB, the inverse of `rgb_to_hsv`."""
    hue, saturation, value = np.moveaxis(x, -1, 0)
    sector = np.floor(hue * 6)
    part = hue * 6 - sector
    low = value * (1 - saturation)
    falling = value * (1 - part * saturation)
    rising = value * (1 - (1 - part) * saturation)
    sector = sector.astype(np.uint8) % 6
    red = np.choose(sector, [value, falling, low, low, rising, value])
    green = np.choose(sector, [rising, value, value, falling, low, low])
    blue = np.choose(sector, [low, low, rising, value, value, falling])
    return np.stack([red, green, blue], axis=-1)
