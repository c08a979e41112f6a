"""Access to all data sets: `prepare` once, then `load` a split.

The data sets are in `core.data.sources`, their interface in `core.data.contract`.
"""

import os
from pathlib import Path

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import json_text, write_json
from stillpoint.core.base.progress import OnProgress
from stillpoint.core.config.catalogue import data_root, dataset
from stillpoint.core.data.contract import HeldOut, ValChoice, split_indices
from stillpoint.core.data.judging import content_digest
from stillpoint.core.data.pairs import AnySet, PairSet
from stillpoint.core.data.sets import FolderSet, ImageSet
from stillpoint.core.data.stored import READ_ONLY


def prepare(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    progress: OnProgress | None = None,
    links: bool = False,
) -> Path:
    """Prepares a data set, unless it is prepared and its sources are unchanged; returns the path of the marker.

    The marker, ``<root>/prepared/<name>.json``, is written last: title, classes, images and digest of each part.
    `progress` is called with (what, done, total); a total of 0 means unknown. With `links`, photographs are sorted into
    folders by symbolic links instead of copies. `UserError` for files that are missing, truncated, damaged or not the
    published ones.
    """
    root = data_root(root)
    marker = root / "prepared" / f"{name}.json"
    report = progress or (lambda what, done, total: None)
    try:
        found = {"dataset": name, **dataset(name).prepare(root, report, links=links)}
        # an unchanged marker keeps its modification time, so that nothing that depends on it is rerun
        if not (marker.is_file() and marker.read_bytes() == json_text(found).encode()):
            write_json(marker, found)
    except OSError as error:
        if error.errno in READ_ONLY:
            raise UserError(
                f"{root} cannot be written to: use another data root, with links to the files in this one"
            ) from error
        raise
    return marker


def load(
    name: str,
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    *,
    val_size: int | None = None,
    val_choice: ValChoice = "shuffled",
    split_seed: int = 0,
) -> AnySet:
    """One split of a data set: images or pairs in memory, or files read on demand (`core.data.sets`).

    `split` is "train", "val" or "test"; for cifar10_c it is "<corruption>/<severity 1..5>". `val_size` images (default:
    the catalogue's) are held out of the published training part, chosen by `split_indices`; with 0, "train" is the
    whole part and "val" does not exist. For a copy sorted by class, "first" means the first of each class. ImageNet's
    "val" and "test" are its published validation part; with a `val_size`, "val" is instead the first val_size / classes
    images of each class of the training part. The data are prepared first if needed. `UserError` as in `prepare`, and
    for an unknown data set, split or choice.
    """
    found = dataset(name)
    held_out = HeldOut(found.info.val_size if val_size is None else val_size, val_choice, split_seed)
    return found.load(data_root(root), split, held_out)


__all__ = ["FolderSet", "ImageSet", "PairSet", "content_digest", "load", "prepare", "split_indices"]
