"""PASCAL VOC 2012, segmentation (Everingham et al., IJCV 2015): 20 classes and background, a class for each pixel.

Read where ``VOCtrainval_11-May-2012.tar`` was unpacked: photographs in ``JPEGImages``, maps in ``SegmentationClass``,
and the lists ``ImageSets/Segmentation/{train,val}.txt``. If ``trainaug.txt`` is beside them, training uses it: the
10,582 images with the maps of Hariharan et al. (ICCV 2011), in ``SegmentationClassAug``.
"""

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.progress import OnProgress
from stillpoint.core.config.catalogue import DatasetInfo, missing
from stillpoint.core.data.contract import Dataset, HeldOut, signature_of

if TYPE_CHECKING:
    from stillpoint.core.data.sets import LabelMapFiles

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
COUNTS = {"train": 1464, "val": 1449, "trainaug": 10_582}
_NAME = re.compile(r"[\w-]+", re.ASCII)
_LIST_BYTES = 1 << 20


class Voc2012(Dataset):
    """PASCAL VOC 2012, whose validation part is both validation and test."""

    info = DatasetInfo(
        name="voc2012",
        title="PASCAL VOC 2012",
        num_classes=21,
        channels=3,
        size=512,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        val_size=0,
        files="unpack VOCtrainval_11-May-2012.tar so that {root}/VOCdevkit/VOC2012 holds JPEGImages, SegmentationClass "
        "and ImageSets/Segmentation",
        streaming=True,
        label_maps=True,
        resize=512,
    )

    def prepare(self, root: Path, progress: OnProgress, *, links: bool = False) -> dict[str, Any]:
        if links:
            raise UserError(f"{self.info.title} is read in place: leave out --links")
        found = {"train": self._listed(root, self._training(root)), "val": self._listed(root, "val")}
        if both := set(found["train"].paths) & set(found["val"].paths):
            raise UserError(
                f"{len(both)} images are in the lists for both training and validation, such as {min(both)}: remove "
                "those of val.txt from the training list"
            )
        marker = {
            "title": found["val"].title,
            "classes": self.info.num_classes,
            "images": {part: len(files) for part, files in found.items()},
            "digests": {part: files.digest for part, files in found.items()},
            "training": f"{self._training(root)}.txt",
        }
        few = len(found["val"]) != COUNTS["val"]
        lacking = f"validation has {len(found['val']):,} of {COUNTS['val']:,} images"
        return {**marker, **({"incomplete": lacking} if few else {})}

    def signature(self, root: Path) -> list[list[Any]] | None:
        return signature_of(root, self._home(root))

    def load(self, root: Path, split: str, held_out: HeldOut) -> "LabelMapFiles":
        self.named(split, held_out)
        if split == "test" or (split == "val" and not held_out.size):
            return self._listed(root, "val")
        whole = self._listed(root, self._training(root))
        return whole.held_out(held_out, split == "val") if held_out.size else whole

    def _home(self, root: Path) -> Path:
        home = root / "VOCdevkit" / "VOC2012"
        if not home.is_dir():
            raise missing(self.info.name, root, f" ({home} not found)")
        return home

    def _training(self, root: Path) -> str:
        lists = self._home(root) / "ImageSets" / "Segmentation"
        return "trainaug" if (lists / "trainaug.txt").is_file() else "train"

    def _listed(self, root: Path, name: str) -> "LabelMapFiles":
        """The images of a list in its order, each with its map; `UserError` for a missing file."""
        from stillpoint.core.data.sets import LabelMapFiles

        home = self._home(root)
        path = home / "ImageSets" / "Segmentation" / f"{name}.txt"
        if not path.is_file():
            raise missing(self.info.name, root, f" ({path} not found)")
        names = _names(path)
        maps = home / ("SegmentationClassAug" if name == "trainaug" else "SegmentationClass")
        paths: list[str] = []
        labels: list[str] = []
        state = hashlib.sha256()
        for image in names:
            for folder, suffix, kept in ((home / "JPEGImages", ".jpg", paths), (maps, ".png", labels)):
                file = folder / f"{image}{suffix}"
                if not file.is_file():
                    raise missing(self.info.name, root, f" as a whole ({file}, which {path.name} names, not found)")
                kept.append(str(file))
                state.update(f"{file.relative_to(home).as_posix()} {file.stat().st_size}\n".encode())
        entry = self.info
        said = [] if name != "trainaug" else ["training images with the augmented maps"]
        said += [] if len(names) == COUNTS[name] else [f"{len(names):,} of {COUNTS[name]:,} images"]
        title = f"{entry.title} ({', '.join(said)})" if said else entry.title
        return LabelMapFiles(tuple(paths), tuple(labels), CLASSES, entry.mean, entry.std, title, state.hexdigest())


def _names(path: Path) -> list[str]:
    if path.stat().st_size > _LIST_BYTES:
        raise UserError(f"{path} was refused: it has more than {_LIST_BYTES:,} bytes")
    names = path.read_text(errors="replace").split()
    if wrong := [name for name in names if not _NAME.fullmatch(name)]:
        raise UserError(f"{path} names {wrong[0]!r}, which is not a valid image name")
    if not names or len(set(names)) != len(names):
        raise UserError(f"{path} names {'an image twice' if names else 'no image'}: unpack the archive again")
    return names


DATASET = Voc2012()
