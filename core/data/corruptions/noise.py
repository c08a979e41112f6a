"""Noise: Gaussian, shot, impulse, speckle. Images are uint8 (N, H, W, 3); results are not clipped to [0, 1] yet."""

import numpy as np

from stillpoint.core.data.corruptions.draws import Draws

Images = np.ndarray


def gaussian_noise(x: Images, draws: Draws, scale: float) -> Images:
    """x + N(0, scale), independent for every value."""
    return x / 255.0 + draws.normal(0.0, scale, *x.shape[1:])


def shot_noise(x: Images, draws: Draws, photons: float) -> Images:
    """Poisson counts with mean x * photons, scaled back."""
    counts = iter(x / 255.0 * photons)
    return draws.each(lambda stream: stream.poisson(next(counts))) / photons


def impulse_noise(x: Images, draws: Draws, amount: float) -> Images:
    """Replaces a share of the values (not of the pixels) by 0 or 1 with equal probability."""
    chances = draws.each(lambda stream: stream.random_sample((2, *x.shape[1:])))  # (N, 2, H, W, 3)
    return np.where(chances[:, 0] < amount, chances[:, 1] < 0.5, x / 255.0)


def speckle_noise(x: Images, draws: Draws, scale: float) -> Images:
    """x + x N(0, scale)."""
    x = x / 255.0
    return x + x * draws.normal(0.0, scale, *x.shape[1:])
