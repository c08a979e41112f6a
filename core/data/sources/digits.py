"""scikit-learn's 1,797 handwritten digits, enlarged; no download is needed."""

from pathlib import Path
from typing import Any

import numpy as np

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.progress import OnProgress
from stillpoint.core.config.catalogue import DatasetInfo
from stillpoint.core.data.contract import Decoded
from stillpoint.core.data.judging import content_digest
from stillpoint.core.data.stored import Stored

#: digests of both parts, whose bytes are the same on every machine
DIGESTS = {
    "train": "21b226509f70dbca5eb986dfde0adba760d6d7b1994755931f1e872acc7a6699",
    "test": "bcd15106662bf3d020fcddef41c0eaf412ef7a774d718de8784b5355918768d0",
}


class Digits(Stored):
    """The digits; a fifth of each class is the test part."""

    info = DatasetInfo(
        name="digits",
        title="Digits (8x8 drawn at 24x24 on 32x32)",
        num_classes=10,
        channels=1,
        size=32,
        mean=(0.1718,),
        std=(0.2906,),
        val_size=137,
        files="nothing is needed: scikit-learn has the images",
    )

    def sources(self, root: Path) -> list[Path]:
        return []

    def signature(self, root: Path) -> list[list[Any]]:
        return [["scikit-learn load_digits"]]

    def decode(self, root: Path, progress: OnProgress) -> Decoded:
        from sklearn.datasets import load_digits  # here, because its import takes a second

        bunch = load_digits()
        labels = bunch.target.astype(np.int64)
        # shuffled, then sorted by class, so that every fifth image is a stratified sample
        shuffled = np.random.RandomState(0).permutation(len(labels))
        by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
        is_test = np.zeros(len(labels), bool)
        is_test[by_class[::5]] = True
        images = enlarge_digits(bunch.images)
        parts = {"train": (images[~is_test], labels[~is_test]), "test": (images[is_test], labels[is_test])}
        return Decoded(self.info.title, tuple("0123456789"), parts)

    def judged(self, found: Decoded, where: str) -> Decoded:
        if {part: content_digest(*arrays) for part, arrays in found.parts.items()} != DIGESTS:
            raise UserError(
                "scikit-learn's digits differ from the expected ones: install another version of scikit-learn"
            )
        return found


def enlarge_digits(digits: np.ndarray) -> np.ndarray:
    """Enlarges digits three times, on a black canvas: (N, 8, 8) integers 0..16 -> uint8 (N, 1, 32, 32).

    The enlargement is bilinear (PyTorch's align_corners=False): on each axis a new pixel is 1/3 and 2/3 of its two
    neighbours, or all of one; at the border the edge is repeated. In integers, with halves rounded up, so that every
    machine makes the same bytes.
    """
    weights = np.zeros((24, 8), np.int64)  # in thirds
    for new in range(24):
        old, phase = divmod(new, 3)
        neighbour = min(max(old + phase - 1, 0), 7)
        weights[new, old] += 3 if phase == 1 else 2
        weights[new, neighbour] += 0 if phase == 1 else 1
    large = weights @ digits.astype(np.int64) @ weights.T  # (N, 24, 24), 9 * 16 is white
    pixels = (2 * 255 * large + 9 * 16) // (2 * 9 * 16)
    return np.pad(pixels.astype(np.uint8), ((0, 0), (4, 4), (4, 4)))[:, None]


DATASET = Digits()
