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
from stillpoint.core.config.catalogue import info, missing
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


def first_of_each_class(labels: Tensor, classes: int, val_size: int) -> Tensor:
    """Whether each image is one of the first ``val_size / classes`` of its class: bool (N,).

    `labels` (N,) must lie ordered by class. Raises `UserError` where that is less than one image of each class.
    """
    if 0 < val_size < classes:
        raise UserError(f"{val_size} validation images are fewer than one for each of {classes} classes")
    starts = torch.searchsorted(labels, torch.arange(classes))
    return torch.arange(len(labels)) - starts[labels] < val_size // classes


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
        held = first_of_each_class(self.labels, len(self.classes), val_size)
        return self.take(torch.nonzero(held == val).flatten())

    def _chosen(self, indices: Tensor) -> dict[str, Any]:
        return {"paths": tuple(self.paths[index] for index in indices.tolist()), "labels": self.labels[indices]}


def scan_folders(name: str, root: Path, part: str) -> FolderSet:
    """The images in ``<root>/<name>/<part>/<class>/``, ordered by class and file name.

    Classes are numbered by the alphabet, over the training part where it is there, so that both parts agree. Raises
    `UserError` if there are no images, or a class is unknown in training.
    """
    entry, folder = info(name), root / name / part
    if not folder.is_dir():
        raise missing(name, root, f" ({folder} not found)")
    train = root / name / "train"
    classes = _folders(train if train.is_dir() else folder)
    strange = sorted(set(_folders(folder)) - set(classes))
    if strange:
        raise UserError(f"{folder} has classes that are not in {train}: {', '.join(strange[:5])}")
    paths, labels, state = [], [], hashlib.sha256()
    for label, title in enumerate(classes):
        if not (folder / title).is_dir():
            continue
        for file in sorted(os.scandir(folder / title), key=lambda item: item.name):
            if file.name.lower().endswith(IMAGE_SUFFIXES) and not file.name.startswith("."):
                paths.append(file.path)
                labels.append(label)
                state.update(f"{title}/{file.name} {file.stat().st_size}\n".encode())
    if not paths:
        raise missing(name, root, f" ({folder} holds no images)")
    described = tuple(classes), entry.mean, entry.std, entry.title, state.hexdigest()
    return FolderSet(tuple(paths), torch.tensor(labels), *described)


def _folders(folder: Path) -> list[str]:
    return sorted(child.name for child in os.scandir(folder) if child.is_dir())
