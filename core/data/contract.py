"""The contract of a data set: one object that knows its files, named `DATASET` in its own module.

Neither this module nor those of data sets import torch at the top, so that the catalogue loads quickly; methods import
what they need.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.progress import OnProgress
from stillpoint.core.config.catalogue import DatasetInfo

if TYPE_CHECKING:
    from stillpoint.core.data.pairs import AnySet

Arrays = tuple[np.ndarray, np.ndarray]
ValChoice = Literal["shuffled", "first"]


class HeldOut(NamedTuple):
    """The number of training images held out for validation, and how they are chosen (see `split_indices`)."""

    size: int
    choice: ValChoice = "shuffled"
    seed: int = 0


class Dataset(ABC):
    """The interface of a data set; the rest of its module is private.

    A new one is a module in `core.data.sources` that defines `DATASET`, and recipes. Derive from `stored.Stored` if it
    is decoded once into one file, from `photographs.Photographs` if it is read from folders of images.
    """

    info: DatasetInfo

    @abstractmethod
    def prepare(self, root: Path, progress: OnProgress, *, links: bool = False) -> dict[str, Any]:
        """Decodes, sorts and checks the files in the data root `root`, as far as still needed.

        Returns the content of the marker: "title", "classes", "images" and "digests" of each part, and notes such as
        "incomplete" or "order". With `links`, files are linked symbolically instead of copied. `UserError` for files
        that are missing, damaged, or not of this data set.
        """

    @abstractmethod
    def load(self, root: Path, split: str, held_out: HeldOut) -> "AnySet":
        """One split, prepared first if needed; `UserError` as in `prepare`, and for an unknown split."""

    def signature(self, root: Path) -> list[list[Any]] | None:
        """A value that changes with the raw files, computed without reading them; None if there are none.

        The default covers the folder of its name and two levels below. Snakemake asks for it on every call.
        """
        return signature_of(root, root / self.info.name)

    def named(self, split: str, held_out: HeldOut) -> None:
        """`UserError` unless `split` is one of train, val and test, and has images."""
        name = self.info.name
        if split not in ("train", "val", "test"):
            raise UserError(f"unknown split {split!r} of {name}: choose train, val or test")
        if split == "val" and not held_out.size and not self.info.streaming:
            raise UserError(f"{name} has no validation images, because val_size is 0")


def signature_of(root: Path, *places: Path) -> list[list[Any]] | None:
    """Path, size and modification time of `places`, of all that is in them, and of folders in their subfolders."""
    inside = {path for place in places for path in (place, *place.glob("*"))}
    inside |= {path for place in places for path in place.glob("*/*") if path.is_dir()}
    stats = [(path, path.stat()) for path in sorted(inside) if path.exists()]
    return [[str(path.relative_to(root)), stat.st_size, stat.st_mtime_ns] for path, stat in stats] or None


@dataclass(frozen=True, slots=True)
class Decoded:
    """A whole data set: its title in tables, its class names, and (images, labels) of "train" and "test".

    Images are uint8 (N, C, H, W), labels int64 (N,), or uint8 (N, H, W) for label maps. `notes` go into the marker:
    "incomplete" says what is missing, "order" how the images are ordered if not as published.
    """

    title: str
    classes: tuple[str, ...]
    parts: Mapping[str, Arrays]
    notes: Mapping[str, str] = field(default_factory=dict)


def split_indices(
    count: int, val_size: int, choice: ValChoice = "shuffled", seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and of the held-out images among `count`, both int64.

    "shuffled" is the APS authors' split: a shuffle by NumPy's RandomState(seed), whose last `val_size` are held out
    (for 50,000, 5,000 and seed 0 training begins 11841, 19602, 45519 and validation 43726, 16118, 49381). "first" is
    that of wavelet twins: the first `val_size` images are held out. `UserError` if none would be left to train on.
    """
    if not 0 <= val_size < count:
        raise UserError(f"{val_size} validation images cannot be held out: choose from 0 to {count - 1}")
    if choice not in ("shuffled", "first"):
        raise UserError(f"unknown choice of validation images {choice!r}: choose 'shuffled' or 'first'")
    order = np.arange(count)
    if choice == "first":
        return order[val_size:], order[:val_size]
    if val_size == 0:
        return order, order[:0]
    np.random.RandomState(seed).shuffle(order)
    return order[:-val_size], order[-val_size:]
