"""Data sets of photographs too many for memory: listed from their folders, and read batch by batch."""

import hashlib
import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import digest_of
from stillpoint.core.base.progress import OnProgress
from stillpoint.core.config.catalogue import missing
from stillpoint.core.data.contract import Dataset, HeldOut
from stillpoint.core.data.formats import IMAGE_SUFFIXES, picture_size

if TYPE_CHECKING:
    from stillpoint.core.data.sets import FolderSet


class Photographs(Dataset):
    """A data set of class folders: "train", and "val" for both validation and test."""

    #: number of images of the published parts; the title says if there are fewer
    counts: ClassVar[dict[str, int]]
    #: least median of the photographs' shorter sides, in pixels; 0: not checked
    side: ClassVar[int] = 0

    @abstractmethod
    def folder(self, root: Path, part: str) -> Path:
        """The folder of a part's images."""

    @abstractmethod
    def classes(self, root: Path) -> tuple[str, ...]:
        """Names of all classes, in the order of their labels, whatever folders exist."""

    @abstractmethod
    def listed(self, root: Path, part: str) -> Iterable[tuple[str, os.DirEntry[str]]]:
        """(class, path) of each image of a part, ordered by class and file name."""

    def sort(self, root: Path, progress: OnProgress, *, links: bool) -> None:
        """Sorts the published files into folders, as far as still needed."""

    def prepare(self, root: Path, progress: OnProgress, *, links: bool = False) -> dict[str, Any]:
        self.sort(root, progress, links=links)
        # validation images alone are enough to measure a trained network
        alone = not self.folder(root, "train").is_dir() and self.folder(root, "val").is_dir()
        found = {part: self.scan(root, part) for part in (("val",) if alone else ("train", "val"))}
        classes, pictures = len(found["val"].labels.unique()), len(found["val"])
        marker = {
            "title": found["val"].title,
            "classes": classes,
            "images": {part: len(images) for part, images in found.items()},
            "digests": {part: images.digest for part, images in found.items()},
        }
        whole, lacking = (self.info.num_classes, self.counts["val"]), []
        if (classes, pictures) != whole:
            lacking = [f"validation has {pictures} photographs of {classes} classes, not {whole[1]} of {whole[0]}"]
        if self.side and (side := _usual_side(found["val"].paths)) < self.side:
            # the classes of a smaller copy have the same folders
            lacking.append(f"its photographs are small: their median shorter side is {side} pixels, below {self.side}")
        return {**marker, **({"incomplete": "; ".join(lacking)} if lacking else {})}

    def load(self, root: Path, split: str, held_out: HeldOut) -> "FolderSet":
        self.named(split, held_out)
        if split == "test" or (split == "val" and not held_out.size):
            return self.scan(root, "val")
        return self.scan(root, "train").hold_out(held_out.size, split == "val")

    def scan(self, root: Path, part: str) -> "FolderSet":
        """The images of a part; `UserError` if there are none, or a folder of images is not a class."""
        import torch

        from stillpoint.core.data.sets import FolderSet

        folder, classes = self.folder(root, part), self.classes(root)
        if not folder.is_dir():
            raise missing(self.info.name, root, f" ({folder} not found)")
        numbers = {name: number for number, name in enumerate(classes)}
        paths, labels, state = [], [], hashlib.sha256()
        for name, picture in self.listed(root, part):
            paths.append(picture.path)
            labels.append(numbers[name])
            state.update(f"{name}/{picture.name} {picture.stat().st_size}\n".encode())
        if not paths:
            raise missing(self.info.name, root, f" ({folder} holds no images)")
        there = torch.tensor(labels, dtype=torch.int64)
        present = len(there.unique())
        # the classes present are part of the digest, since an earlier version numbered classes by them
        partial = [] if present == len(classes) else [f"{present} of {len(classes)} classes"]
        digest = digest_of([*partial, state.hexdigest()]) if partial else state.hexdigest()
        entry, title = self.info, self._title(part, present, len(classes), len(paths))
        return FolderSet(tuple(paths), there, classes, entry.mean, entry.std, title, digest)

    def _title(self, part: str, present: int, classes: int, count: int) -> str:
        if present < classes:
            return f"{self.info.title} ({present} of {classes} classes)"
        whole = self.counts[part]
        return self.info.title if count == whole else f"{self.info.title} ({count:,} of {whole:,} images)"


def _usual_side(paths: tuple[str, ...]) -> int:
    """The median shorter side of a sample of these photographs, in pixels; unreadable ones are ignored."""
    sides = []
    for path in paths[:: max(len(paths) // 64, 1)]:
        with suppress(UserError):
            sides.append(min(picture_size(Path(path), path)))
    return sorted(sides)[len(sides) // 2] if sides else 0


def is_hidden(name: str) -> bool:
    """Whether a file or folder is left over from a program, such as .DS_Store, .ipynb_checkpoints, __MACOSX."""
    return name.startswith((".", "__"))


def pictures_in(folder: Path) -> list[os.DirEntry[str]]:
    """The images in a folder, sorted by name; none if there is no such folder."""
    return sorted(filter(_is_picture, os.scandir(folder)), key=lambda found: found.name) if folder.is_dir() else []


def class_folders(folder: Path) -> list[str]:
    """Sorted names of the folders in `folder` that contain an image, without hidden ones."""
    children = (child for child in os.scandir(folder) if child.is_dir() and not is_hidden(child.name))
    return sorted(child.name for child in children if any(map(_is_picture, os.scandir(child.path))))


def of_class_folders(folder: Path, classes: tuple[str, ...], title: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(class, path) of the images in ``<folder>/<class>``; `UserError` for a folder of images that is not a class."""
    there = class_folders(folder)
    if strange := sorted(set(there) - set(classes)):
        raise UserError(
            f"{folder} has image folders that are not classes of {title}: {', '.join(strange[:5])}; "
            "folders must be named after its classes"
        )
    for name in there:
        for picture in pictures_in(folder / name):
            yield name, picture


def _is_picture(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(entry.name) and entry.is_file()
