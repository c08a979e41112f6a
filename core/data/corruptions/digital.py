"""Digital corruptions: elastic deformation, pixelation, JPEG. Images are uint8 (N, H, W, 3)."""

import io
from typing import Literal

import numpy as np
from PIL import Image

from stillpoint.core.data.corruptions import filters
from stillpoint.core.data.corruptions.draws import Draws

Images = np.ndarray


def elastic_transform(
    x: Images,
    draws: Draws,
    strength: float,
    sigma: float,
    affine: float,
    *,
    arithmetic: Literal["fixed", "float"] = "fixed",
) -> Images:
    """An affine map that moves three points by up to `affine` pixels, then a smooth random displacement.

    `arithmetic` of the affine map: "fixed", positions in 1/32 of a pixel as in OpenCV up to 4.11, which made the
    published sets, or "float", float32 as in OpenCV 5.
    """
    pixels = x.astype(np.float32) / np.float32(255)
    h, w = x.shape[1:3]
    third = min(h, w) // 3
    middle = np.array([h // 2, w // 2], np.float32)
    corners = np.stack([middle + third, middle + np.array([third, -third]), middle - third]).astype(np.float32)
    moved = corners + draws.uniform(-affine, affine, 3, 2).astype(np.float32)  # (N, 3, xy)
    pixels = warp_affine(pixels, inverse_map(corners, moved), arithmetic)
    shift = []
    for _ in range(2):  # across, then down
        smooth = filters.gaussian(draws.uniform(-1.0, 1.0, h, w), sigma, mode="reflect", truncate=3.0)
        shift.append((smooth * strength).astype(np.float32))
    rows, columns = np.arange(h)[:, None] + shift[1].astype(float), np.arange(w) + shift[0].astype(float)
    return filters.bilinear(pixels.astype(np.float64), rows, columns).astype(np.float32)


def inverse_map(points: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """The affine maps (N, 2, 3) that take `moved` (N, 3, 2) back to `points` (3, 2), in (x, y)."""
    system = np.concatenate([points, np.ones((3, 1))], axis=1).astype(np.float64)
    forward = np.linalg.solve(system, moved.astype(np.float64)).transpose(0, 2, 1)  # (N, 2, 3)
    linear, offset = forward[:, :, :2], forward[:, :, 2]
    scale = 1 / (linear[:, 0, 0] * linear[:, 1, 1] - linear[:, 0, 1] * linear[:, 1, 0])
    back = np.empty_like(forward)
    back[:, 0, 0], back[:, 1, 1] = linear[:, 1, 1] * scale, linear[:, 0, 0] * scale
    back[:, 0, 1], back[:, 1, 0] = -linear[:, 0, 1] * scale, -linear[:, 1, 0] * scale
    back[:, :, 2] = -back[:, :, 0] * offset[:, :1] - back[:, :, 1] * offset[:, 1:]
    return back


def warp_affine(x: Images, maps: np.ndarray, arithmetic: str) -> Images:
    """Bilinear values of float32 images at ``maps @ (column, row, 1)``, borders mirrored about the outermost pixels.

    `arithmetic` is "fixed" or "float"; see `elastic_transform`.
    """
    n, h, w = x.shape[:3]
    rows, columns = np.arange(h)[:, None], np.arange(w)
    if arithmetic == "fixed":
        across = maps[:, :, 0, None, None] * columns * 1024  # (N, 2, 1, W)
        down = (maps[:, :, 1, None, None] * rows + maps[:, :, 2, None, None]) * 1024  # (N, 2, H, 1)
        position = (np.rint(across).astype(np.int64) + np.rint(down).astype(np.int64) + 16) >> 5
        whole, part = position >> 5, (position & 31).astype(np.float32) / np.float32(32)
    else:
        m = maps.astype(np.float32)[..., None, None]
        place = columns.astype(np.float32) * m[:, :, 0] + rows.astype(np.float32) * m[:, :, 1] + m[:, :, 2]
        floor = np.floor(place)
        whole, part = floor.astype(np.int64), place - floor
    right, below = part[:, 0, ..., None], part[:, 1, ..., None]
    image, one = np.arange(n)[:, None, None], np.float32(1)

    def at(down: int, across: int) -> np.ndarray:
        return x[image, _reflected(whole[:, 1] + down, h), _reflected(whole[:, 0] + across, w)]

    if arithmetic == "fixed":
        upper = at(0, 0) * ((one - below) * (one - right)) + at(0, 1) * ((one - below) * right)
        return upper + at(1, 0) * (below * (one - right)) + at(1, 1) * (below * right)
    upper, lower = at(0, 0), at(1, 0)
    upper = upper + right * (at(0, 1) - upper)
    lower = lower + right * (at(1, 1) - lower)
    return upper + below * (lower - upper)


def _reflected(index: np.ndarray, size: int) -> np.ndarray:
    """Maps indices beyond the border back, mirrored about the outermost pixel: -1 becomes 1."""
    index = np.abs(index) % (2 * size - 2)
    return np.minimum(index, 2 * size - 2 - index)


def pixelate(x: Images, draws: Draws, share: float) -> Images:
    """Shrinks images to a share of their sides by area means, and enlarges them again."""
    h, w = x.shape[1:3]
    box = Image.Resampling.BOX
    small = [Image.fromarray(image).resize((int(w * share), int(h * share)), box) for image in x]
    return np.stack([np.asarray(image.resize((w, h), box)) for image in small])


def jpeg_compression(x: Images, draws: Draws, quality: int) -> Images:
    """Writes images as JPEG and reads them again, by Pillow."""

    def compressed(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file, formats=["JPEG"]))

    return np.stack([compressed(image) for image in x])
