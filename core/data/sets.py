"""Splits of data sets, in memory or as image files, with a class for each image or each pixel."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.catalogue import DatasetInfo
from stillpoint.core.data.contract import HeldOut, split_indices


def evenly(total: int, count: int | None) -> Tensor:
    """Indices of `count` of `total` images, evenly spaced, so that they cover all classes of a set sorted by class.

    All indices if `count` is None or at least `total`.
    """
    if count is None or count >= total:
        return torch.arange(total)
    return torch.arange(count) * total // count


def sample(labels: Tensor, count: int | None) -> Tensor:
    """Indices of `count` images for a trial or an expensive measurement, always the same.

    The first ones, or evenly spaced ones if the set is sorted by class. `labels` is (N,), or (N, C, H, W) if the
    targets are images.
    """
    if labels.ndim == 1 and bool((labels.diff() >= 0).all()):
        return evenly(len(labels), count)
    return torch.arange(len(labels) if count is None else min(count, len(labels)))


def first_of_each_class(labels: Tensor, val_size: int) -> Tensor:
    """Whether each image is one of the first ``val_size / classes`` of its class: bool (N,).

    Only classes in `labels` count; `labels` (N,) must be sorted. `UserError` for less than one image of each class.
    """
    there, starts = torch.unique_consecutive(labels, return_inverse=True)
    if 0 < val_size < len(there):
        raise UserError(f"{val_size} validation images are fewer than one for each of {len(there)} classes")
    first = torch.searchsorted(starts, torch.arange(len(there)))
    return torch.arange(len(labels)) - first[starts] < val_size // max(len(there), 1)


class Selectable(ABC):
    """The base of the sets: selects subsets, whose digests are functions of the whole's and of the choice.

    `order` describes the order of the images if it differs from the published one, so that subsets differ too.
    """

    __slots__ = ()
    labels: Tensor
    digest: str
    title: str
    order: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def held_out(self, held: HeldOut, val: bool) -> Self:
        """The images held out for validation if `val`, otherwise all others.

        For a copy sorted by class, "first" means the first of each class.
        """
        train, rest = split_indices(len(self), *held)
        if held.choice == "first" and self.labels.ndim == 1 and bool((self.labels.diff() >= 0).all()):
            # unlike in the published, mixed batches of CIFAR, the first images of class folders have one class
            chosen = first_of_each_class(self.labels, held.size).numpy()
            train, rest = np.flatnonzero(~chosen), np.flatnonzero(chosen)
        return self.take(torch.from_numpy(rest if val else train))

    def sample(self, count: int) -> Self:
        """`count` images, or all if there are fewer, for trials and quick measurements (see `sample`)."""
        return self if count >= len(self) else self.take(sample(self.labels, count))

    def evenly(self, count: int | None) -> Self:
        """`count` images, evenly spaced (see `evenly`)."""
        return self if count is None or count >= len(self) else self.take(evenly(len(self), count))

    def take(self, indices: Tensor) -> Self:
        """The images at `indices`, int64 (n,), in this order."""
        chosen = hashlib.sha256(self.digest.encode() + indices.numpy().astype("<i8").tobytes()).hexdigest()
        return replace(self, **self._chosen(indices), digest=chosen)  # type: ignore[type-var]

    @abstractmethod
    def _chosen(self, indices: Tensor) -> dict[str, Any]:
        """The per-image fields, restricted to `indices`."""


@dataclass(frozen=True, slots=True)
class ImageSet(Selectable):
    """One split in memory: `images` uint8 (N, C, H, W), `labels` int64 (N,), and its title in tables.

    `digest` is a SHA-256 that depends only on the pixels, the labels and the choice of images.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    title: str
    digest: str
    order: str = ""

    def _chosen(self, indices: Tensor) -> dict[str, Any]:
        return {"images": self.images[indices], "labels": self.labels[indices]}


@dataclass(frozen=True, slots=True)
class LabelMapSet(Selectable):
    """One split in memory whose labels are maps: uint8 (N, H, W), the class of each pixel, 255 for none.

    The other fields are those of `ImageSet`.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    title: str
    digest: str
    order: str = ""

    def _chosen(self, indices: Tensor) -> dict[str, Any]:
        return {"images": self.images[indices], "labels": self.labels[indices]}


def array_set(
    info: DatasetInfo,
    images: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    title: str,
    digest: str,
    notes: Mapping[str, str],
) -> "ImageSet | LabelMapSet":
    """A split of a data set from arrays: a `LabelMapSet` if it has label maps, otherwise an `ImageSet`."""
    kind = LabelMapSet if info.label_maps else ImageSet
    about = classes, info.mean, info.std, title, digest, notes.get("order", "")
    return kind(torch.from_numpy(images), torch.from_numpy(labels), *about)


@dataclass(frozen=True, slots=True)
class FolderSet(Selectable):
    """Image files, one class each: `paths` and `labels` int64 (N,), ordered by class and file name.

    `digest` is of names and sizes, not of content, which may have 150 GB.
    """

    paths: tuple[str, ...]
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    title: str
    digest: str

    def hold_out(self, val_size: int, val: bool) -> "FolderSet":
        """The first ``val_size / classes`` images of each class if `val`, otherwise all others."""
        if not val_size:
            return self
        held = first_of_each_class(self.labels, val_size)
        return self.take(torch.nonzero(held == val).flatten())

    def _chosen(self, indices: Tensor) -> dict[str, Any]:
        return {"paths": tuple(self.paths[index] for index in indices.tolist()), "labels": self.labels[indices]}


@dataclass(frozen=True, slots=True)
class LabelMapFiles(Selectable):
    """Image files, each with a label map in a file: `paths` and `maps`, in the order of a list.

    `digest` is of names and sizes.
    """

    paths: tuple[str, ...]
    maps: tuple[str, ...]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    title: str
    digest: str

    def __len__(self) -> int:
        return len(self.paths)

    def sample(self, count: int) -> "LabelMapFiles":
        """The first `count`, since lists are not sorted by class."""
        return self if count >= len(self) else self.take(torch.arange(count))

    def held_out(self, held: HeldOut, val: bool) -> "LabelMapFiles":
        train, rest = split_indices(len(self), *held)
        return self.take(torch.from_numpy(rest if val else train))

    def _chosen(self, indices: Tensor) -> dict[str, Any]:
        numbers = indices.tolist()
        return {"paths": tuple(self.paths[k] for k in numbers), "maps": tuple(self.maps[k] for k in numbers)}
