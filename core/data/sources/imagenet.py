"""ImageNet (ILSVRC2012, Russakovsky et al., arXiv 1409.0575): 1.28 million photographs of 1000 classes, in folders."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.progress import OnProgress
from stillpoint.core.config.catalogue import DatasetInfo
from stillpoint.core.data.imagenet_validation import COUNT, classes, kaggle, sort_validation
from stillpoint.core.data.photographs import Photographs, class_folders, of_class_folders

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageNet(Photographs):
    """ImageNet; its classes are the 1000 WordNet identifiers, even if only some of their folders exist."""

    info = DatasetInfo(
        name="imagenet",
        title="ImageNet",
        num_classes=1000,
        channels=3,
        size=224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        val_size=0,
        files="put one folder of photographs for each class into {root}/imagenet/train and {root}/imagenet/val, or "
        "ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz into {root} for the latter, or unpack Kaggle's "
        "archive into {root} (ILSVRC and LOC_val_solution.csv)",
        streaming=True,
        resize=256,
    )
    # the median is 375, and in common smaller copies 64 or 160
    side: ClassVar[int] = 256
    counts: ClassVar[dict[str, int]] = {"train": 1_281_167, "val": COUNT}

    def folder(self, root: Path, part: str) -> Path:
        """The folder of a part's images; training photographs of Kaggle's copy are read in place."""
        own, copy = root / "imagenet" / part, kaggle(root)
        return copy / part if part == "train" and copy is not None and not own.is_dir() else own

    def classes(self, root: Path) -> tuple[str, ...]:
        return classes()

    def listed(self, root: Path, part: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        folder, train = self.folder(root, part), self.folder(root, "train")
        if part == "val" and train.is_dir() and (strange := {*class_folders(folder)} - {*class_folders(train)}):
            raise UserError(f"{folder} has classes that are not in {train}: {', '.join(sorted(strange)[:5])}")
        return of_class_folders(folder, classes(), self.info.title)

    def sort(self, root: Path, progress: OnProgress, *, links: bool) -> None:
        sort_validation(root, progress, links=links)


DATASET = ImageNet()
