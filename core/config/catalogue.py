"""The catalogue of data sets, known before any file is read. Imports no torch.

A data set is a module of the same name in a package registered by `search`; core/data registers its `sources`. The
module defines `DATASET`, whose `info` is the entry here, and is imported on first use.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from stillpoint.core.base.errors import UserError, nearest

#: The environment variable with the default data root; without it, the folder "data".
ROOT_VARIABLE = "STILLPOINT_DATA"


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """One data set: its title in tables, the shape of its images, and where its files belong.

    `mean` and `std` are per channel, for pixels scaled to [0, 1]; they are the default normalisation, which a recipe
    may replace. `val_size` images are held out of the training part by default. `files` ends the error for missing
    files: what the user must put where. Images of `streaming` sets are read from their files: the shorter side is
    resized to `resize` and the central `size` cropped, both in proportion for a network of another size. A label is a
    class; with `pairs` (input, target) an image; with `label_maps` a class for each pixel, 255 for none, where
    `num_classes` counts the background. Networks made for one of the sets in `like` take this one too.
    """

    name: str
    title: str
    num_classes: int
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    val_size: int
    files: str
    streaming: bool = False
    pairs: bool = False
    label_maps: bool = False
    resize: int = 0
    like: tuple[str, ...] = ()


#: the packages that are searched for data sets
_PACKAGES: list[str] = []


def search(package: str) -> None:
    """Registers the modules of a package as data sets, except those whose names begin with an underscore."""
    if package not in _PACKAGES:
        _PACKAGES.append(package)


def _modules() -> dict[str, str]:
    """Name of each data set -> its module."""
    folders = tuple((package, folder) for package in _PACKAGES for folder in import_module(package).__path__)
    return _listed(folders, tuple(Path(folder).stat().st_mtime for _, folder in folders))


@lru_cache(maxsize=1)
def _listed(folders: tuple[tuple[str, str], ...], changed: tuple[float, ...]) -> dict[str, str]:
    """`_modules`, cached until a folder's modification time changes: a configuration asks for it a dozen times."""
    found: dict[str, str] = {}
    for package, folder in folders:
        for module in iter_modules([folder]):
            if not module.name.startswith("_"):
                found.setdefault(module.name, f"{package}.{module.name}")
    return dict(sorted(found.items()))


class _Catalogue(Mapping[str, DatasetInfo]):
    """The entries of all data sets by name."""

    def __getitem__(self, name: str) -> DatasetInfo:
        return import_module(_modules()[name]).DATASET.info

    def __iter__(self) -> Iterator[str]:
        return iter(_modules())

    def __len__(self) -> int:
        return len(_modules())

    def __contains__(self, name: object) -> bool:
        return name in _modules()


DATASETS: Mapping[str, DatasetInfo] = _Catalogue()


def dataset(name: str) -> Any:
    """The `core.data.contract.Dataset` called `name`; `UserError` with the nearest names if there is none."""
    if name not in DATASETS:
        raise UserError(
            f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}{nearest(name, list(DATASETS))}"
        )
    return import_module(_modules()[name]).DATASET


def info(name: str) -> DatasetInfo:
    """The entry called `name`; `UserError` with the nearest names if there is none."""
    return dataset(name).info


def takes(made_for: tuple[str, ...], name: str) -> bool:
    """Whether a network made for the data sets `made_for` (empty: all with classes) takes the one called `name`."""
    entry = info(name)
    if not made_for:
        return not (entry.pairs or entry.label_maps)
    return name in made_for or bool(set(entry.like) & set(made_for))


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """`root`, or the environment's STILLPOINT_DATA, or "data"."""
    return Path(root if root is not None else os.environ.get(ROOT_VARIABLE) or "data")


def missing(name: str, root: Path, detail: str = "") -> UserError:
    """The error for missing files: what is missing, what to put where, and the command that then prepares it."""
    what = info(name).files.format(root=root)
    return UserError(
        f"{info(name).title} is not in {root}{detail}: {what}; then run: stillpoint prepare {name} --root {root}"
    )
