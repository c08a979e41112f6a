"""The registry of data sets: `prepare` once, then `load` a split as tensors.

Small sets are decoded once into ``<root>/prepared/<name>.safetensors`` (uint8 images, int64 labels, their digests), and
``<name>.json`` beside it tells what it holds. ImageNet stays in its folders and streams (data.streaming).
"""

import errno
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import atomic_path, digest_of, write_json
from stillpoint.core.config.catalogue import data_root, info, missing
from stillpoint.core.data import pairs, sources
from stillpoint.core.data.corruptions import prepare as corruptions
from stillpoint.core.data import imagenet
from stillpoint.core.data.sets import FolderSet, ImageSet, class_folders, first_of_each_class, scan_folders
from stillpoint.core.data.sources import Decoded

Progress = Callable[[str, int, int], None]
ValChoice = Literal["shuffled", "first"]
#: The pairs that need no file.
DIGIT_PAIRS = "digits_undersampled"
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


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


def content_digest(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of shape, pixels (uint8) and labels (as int64), the same on every machine."""
    state = hashlib.sha256(repr(images.shape).encode())
    state.update(np.ascontiguousarray(images).data)
    state.update(np.ascontiguousarray(labels.astype("<i8")).data)
    return state.hexdigest()


def _cache_path(name: str, root: Path) -> Path:
    return root / "prepared" / f"{name}.safetensors"


def _read_cache(name: str, root: Path) -> dict[str, Any] | None:
    """What a whole and current cache says of itself, else None; it outlives its sources, but not a change in them."""
    path = _cache_path(name, root)
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["about"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None  # torn or foreign: it is made again
    current = sources.signature(name, root)
    return about if current in (None, about["sources"]) else None


def _write_cache(name: str, root: Path, decoded: Decoded, signature: Any) -> dict[str, Any]:
    about = {
        "title": decoded.title,
        "classes": list(decoded.classes),
        "images": {part: len(labels) for part, (_, labels) in decoded.parts.items()},
        "digests": {part: content_digest(*arrays) for part, arrays in decoded.parts.items()},
        "sources": signature,
    }
    tensors = {}
    for part, (images, labels) in decoded.parts.items():
        tensors[f"{part}_images"] = torch.from_numpy(images)
        tensors[f"{part}_labels"] = torch.from_numpy(labels)
    with atomic_path(_cache_path(name, root)) as temporary:
        # one entry, because safetensors writes several in any order
        save_file(tensors, temporary, {"about": json.dumps(about)})
    return about


def prepare(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    progress: Progress | None = None,
    links: bool = False,
) -> Path:
    """Decodes a data set, unless that is done and its sources have not changed; returns the marker, a JSON file.

    The marker ``<root>/prepared/<name>.json`` is written last: title, classes, images and digest of each part.
    `progress` is called with (what, done, total); a total of 0 means unknown. With `links`, photographs that are sorted
    into folders are linked symbolically where they would be copied. Raises `UserError` when files are
    missing, truncated, damaged or not the published ones.
    """
    root = data_root(root)
    marker = root / "prepared" / f"{name}.json"
    try:
        found = {"dataset": name, **_prepared(name, root, progress or (lambda what, done, total: None), links)}
        # an unchanged marker keeps its time, so that nothing that depends on it is run again
        if not (marker.is_file() and marker.read_text() == json.dumps(found, indent=2) + "\n"):
            write_json(marker, found)
    except OSError as error:
        if error.errno in _READ_ONLY:
            raise UserError(
                f"{root} cannot be written to: give another data root, with links to the files in this one"
            ) from error
        raise
    return marker


def _prepared(name: str, root: Path, progress: Progress, links: bool) -> dict[str, Any]:
    """Title, classes, images and digests, having decoded what is not yet decoded."""
    entry = info(name)
    if links and not entry.streaming:
        raise UserError(f"{entry.title} has no photographs to link: leave out --links")
    if entry.streaming:
        imagenet.sort_validation(root, progress, links=links)
        # validation images alone are enough to measure a network that is there
        alone = not imagenet.folder(root, "train").is_dir() and imagenet.folder(root, "val").is_dir()
        parts = {part: _photographs(root, part) for part in (("val",) if alone else ("train", "val"))}
        classes, photographs = len(parts["val"].labels.unique()), len(parts["val"])
        whole = (classes, photographs) == (entry.num_classes, imagenet.COUNT)
        lacking = (
            f"validation has {photographs} photographs of {classes} classes, not {imagenet.COUNT} of "
            f"{entry.num_classes}"
        )
        return {
            "title": parts["val"].title,
            "classes": classes,
            "images": {part: len(found) for part, found in parts.items()},
            "digests": {part: found.digest for part, found in parts.items()},
            **({} if whole else {"incomplete": lacking}),
        }
    if entry.pairs:
        return pairs.describe(name, root) if name != DIGIT_PAIRS else _digit_pairs(root)[0]
    if name == "cifar10_c":
        _generate_cifar10_c(root, progress)
        return sources.check_cifar10_c(root)
    about = _read_cache(name, root)
    if about is None:
        signature = sources.signature(name, root)  # before reading: a change meanwhile is then seen the next time
        about = _write_cache(name, root, sources.decode(name, root, progress), signature)
    return {**{key: about[key] for key in ("title", "images", "digests")}, "classes": len(about["classes"])}


def _photographs(root: Path, part: str) -> FolderSet:
    entry, folder, train = info("imagenet"), imagenet.folder(root, part), imagenet.folder(root, "train")
    if not folder.is_dir():
        raise missing(entry.name, root, f" ({folder} not found)")
    found = scan_folders(entry, folder, imagenet.classes(), count=imagenet.COUNTS[part])
    if not len(found):
        raise missing(entry.name, root, f" ({folder} holds no images)")
    if part == "val" and train.is_dir() and (strange := set(class_folders(folder)) - set(class_folders(train))):
        raise UserError(f"{folder} has classes that are not in {train}: {', '.join(sorted(strange)[:5])}")
    return found


def _digit_pairs(root: Path) -> tuple[dict[str, Any], dict[str, pairs.PairSet]]:
    """The pairs made of the digits, and what the marker says of them: the digest of the digits decides them."""
    made: dict[str, pairs.PairSet] = {}
    title = info(DIGIT_PAIRS).title
    for part in pairs.PARTS:
        digits = _stored_part("digits", root, part)
        found = pairs.undersample_images(digits.images, f"{DIGIT_PAIRS} {part}")
        made[part] = replace(found, title=title, digest=digest_of([DIGIT_PAIRS, digits.digest]))
    counts = {part: len(found) for part, found in made.items()}
    digests = {part: found.digest for part, found in made.items()}
    return {"title": title, "classes": 0, "images": counts, "digests": digests}, made


def _load_pairs(
    name: str, root: Path, split: str, held_out: int, val_choice: ValChoice, split_seed: int
) -> pairs.PairSet:
    part = "test" if split == "test" else "train"
    whole = _digit_pairs(root)[1][part] if name == DIGIT_PAIRS else pairs.read(name, root, part)
    if part == "test" or not held_out:
        return whole
    train, val = split_indices(len(whole), held_out, val_choice, split_seed)
    return whole.take(torch.from_numpy(train if split == "train" else val))


def _generate_cifar10_c(root: Path, progress: Progress) -> None:
    """Makes CIFAR-10-C from the test images of CIFAR-10, unless the published files are there or CIFAR-10 is not."""
    folder = root / corruptions.FOLDER
    if corruptions.published(folder) or not (sources.source("cifar10", root) or _read_cache("cifar10", root)):
        return
    clean = _stored_part("cifar10", root, "test")
    pictures = np.ascontiguousarray(clean.images.permute(0, 2, 3, 1).numpy())
    # a job on a cluster may use fewer cores than the machine has
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    options: dict[str, Any] = {"workers": cores, "frost_folder": corruptions.frost_folder(root)}
    corruptions.prepare_cifar10_c(pictures, clean.labels.numpy(), folder, progress=progress, **options)


def _stored_part(name: str, root: Path, part: str) -> ImageSet:
    entry = info(name)
    about = _read_cache(name, root)
    if about is None:
        signature = sources.signature(name, root)
        decoded = sources.decode(name, root, lambda what, done, total: None)
        try:
            about = _write_cache(name, root, decoded, signature)
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise
            # a read-only data root serves all the same, only more slowly
            images, labels = decoded.parts[part]
            described = decoded.classes, entry.mean, entry.std, decoded.title, content_digest(images, labels)
            return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), *described)
    path = _cache_path(name, root)
    with safe_open(path, framework="pt") as file:
        images, labels = file.get_tensor(f"{part}_images"), file.get_tensor(f"{part}_labels")
    digest = content_digest(images.numpy(), labels.numpy())
    if digest != about["digests"][part]:
        raise UserError(
            f"{path} is damaged: its digest is wrong; remove it and run: stillpoint prepare {name} --root {root}"
        )
    return ImageSet(images, labels, tuple(about["classes"]), entry.mean, entry.std, about["title"], digest)


def load(
    name: str,
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    *,
    val_size: int | None = None,
    val_choice: ValChoice = "shuffled",
    split_seed: int = 0,
) -> ImageSet | FolderSet | pairs.PairSet:
    """One split of a data set: an `ImageSet`, a `FolderSet` for one that streams, or a `PairSet` of images.

    `split` is "train", "val" or "test"; for cifar10_c it is "<corruption>/<severity 1..5>". `val_size` images (default:
    the registry's) are held out of the published training part, chosen as `split_indices` says; with 0, "train" is the
    whole part and "val" does not exist. Of a copy that lies ordered by class, "first" means of each class. ImageNet's
    "val" and "test" are its published validation part; with a `val_size`, "val" is instead the first
    val_size / classes images of each class of the training part.
    Prepares the data first where that has not been done. Raises `UserError` (see `prepare`).
    """
    entry, root = info(name), data_root(root)
    held_out = entry.val_size if val_size is None else val_size
    if name == "cifar10_c":
        images, labels, title = sources.read_cifar10_c(root, split)
        digest = content_digest(images, labels)
        names = sources.CIFAR10_CLASSES
        return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), names, entry.mean, entry.std, title, digest)
    if split not in ("train", "val", "test"):
        raise UserError(f"unknown split {split!r} of {name}: choose train, val or test")
    if split == "val" and not held_out and not entry.streaming:
        raise UserError(f"{name} has no validation images, because val_size is 0")
    if entry.pairs:
        return _load_pairs(name, root, split, held_out, val_choice, split_seed)
    if entry.streaming:
        if split == "test" or (split == "val" and not held_out):
            return _photographs(root, "val")
        return _photographs(root, "train").hold_out(held_out, split == "val")
    if split == "test":
        return _stored_part(name, root, "test")
    whole = _stored_part(name, root, "train")
    train, val = split_indices(len(whole), held_out, val_choice, split_seed)
    if val_choice == "first" and held_out and bool((whole.labels.diff() >= 0).all()):
        # the published batches of CIFAR are mixed; of a copy in class folders the first images are all of one class
        held = first_of_each_class(whole.labels, held_out).numpy()
        train, val = np.flatnonzero(~held), np.flatnonzero(held)
    return whole if not held_out else whole.take(torch.from_numpy(train if split == "train" else val))


__all__ = ["FolderSet", "ImageSet", "content_digest", "load", "prepare", "split_indices"]
