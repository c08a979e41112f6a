"""Weather: snow, frost, fog, spatter, and light. Images are uint8 (N, H, W, 3)."""

import numpy as np

from stillpoint.core.data.corruptions import colour, edges, filters
from stillpoint.core.data.corruptions.draws import Draws
from stillpoint.core.data.corruptions.frost import Textures

Images = np.ndarray


def unit(x: Images) -> Images:
    """uint8 pixels as float64 in [0, 1]."""
    return x / 255.0


def unit32(x: Images) -> Images:
    """uint8 pixels as float32 in [0, 1]."""
    return x.astype(np.float32) / np.float32(255)


def snow(
    x: Images,
    draws: Draws,
    loc: float,
    scale: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    mix: float,
) -> Images:
    """Adds flakes blown along a line, and the same flakes rotated by 180 degrees, to a paler image."""
    pixels = unit32(x)
    flakes = filters.zoom(draws.normal(loc, scale, *x.shape[1:3])[..., None], zoom)[..., 0]
    flakes[flakes < threshold] = 0
    layer = (flakes.clip(0, 1) * 255).astype(np.uint8)
    layer = unit(filters.motion_blur(layer, radius, sigma, draws.uniform(-135.0, -45.0)))[..., None]  # (N, H, W, 1)
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    grey = (pixels[..., 0] * weights[0] + pixels[..., 1] * weights[1] + pixels[..., 2] * weights[2])[..., None]
    pale = np.maximum(pixels, grey * np.float32(1.5) + np.float32(0.5))
    pixels = np.float32(mix) * pixels + np.float32(1 - mix) * pale
    return pixels + layer + layer[:, ::-1, ::-1]


def frost(x: Images, draws: Draws, keep: float, weight: float, *, textures: Textures) -> Images:
    """Adds a random part of an image of ice to the image."""
    h, w = x.shape[1:3]

    def part(stream: np.random.RandomState) -> np.ndarray:
        ice = textures[stream.randint(5)]
        top = stream.randint(0, ice.shape[0] - h)
        left = stream.randint(0, ice.shape[1] - w)
        return ice[top : top + h, left : left + w]

    # truncated here, because division by 255 and multiplication by it may not return whole values
    return np.clip(keep * x + weight * draws.each(part), 0, 255).astype(np.uint8)


def fog(x: Images, draws: Draws, amount: float, decay: float) -> Images:
    """Adds a plasma fractal of mist, the same grey for all channels, and keeps the brightest value."""
    pixels = unit(x)
    brightest = pixels.max(axis=(1, 2, 3), keepdims=True)
    side = 1 << (max(x.shape[1:3]) - 1).bit_length()
    mist = plasma(draws, side, decay)[:, : x.shape[1], : x.shape[2], None]
    return (pixels + amount * mist) * brightest / (brightest + amount)


def plasma(draws: Draws, side: int, decay: float) -> np.ndarray:
    """Diamond-square on a torus of `side` (a power of 2), scaled to [0, 1]: (N, side, side).

    A new point is the mean of four neighbours plus amplitude * U(-amplitude, amplitude); the amplitude starts at 100
    and is divided by `decay` at each level. Per level: centres of squares, then midpoints along rows, then along
    columns.
    """
    out = np.zeros((len(draws), side, side))
    step, amplitude = side, 100.0
    while step >= 2:
        half, count = step // 2, side // step

        def noise(amplitude: float = amplitude, count: int = count) -> np.ndarray:
            return amplitude * draws.uniform(-amplitude, amplitude, count, count)

        corners = out[:, ::step, ::step]
        below = corners + np.roll(corners, -1, axis=1)
        out[:, half::step, half::step] = (below + np.roll(below, -1, axis=2)) / 4 + noise()
        centres = out[:, half::step, half::step]
        on_rows = (centres + np.roll(centres, 1, axis=1)) + (corners + np.roll(corners, -1, axis=2))
        out[:, ::step, half::step] = on_rows / 4 + noise()
        on_columns = (centres + np.roll(centres, 1, axis=2)) + (corners + np.roll(corners, -1, axis=1))
        out[:, half::step, ::step] = on_columns / 4 + noise()
        step, amplitude = half, amplitude / decay
    out -= out.min(axis=(1, 2), keepdims=True)
    return out / out.max(axis=(1, 2), keepdims=True)


def spatter(
    x: Images, draws: Draws, loc: float, scale: float, sigma: float, threshold: float, strength: float, mud: int
) -> Images:
    """Drops on the lens: water is added to the image, mud covers it."""
    liquid = filters.gaussian(draws.normal(loc, scale, *x.shape[1:3]), sigma)
    liquid[liquid < threshold] = 0
    pixels = unit32(x)
    if mud:
        cover = filters.gaussian((liquid > threshold).astype(np.float32), strength)
        cover[cover < 0.8] = 0
        cover = cover[..., None]
        return pixels * (1 - cover) + np.array([63, 42, 20], np.float32) / np.float32(255) * cover
    levels = (liquid * 255).astype(np.uint8)
    relief = edges.distance(edges.canny(levels, 50, 150), 20)
    relief = edges.equalise(edges.box(relief).astype(np.float32).astype(np.uint8))
    kernel = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    relief = filters.correlate(relief.astype(np.int32), kernel).clip(0, 255)
    drops = levels * np.rint(edges.box(relief)).astype(np.float32)
    brightest = drops.max(axis=(1, 2), keepdims=True)
    # without any drops the reference divides by zero; here the image is unchanged
    drops = drops / np.where(brightest > 0, brightest, np.float32(1)) * np.float32(strength)
    return pixels + drops[..., None] * (np.array([175, 238, 238], np.float32) / np.float32(255))


def brightness(x: Images, draws: Draws, amount: float) -> Images:
    """Raises the value of HSV by `amount`."""
    hsv = colour.rgb_to_hsv(unit(x))
    hsv[..., 2] = (hsv[..., 2] + amount).clip(0, 1)
    return colour.hsv_to_rgb(hsv)


def saturate(x: Images, draws: Draws, factor: float, offset: float) -> Images:
    """Scales the saturation of HSV by `factor` and shifts it by `offset`."""
    hsv = colour.rgb_to_hsv(unit(x))
    hsv[..., 1] = (hsv[..., 1] * factor + offset).clip(0, 1)
    return colour.hsv_to_rgb(hsv)


def contrast(x: Images, draws: Draws, factor: float) -> Images:
    """Scales the differences from each channel's mean by `factor`."""
    pixels = unit(x)
    mean = pixels.mean(axis=(1, 2), keepdims=True)
    return (pixels - mean) * factor + mean
