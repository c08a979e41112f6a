"""Filters that several corruptions share, on batches (N, H, W) or (N, H, W, C)."""

import math

import numpy as np

#: above this number of taps Fourier transforms are cheaper; filters for images of 32 pixels have at most 25
LARGE = 100


def gaussian(x: np.ndarray, sigma: float, *, mode: str = "nearest", truncate: float = 4.0) -> np.ndarray:
    """Gaussian filter along height and width; the dtype of `x` is kept, as in scikit-image."""
    if sigma == 0:
        return x
    from scipy import ndimage  # here, because its import takes half a second that nothing else needs

    return ndimage.gaussian_filter(x, (0, sigma, sigma, *[0] * (x.ndim - 3)), mode=mode, truncate=truncate)


def correlate(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlation with a small 2-D kernel, borders mirrored about the outermost pixels; zero taps cost nothing."""
    (top, left), (h, w) = (n // 2 for n in kernel.shape), x.shape[1:3]
    pads = [(0, 0), (top, kernel.shape[0] - 1 - top), (left, kernel.shape[1] - 1 - left), *[(0, 0)] * (x.ndim - 3)]
    padded = np.pad(x, pads, mode="reflect")
    if x.dtype.kind == "f" and np.count_nonzero(kernel) > LARGE:
        from scipy.signal import fftconvolve

        turned = kernel[::-1, ::-1].astype(x.dtype).reshape(1, *kernel.shape, *[1] * (x.ndim - 3))
        return np.stack([fftconvolve(one[None], turned, mode="valid", axes=(1, 2))[0] for one in padded])
    out = np.zeros_like(x)
    for i, j in np.argwhere(kernel):
        out += kernel[i, j] * padded[:, i : i + h, j : j + w]
    return out


def trimmed(kernel: np.ndarray) -> np.ndarray:
    """The smallest centred part of an odd-sided square kernel that has all its non-zero values."""
    centre = len(kernel) // 2
    reach = int(np.abs(np.argwhere(kernel) - centre).max())
    return kernel[centre - reach : centre + reach + 1, centre - reach : centre + reach + 1]


def disk(radius: float, alias: float) -> np.ndarray:
    """A float32 disk of sum 1 on the integer grid, its edge softened by a Gaussian of 3x3 (5x5 above radius 8)."""
    reach, size = (8, 3) if radius <= 8 else (int(radius), 5)
    grid = np.arange(-reach, reach + 1)
    aliased = (grid[:, None] ** 2 + grid**2 <= radius**2).astype(np.float32)
    aliased /= aliased.sum()
    taps = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * alias * alias))
    row = (taps / taps.sum()).astype(np.float32)
    # rows first, then columns, each rounded to float32: the kernel's exact sum decides how values are truncated
    soft = correlate(correlate(aliased[None], row[None, :]), row[:, None])[0]
    return trimmed(soft)


def motion_blur(x: np.ndarray, radius: float, sigma: float, angles: np.ndarray) -> np.ndarray:
    """Blurs uint8 images (N, H, W[, C]) along lines, `angles` in degrees, one per image: ImageMagick's motion blur.

    A one-sided Gaussian of 2 ceil(radius) + 1 taps, each shifted by whole pixels; sums are rounded to 16 bits, then
    truncated to 8.
    """
    taps = 2 * math.ceil(radius) + 1
    weights = np.exp(-(np.arange(taps) ** 2) / (2 * sigma * sigma))
    weights /= weights.sum()
    h, w = x.shape[1:3]
    padded = np.pad(x, [(0, 0), (taps, taps), (taps, taps), *[(0, 0)] * (x.ndim - 3)], mode="edge") * 257.0
    out = np.zeros(x.shape)
    for n, angle in enumerate(np.deg2rad(angles)):
        across, down = taps * math.cos(angle), taps * math.sin(angle)
        length = math.hypot(down, across)
        for i, weight in enumerate(weights):
            dx, dy = math.ceil(i * across / length - 0.5), math.ceil(i * down / length - 0.5)
            out[n] += weight * padded[n, taps + dy : taps + dy + h, taps + dx : taps + dx + w]
    return (np.floor(out + 0.5).astype(np.uint32) // 257).astype(np.uint8)


def zoom(x: np.ndarray, factor: float) -> np.ndarray:
    """The centre of square images (N, S, S, C) enlarged by `factor` to S x S, bilinear, with corners aligned.

    A corner that rounding puts outside by one bit is black, as in SciPy.
    """
    side = x.shape[1]
    crop = math.ceil(side / factor)
    start = (side - crop) // 2
    enlarged = round(crop * factor)
    trim = (enlarged - side) // 2
    position = (crop - 1) / max(enlarged - 1, 1) * np.arange(enlarged)[trim : trim + side]
    low = np.minimum(np.floor(position).astype(int), crop - 1)
    share = np.where(position <= crop - 1, position - low, 0.0)
    inside = (position <= crop - 1).astype(float)
    above, below = (1 - share) * inside, share * inside
    high = np.minimum(low + 1, crop - 1) + start
    low = low + start
    rows = x[:, low] * above[:, None, None] + x[:, high] * below[:, None, None]  # (N, S, S, C)
    return rows[:, :, low] * above[:, None] + rows[:, :, high] * below[:, None]


def bilinear(x: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bilinear values of images (N, H, W, C) at (N, h, w) positions, borders mirrored with the edge pixels repeated."""
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    image = np.arange(len(x))[:, None, None]

    def at(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        return x[image, mirrored(i, x.shape[1]), mirrored(j, x.shape[2])]

    upper = (1 - right) * at(top, left) + right * at(top, left + 1)
    lower = (1 - right) * at(top + 1, left) + right * at(top + 1, left + 1)
    return (1 - down) * upper + down * lower


def mirrored(index: np.ndarray, size: int) -> np.ndarray:
    """Maps indices beyond the border back: -1 becomes 0, `size` becomes size - 1."""
    index = index % (2 * size)
    return np.minimum(index, 2 * size - 1 - index)
