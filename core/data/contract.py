"""What a data set is to the house: one object that knows its files, named `DATASET` in a module of its own.

No torch here and in what derives from it, so that an entry of the catalogue can be read at once: a method imports what
it needs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.catalogue import DatasetInfo

if TYPE_CHECKING:
    from stillpoint.core.data.pairs import AnySet

Arrays = tuple[np.ndarray, np.ndarray]
#: told (what, done, total) while something takes its time; a total of 0 means unknown
Progress = Callable[[str, int, int], None]
ValChoice = Literal["shuffled", "first"]


class HeldOut(NamedTuple):
    """Which images of the training part are for validation: how many, and chosen how (see `split_indices`)."""

    size: int
    choice: ValChoice = "shuffled"
    seed: int = 0


class Dataset(ABC):
    """All that is ever asked of a data set; everything else in its module is its own business.

    A new one is a module in `core.data.sources` that holds `DATASET`, and its recipes: derive from `stored.Stored` what
    is decoded once into one file, from `photographs.Photographs` what is read from folders of pictures.
    """

    info: DatasetInfo

    @abstractmethod
    def prepare(self, root: Path, progress: Progress, *, links: bool = False) -> dict[str, Any]:
        """Decodes, sorts and checks what lies in the data root `root`, as far as that is not done.

        Returns what the marker says: "title", "classes", and by part "images" and "digests"; and what a user should
        know, such as "incomplete" or "order". With `links`, files that would be copied are linked symbolically. Raises
        `UserError` when files are missing, damaged, or not those of the data set.
        """

    @abstractmethod
    def load(self, root: Path, split: str, held_out: HeldOut) -> "AnySet":
        """One split, prepared first where that has not been done; `UserError` as `prepare`, or for an unknown split."""

    def signature(self, root: Path) -> list[list[Any]] | None:
        """What would change if the raw files did, as far as it can be told without reading them; None where none are.

        Default: of the folder of its name, and the two levels of folders in it. Snakemake asks it on every call.
        """
        return signature_of(root, root / self.info.name)

    def named(self, split: str, held_out: HeldOut) -> None:
        """A `UserError` unless `split` is one of train, val and test, and not empty."""
        name = self.info.name
        if split not in ("train", "val", "test"):
            raise UserError(f"unknown split {split!r} of {name}: choose train, val or test")
        if split == "val" and not held_out.size and not self.info.streaming:
            raise UserError(f"{name} has no validation images, because val_size is 0")


def signature_of(root: Path, *places: Path) -> list[list[Any]] | None:
    """Path, size and time of files, and of folders with what lies in them and the folders in those."""
    inside = {path for place in places for path in (place, *place.glob("*"))}
    inside |= {path for place in places for path in place.glob("*/*") if path.is_dir()}
    stats = [(path, path.stat()) for path in sorted(inside) if path.exists()]
    return [[str(path.relative_to(root)), stat.st_size, stat.st_mtime_ns] for path, stat in stats] or None


@dataclass(frozen=True, slots=True)
class Decoded:
    """A whole data set: what it calls itself in tables, its class names, and (images, labels) of "train" and "test".

    Images are uint8 (N, C, H, W), labels int64 (N,), or uint8 (N, H, W) for label maps. `notes` go into the marker:
    "incomplete" says what lacks, "order" how the images are ordered where that is not as published.
    """

    title: str
    classes: tuple[str, ...]
    parts: Mapping[str, Arrays]
    notes: Mapping[str, str] = field(default_factory=dict)


def split_indices(
    count: int, val_size: int, choice: ValChoice = "shuffled", seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the training and of the held-out images among `count`, both int64.

    "shuffled" is the APS authors' split: a shuffle by NumPy's RandomState(seed), whose last `val_size` are held out
    (for 50,000, 5,000 and seed 0 training begins 11841, 19602, 45519 and validation 43726, 16118, 49381). "first" is
    the wavelet twins': the first `val_size` images are held out. Raises `UserError` if none would be left to train on.
    """
    if not 0 <= val_size < count:
        raise UserError(f"{val_size} validation images asked for: choose from 0 to {count - 1}")
    if choice not in ("shuffled", "first"):
        raise UserError(f"validation images chosen by {choice!r}: choose 'shuffled' or 'first'")
    order = np.arange(count)
    if choice == "first":
        return order[val_size:], order[:val_size]
    if val_size == 0:
        return order, order[:0]
    np.random.RandomState(seed).shuffle(order)
    return order[:-val_size], order[-val_size:]
