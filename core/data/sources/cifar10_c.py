"""CIFAR-10-C (Hendrycks and Dietterich, ICLR 2019): the test images of CIFAR-10 under 19 corruptions in 5 severities.

Reads the published arrays if they are present, otherwise generates them from CIFAR-10 (`core.data.corruptions`).
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillpoint.core.base.errors import UserError, nearest
from stillpoint.core.base.files import digest
from stillpoint.core.base.progress import OnProgress
from stillpoint.core.config.catalogue import DatasetInfo, missing
from stillpoint.core.data.cifar import CIFAR10_CLASSES, CIFAR10_MEAN, CIFAR10_STD
from stillpoint.core.data.contract import Dataset, HeldOut, signature_of
from stillpoint.core.data.formats import read_npy
from stillpoint.core.data.judging import content_digest
from stillpoint.core.data.sources.cifar10 import DATASET as CIFAR10

if TYPE_CHECKING:
    from stillpoint.core.data.sets import ImageSet

#: the folder of the arrays in the data root
FOLDER = "CIFAR-10-C"
_IMAGES, _SEVERITIES = 10_000, 5


class Cifar10C(Dataset):
    """CIFAR-10-C; a split is "<corruption>/<severity 1 to 5>"."""

    info = DatasetInfo(
        name="cifar10_c",
        title="CIFAR-10-C",
        num_classes=10,
        channels=3,
        size=32,
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
        val_size=0,
        files="unpack CIFAR-10-C.tar (Zenodo record 2535967) so that {root}/CIFAR-10-C holds labels.npy and one "
        "<corruption>.npy for each corruption, or put CIFAR-10 into {root}, from which it is then generated",
    )

    def prepare(self, root: Path, progress: OnProgress, *, links: bool = False) -> dict[str, Any]:
        from stillpoint.core.data.corruptions.prepare import caption

        if links:
            raise UserError(f"{self.info.title} has no photographs to link: leave out --links")
        self._make(root, progress)
        folder = root / FOLDER
        names = sorted(p.stem for p in folder.glob("*.npy") if p.stem != "labels")
        if not names:
            raise missing(self.info.name, root)
        counts = {}
        for name in names:
            images, _ = rows(root, name)
            counts[name] = len(images)
            for severity in range(_SEVERITIES):
                _check_differ(folder / f"{name}.npy", images, severity)
        said = caption(folder)
        few = min(counts.values()) // _SEVERITIES
        return {
            "title": self.info.title + (f" ({said})" if said else ""),
            "classes": len(CIFAR10_CLASSES),
            "images": counts,
            "digests": {name: digest(folder / f"{name}.npy") for name in (*names, "labels")},
            **({"incomplete": f"it has {few:,} of {_IMAGES:,} images"} if few < _IMAGES else {}),
        }

    def signature(self, root: Path) -> list[list[Any]] | None:
        # an array generated from CIFAR-10 is not a source
        return CIFAR10.signature(root) or signature_of(root, root / FOLDER)

    def load(self, root: Path, split: str, held_out: HeldOut) -> "ImageSet":
        import torch

        from stillpoint.core.data.corruptions import check
        from stillpoint.core.data.sets import ImageSet

        match = re.fullmatch(r"([^/]+)/(\d+)", split)
        if not match:
            raise UserError(
                f"unknown split {split!r} of cifar10_c: write <corruption>/<severity 1 to 5>, such as gaussian_noise/3"
            )
        corruption, severity = match[1], int(match[2])
        check(corruption, severity)
        images, labels = rows(root, corruption)
        _check_differ(root / FOLDER / f"{corruption}.npy", images, severity - 1)
        part = _part(len(images), severity - 1)
        pixels = np.ascontiguousarray(images[part].transpose(0, 3, 1, 2))
        numbers = np.asarray(labels[part]).astype(np.int64)
        few = f", {len(pixels):,} of {_IMAGES:,} images" if len(pixels) < _IMAGES else ""
        title = f"{self.info.title} {corruption.replace('_', ' ')} {severity}{few}"
        about = CIFAR10_CLASSES, self.info.mean, self.info.std, title, content_digest(pixels, numbers)
        return ImageSet(torch.from_numpy(pixels), torch.from_numpy(numbers), *about)

    def _make(self, root: Path, progress: OnProgress) -> None:
        """Generates the arrays from CIFAR-10's test images, unless they are published ones or CIFAR-10 is absent."""
        from stillpoint.core.data.corruptions import prepare as corruptions

        folder = root / FOLDER
        if corruptions.published(folder) or not (CIFAR10.sources(root) or CIFAR10.described(root)):
            return
        clean = CIFAR10.part(root, "test")
        pictures = np.ascontiguousarray(clean.images.permute(0, 2, 3, 1).numpy())
        # a job on a cluster may use fewer cores than the machine has
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        options: dict[str, Any] = {"workers": cores, "frost_folder": corruptions.frost_folder(root)}
        corruptions.prepare_cifar10_c(pictures, clean.labels.numpy(), folder, progress=progress, **options)


def rows(root: Path, corruption: str) -> tuple[np.ndarray, np.ndarray]:
    """(images (5 N, 32, 32, 3), labels) of a corruption in the order of its file, checked and memory-mapped."""
    folder = root / FOLDER
    images, labels = _array(root, f"{corruption}.npy"), _array(root, "labels.npy")
    count = len(images) if images.ndim else 0
    if (
        images.dtype != np.uint8
        or images.shape[1:] != (32, 32, 3)
        or (labels.ndim == 1 and count != len(labels))
        or count % _SEVERITIES
        or not 0 < count <= _SEVERITIES * _IMAGES
    ):
        raise UserError(
            f"{folder / corruption}.npy holds {images.dtype} {images.shape}, not uint8 (50000, 32, 32, 3), or equally "
            f"fewer images of each severity, with as many labels, here {labels.shape}: fetch both again"
        )
    if labels.dtype.kind not in "ui" or labels.ndim != 1 or not 0 <= labels.min() <= labels.max() < 10:
        raise UserError(f"{folder}/labels.npy does not hold class numbers from 0 to 9: fetch it again")
    if not (labels.reshape(_SEVERITIES, -1) == labels[: count // _SEVERITIES]).all():
        raise UserError(f"{folder}/labels.npy does not give every severity the same classes: fetch it again")
    return images, labels


def _array(root: Path, file: str) -> np.ndarray:
    path = root / FOLDER / file
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.npy") if p.stem != "labels")
        raise missing("cifar10_c", root, f" ({file} not found{nearest(path.stem, there)})")
    return read_npy(path)


def _part(count: int, severity: int) -> slice:
    """The rows of a severity, counted from 0; each severity has the order of the clean test images."""
    each = count // _SEVERITIES
    return slice(severity * each, (severity + 1) * each)


def _check_differ(path: Path, images: np.ndarray, severity: int) -> None:
    """`UserError` if all images of a severity are the same, as in an array that was allocated but never filled."""
    part = images[_part(len(images), severity)]
    if len(part) > 1 and (part == part[:1]).all():
        raise UserError(f"{path}: all images of severity {severity + 1} are the same: fetch it again")


DATASET = Cifar10C()
