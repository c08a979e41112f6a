"""Images of ice for the frost corruption: a folder of photographs, or else a computed texture.

The published sets used five photographs that may not be redistributed. With the computed texture a data set is
CIFAR-10-C except for frost, which its title says.
"""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from stillpoint.core.base.errors import UserError
from stillpoint.core.data.formats import decode_image

#: the photographs of the published corruption, in its order
FILES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
#: side of the images -> factor by which the photographs are shrunk
SCALES = {32: 0.2, 64: 0.3, 224: 1.0}

Textures = tuple[np.ndarray, ...]


def textures(folder: Path | None, side: int) -> Textures:
    """Five images of ice, uint8 (h, w, 3), for images of `side` pixels; computed if there is no folder.

    `UserError` for a photograph that is missing, unreadable or no larger than the images.
    """
    if folder is None:
        return tuple(_computed(number, side) for number in range(len(FILES)))
    return tuple(_photograph(folder / name, side) for name in FILES)


def _photograph(path: Path, side: int) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{path} is missing: frost needs {', '.join(FILES)} in that folder")
    pixels = np.asarray(decode_image(path, str(path)))
    scale = SCALES[side]
    h, w = (round(n * scale) for n in pixels.shape[:2])
    if min(h, w) <= side:
        raise UserError(f"{path} is {w}x{h} after shrinking by {scale}, but must be larger than {side}x{side}")
    return _shrunk(pixels, (h, w), scale)


def _shrunk(pixels: np.ndarray, size: tuple[int, int], scale: float) -> np.ndarray:
    """Linear interpolation of uint8 (H, W, 3) at the centres of squares of side 1 / scale, to (*size, 3).

    As in OpenCV's resize by a factor: a side that the factor does not divide is cut or extended, not fitted into
    `size`, so 0.2 takes every fifth pixel. Weights have 11 bits, and sums are truncated as in OpenCV.
    """
    (low, high, near, far), (left, right, before, behind) = (
        _places(count, given, scale) for count, given in zip(size, pixels.shape[:2], strict=True)
    )
    whole = pixels.astype(np.int64)
    rows = (whole[:, left] * before[:, None] + whole[:, right] * behind[:, None]) >> 4  # (H, w, 3)
    above, below = rows[low] * near[:, None, None] >> 16, rows[high] * far[:, None, None] >> 16
    return ((above + below + 2) >> 2).astype(np.uint8)  # (h, w, 3)


def _places(count: int, given: int, scale: float) -> tuple[np.ndarray, ...]:
    """For `count` positions on an axis of `given` pixels: the pixels on both sides, and their weights in 1/2048."""
    position = ((np.arange(count) + 0.5) / scale - 0.5).clip(0, given - 1).astype(np.float32)
    low = np.floor(position).astype(int)
    share = position - low
    weights = (np.rint(part * 2048).astype(np.int64) for part in (np.float32(1) - share, share))
    return low, np.minimum(low + 1, given - 1), *weights


@cache
def _computed(number: int, side: int) -> np.ndarray:
    """Needles of ice: bright lines that grow from random points in six directions, over a bluish haze."""
    grown = min(side, 64)  # needles keep their width in proportion to larger images
    size, stream = 3 * grown, np.random.RandomState(number)
    ice = np.zeros((size, size))
    for _ in range(60):
        row, column, turn = stream.uniform(0, size), stream.uniform(0, size), stream.uniform(0, np.pi / 3)
        for arm in range(6):
            length = stream.uniform(0.2, 1.2) * grown
            steps = np.arange(0, length, 0.5)
            angle = turn + arm * np.pi / 3
            rows = (row + steps * np.sin(angle)).astype(int) % size
            columns = (column + steps * np.cos(angle)).astype(int) % size
            np.maximum.at(ice, (rows, columns), 1 - steps / length)
    haze = np.abs(np.fft.ifft2(np.fft.fft2(stream.normal(size=(size, size))) * _falloff(size)))
    shade = 0.35 * haze / haze.max() + 0.65 * ice
    colour = np.array([205.0, 225.0, 255.0])
    texture = (shade[..., None] * colour).clip(0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(texture).resize((3 * side, 3 * side), Image.Resampling.BICUBIC))


def _falloff(size: int) -> np.ndarray:
    frequency = np.fft.fftfreq(size)
    return 1 / (np.hypot(frequency[:, None], frequency) + 1 / size) ** 1.5
