"""Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv 1708.07747): 70,000 grey articles of clothing, 28x28, in IDX files.

MNIST's files have the same names and shapes, so images and labels are checked, in any order, against the digest of a
complete copy.
"""

from pathlib import Path

import numpy as np

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.progress import OnProgress
from stillpoint.core.config.catalogue import DatasetInfo, missing
from stillpoint.core.data.contract import Decoded
from stillpoint.core.data.formats import read_idx
from stillpoint.core.data.judging import set_digest
from stillpoint.core.data.stored import Stored

CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
COUNTS = {"train": 60_000, "test": 10_000}
#: `set_digest` of each part
DIGESTS = {
    "train": "fb88a2f5c1b590c907f860b47803d006e4fa7b276cdb551799af9d443accdff7",
    "test": "0b381379398a0943a88bf3864ff3f5177903dcf178030b4b74c495294b38fa7c",
}
#: the first published labels, which identify their order
FIRST_LABELS = {"train": [9, 0, 0, 3, 0, 2, 7, 2, 5, 5], "test": [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]}
ANOTHER_ORDER = "another than the published one"
_FILES = {"train": "train", "test": "t10k"}


class FashionMnist(Stored):
    """Fashion-MNIST; another order than the published one is recorded, since splits and samples depend on it."""

    info = DatasetInfo(
        name="fashion_mnist",
        title="Fashion-MNIST",
        num_classes=10,
        channels=1,
        size=28,
        mean=(0.2860,),
        std=(0.3530,),
        val_size=5000,
        files="put train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and "
        "t10k-labels-idx1-ubyte.gz (or the same four unpacked, without .gz) into {root}/FashionMNIST/raw",
    )

    def sources(self, root: Path) -> list[Path]:
        raw = root / "FashionMNIST" / "raw"
        stems = [f"{part}-{kind}-ubyte" for part in _FILES.values() for kind in ("images-idx3", "labels-idx1")]
        found = [next((p for p in (raw / stem, raw / f"{stem}.gz") if p.is_file()), None) for stem in stems]
        return [path for path in found if path]

    def decode(self, root: Path, progress: OnProgress) -> Decoded:
        paths = self.sources(root)
        if len(paths) < 4:
            there = ", ".join(path.name for path in paths)
            raise missing(self.info.name, root, f" (only {there} found)" if paths else "")
        parts = {}
        for part, (images_path, labels_path) in (("train", paths[:2]), ("test", paths[2:])):
            count = COUNTS[part]
            images, labels = read_idx(images_path, count * 28 * 28), read_idx(labels_path, count)
            if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max(initial=0) > 9:
                raise UserError(f"{images_path.name} and {labels_path.name} do not belong together: fetch both again")
            parts[part] = images[:, None], labels.astype(np.int64)
        return Decoded(self.info.title, CLASSES, parts)

    def judged(self, found: Decoded, where: str) -> Decoded:
        for part, arrays in found.parts.items():
            if set_digest(*arrays) != DIGESTS[part]:
                raise UserError(
                    f"{where}: the {part} images and labels are not those of Fashion-MNIST (MNIST's files have the "
                    "same names and shapes): fetch all four files again"
                )
        begins = {part: labels[:10].tolist() for part, (_, labels) in found.parts.items()}
        notes = {} if begins == FIRST_LABELS else {"order": ANOTHER_ORDER}
        return Decoded(found.title, found.classes, found.parts, {**found.notes, **notes})


DATASET = FashionMnist()
