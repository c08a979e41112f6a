"""Digits scattered on a canvas, with a class for each pixel: a segmentation set without a download.

One to four of the digits' 24x24 drawings are on a black canvas of 64x64, later ones over earlier ones. A digit's bright
pixels have its class from 1 to 10, those of its faint border have 255 (no class), as in PASCAL VOC; the rest is
background, 0. Digits and positions are a function of (seed, part, image).
"""

from pathlib import Path
from typing import Any

import numpy as np

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.progress import OnProgress
from stillpoint.core.config.catalogue import DatasetInfo
from stillpoint.core.data.contract import Decoded
from stillpoint.core.data.sources.digits import DATASET as DIGITS
from stillpoint.core.data.sources.digits import DIGESTS
from stillpoint.core.data.stored import Stored

SEED = 0
COUNTS = {"train": 1200, "test": 300}
SIDE, DRAWN, MOST = 64, 24, 4
#: least brightness of a pixel of the digit; darker ones, unless black, are its border
BRIGHT = 96


class DigitsSegmentation(Stored):
    """Scattered digits; training images are made from the digits' training part, test images from its test part."""

    info = DatasetInfo(
        name="digits_segmentation",
        title="Digits scattered on 64x64",
        num_classes=11,
        channels=1,
        size=SIDE,
        mean=(0.0919,),
        std=(0.2291,),
        val_size=120,
        files="nothing is needed: scikit-learn has the images",
        label_maps=True,
    )

    def sources(self, root: Path) -> list[Path]:
        return []

    def signature(self, root: Path) -> list[list[Any]]:
        return [["digits", SEED, *DIGESTS.values()]]

    def decode(self, root: Path, progress: OnProgress) -> Decoded:
        found = DIGITS.judged(DIGITS.decode(root, progress), "")
        parts = {}
        for part, count in COUNTS.items():
            images, labels = found.parts[part]
            middle = (images.shape[2] - DRAWN) // 2
            drawn = images[:, 0, middle : middle + DRAWN, middle : middle + DRAWN]
            parts[part] = scattered(drawn, labels, count, SEED, part)
        return Decoded(self.info.title, ("background", *found.classes), parts)


def scattered(drawn: np.ndarray, labels: np.ndarray, count: int, seed: int, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (count, 1, 64, 64) and maps uint8 (count, 64, 64) from `drawn` uint8 (N, 24, 24), labels (N,)."""
    import torch

    from stillpoint.core.base.randomness import uniform_integers

    if not len(drawn):
        raise UserError("there are no digits to scatter")
    numbers = uniform_integers(torch.arange(count), 0, 1 << 32, 1 + 3 * MOST, "scattered digits", seed, part).numpy()
    images, maps = np.zeros((count, SIDE, SIDE), np.uint8), np.zeros((count, SIDE, SIDE), np.uint8)
    for image, label_map, draw in zip(images, maps, numbers, strict=True):
        for which, top, left in draw[1:].reshape(MOST, 3)[: 1 + draw[0] % MOST]:
            digit = which % len(drawn)
            top, left = top % (SIDE - DRAWN + 1), left % (SIDE - DRAWN + 1)
            window = slice(top, top + DRAWN), slice(left, left + DRAWN)
            pixels = drawn[digit]
            image[window] = np.where(pixels, pixels, image[window])
            label = np.where(pixels >= BRIGHT, labels[digit] + 1, 255).astype(np.uint8)
            label_map[window] = np.where(pixels, label, label_map[window])
    return images[:, None], maps


DATASET = DigitsSegmentation()
