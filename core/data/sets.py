"""One split of a data set: in memory (`ImageSet`), or as image files in class folders (`FolderSet`)."""

import hashlib
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.catalogue import DatasetInfo
from stillpoint.core.data.formats import IMAGE_SUFFIXES


def evenly(total: int, count: int | None) -> Tensor:
    """Numbers of `count` of `total` images, evenly spaced, so that a set ordered by class shows all its classes.

    All of them where `count` is none or no less than `total`.
    """
    if count is None or count >= total:
        return torch.arange(total)
    return torch.arange(count) * total // count


def sample(labels: Tensor, count: int | None) -> Tensor:
    """Numbers of `count` images for a trial or a dear measurement, the same ones every time.

    The first ones, or evenly spaced ones of a set that lies ordered by class, whose first ones are all of one class.
    `labels` is (N,), or (N, C, H, W) where the targets are images.
    """
    if labels.ndim == 1 and bool((labels.diff() >= 0).all()):
        return evenly(len(labels), count)
    return torch.arange(len(labels) if count is None else min(count, len(labels)))


def first_of_each_class(labels: Tensor, val_size: int) -> Tensor:
    """Whether each image is one of the first ``val_size / classes`` of its class: bool (N,), classes being those there.

    `labels` (N,) must lie ordered by class. Raises `UserError` where that is less than one image of each class.
    """
    there, starts = torch.unique_consecutive(labels, return_inverse=True)
    if 0 < val_size < len(there):
        raise UserError(f"{val_size} validation images are fewer than one for each of {len(there)} classes")
    first = torch.searchsorted(starts, torch.arange(len(there)))
    return torch.arange(len(labels)) - first[starts] < val_size // max(len(there), 1)


class Selectable(ABC):
    """What the sets share: parts of themselves, each with a digest that follows from the whole's and the choice."""

    __slots__ = ()
    labels: Tensor
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, count: int) -> Self:
        """`count` images (all of them when there are fewer) for trials and quick measurements (see `sample`)."""
        return self if count >= len(self) else self.take(sample(self.labels, count))

    def evenly(self, count: int | None) -> Self:
        """`count` images, evenly spaced (see `evenly`)."""
        return self if count is None or count >= len(self) else self.take(evenly(len(self), count))

    def take(self, indices: Tensor) -> Self:
        """The images of these numbers, int64 (n,), in this order."""
        chosen = hashlib.sha256(self.digest.encode() + indices.numpy().astype("<i8").tobytes()).hexdigest()
        return replace(self, **self._chosen(indices), digest=chosen)  # type: ignore[type-var]

    @abstractmethod
    def _chosen(self, indices: Tensor) -> dict[str, Any]:
        """The fields that hold something for each image, cut to `indices`."""


@dataclass(frozen=True, slots=True)
class ImageSet(Selectable):
    """One split in memory: `images` uint8 (N, C, H, W), `labels` int64 (N,), and what a table must say about them.

    `digest` is a SHA-256 that depends on the pixels, the labels and the choice of images alone.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    title: str
    digest: str

    def _chosen(self, indices: Tensor) -> dict[str, Any]:
        return {"images": self.images[indices], "labels": self.labels[indices]}


@dataclass(frozen=True, slots=True)
class FolderSet(Selectable):
    """Image files in one folder per class: `paths` and `labels` int64 (N,), ordered by class and file name.

    `digest` is of names and sizes, not of the 150 GB of content.
    """

    paths: tuple[str, ...]
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    title: str
    digest: str

    def hold_out(self, val_size: int, val: bool) -> "FolderSet":
        """The first ``val_size / classes`` images of each class (`val`), or all the others."""
        if not val_size:
            return self
        held = first_of_each_class(self.labels, val_size)
        return self.take(torch.nonzero(held == val).flatten())

    def _chosen(self, indices: Tensor) -> dict[str, Any]:
        return {"paths": tuple(self.paths[index] for index in indices.tolist()), "labels": self.labels[indices]}


def is_hidden(name: str) -> bool:
    """Whether a file or folder is some program's own (.DS_Store, .ipynb_checkpoints, __MACOSX): no picture, no class."""
    return name.startswith((".", "__"))


def _is_picture(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(entry.name) and entry.is_file()


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in `folder` that hold a picture, by the alphabet: hidden and empty ones are no classes."""
    children = (child for child in os.scandir(folder) if child.is_dir() and not is_hidden(child.name))
    return sorted(child.name for child in children if any(map(_is_picture, os.scandir(child.path))))


def scan_folders(
    entry: DatasetInfo, folder: Path, classes: tuple[str, ...], *, count: int | None = None, below: str = ""
) -> FolderSet:
    """The images in ``<folder>/<class>/<below>``, ordered by class and file name, numbered by their place in `classes`.

    The title says where there are not all the classes, or not `count` images. Raises `UserError` for a folder of
    pictures that is none of the classes.
    """
    paths, labels, state = [], [], hashlib.sha256()
    there = class_folders(folder) if not below else [name for name in classes if (folder / name / below).is_dir()]
    numbers = {name: number for number, name in enumerate(classes)}
    if strange := [name for name in there if name not in numbers]:
        raise UserError(
            f"{folder} has folders of pictures that are no classes of {entry.title}: {', '.join(strange[:5])}; "
            "classes are told apart by the names of their folders"
        )
    if len(there) < len(classes):
        # places in the list of folders that were found numbered these once, and were wrong
        state.update(f"of {len(classes)} classes\n".encode())
    for name in there:
        pictures = filter(_is_picture, os.scandir(folder / name / below))
        for file in sorted(pictures, key=lambda found: found.name):
            paths.append(file.path)
            labels.append(numbers[name])
            state.update(f"{name}/{file.name} {file.stat().st_size}\n".encode())
    lacking = f"{len(paths):,} of {count:,} images" if count and len(paths) != count else ""
    part = f"{len(there)} of {len(classes)} classes" if len(there) < len(classes) else lacking
    title = f"{entry.title} ({part})" if part else entry.title
    return FolderSet(
        tuple(paths), torch.tensor(labels, dtype=torch.int64), classes, entry.mean, entry.std, title, state.hexdigest()
    )
