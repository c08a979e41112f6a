"""Generates CIFAR-10-C: one array per corruption in the published layout, in parallel, restartable, with digests."""

import hashlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from stillpoint.core.base.documents import read_json
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import atomic_path, digest, digest_of, write_json
from stillpoint.core.data.corruptions import NAMES, SEVERITIES, check, corrupt
from stillpoint.core.data.corruptions.frost import FILES
from stillpoint.core.data.formats import read_npy

#: folders of the arrays and of the photographs of ice, in the data root
FOLDER, FROST = "CIFAR-10-C", "frost"
#: the manifest beside the arrays, of what was generated here and how; other arrays came from elsewhere and are kept
MANIFEST = "stillpoint.json"
#: incremented when a corruption's formula changes, so that its array is regenerated
VERSIONS = dict.fromkeys(NAMES, 1) | {"frost": 2}
_CHUNK = 500
#: keys of an array's entry in the manifest
_ENTRY = frozenset({"sha256", "bytes", "settings"})

_Task = tuple[str, int, int]
_shared: dict[str, Any] = {}


def prepare_cifar10_c(
    images: np.ndarray,
    labels: np.ndarray,
    folder: Path,
    names: Sequence[str] = NAMES,
    severities: Sequence[int] = SEVERITIES,
    workers: int = 1,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    *,
    frost_folder: Path | None = None,
) -> dict[str, str]:
    """Writes ``<name>.npy``, uint8 (len(severities) * N, S, S, 3), and ``labels.npy`` into `folder`; returns digests.

    Severities ascend, each with all images in order: the layout of the published CIFAR-10-C, whose readers
    expect all five. `progress(name, images done, images in total)` is called as parts arrive. An existing array is kept
    if it was generated from the same images, seed and settings, or came from elsewhere (the published files). Files are
    written atomically, so an interrupted call can be repeated. `UserError` for unknown names or severities, and for
    labels that do not fit the images or existing arrays.
    """
    for name in names:
        for severity in severities:
            check(name, severity)
    if len(labels) != len(images):
        raise UserError(f"there are {len(images)} images and {len(labels)} labels")
    if list(severities) != sorted(set(severities)) or not severities:
        raise UserError(f"severities must be given in ascending order, once each, not {list(severities)}")
    folder.mkdir(parents=True, exist_ok=True)
    made = _Manifest(folder, _settings(images, severities, seed))
    _keep_labels(folder, np.tile(labels.astype(np.uint8), len(severities)))
    wanted = [name for name in names if not made.has(name, frost_folder)]
    starts = range(0, len(images), _CHUNK)
    tasks = [(name, severity, start) for name in wanted for severity in severities for start in starts]
    total = len(severities) * len(images)
    with _parts(images, seed, frost_folder, tasks, workers) as parts:
        for name in wanted:
            array = np.empty((total, *images.shape[1:]), np.uint8)
            done = 0
            while done < total:
                part = next(parts)
                array[done : done + len(part)] = part
                done += len(part)
                progress(name, done, total)
            with atomic_path(folder / f"{name}.npy") as temporary:
                np.save(temporary, array)
                # recorded before the file is renamed, or an interruption in between would make it look like one from
                # elsewhere
                made.add(name, temporary, frost_folder)
    return {name: made.digest_of(name) for name in names}


def frost_folder(root: Path) -> Path | None:
    """The folder of photographs of ice in a data root; None if there is none, so that a texture is computed."""
    return root / FROST if (root / FROST).is_dir() else None


def published(folder: Path) -> list[str]:
    """The corruptions whose arrays were not generated here."""
    entries = _Manifest(folder, {}).entries
    return [name for name in NAMES if (folder / f"{name}.npy").is_file() and name not in entries]


def caption(folder: Path) -> str:
    """A table's note on the arrays in `folder`: the seed and the kind of frost; empty for published arrays."""
    entries = _Manifest(folder, {}).entries
    if not entries:
        return ""
    seeds = sorted({entry["settings"]["seed"] for entry in entries.values()})
    ice = entries.get("frost", {"settings": {"frost": "photographs"}})["settings"]["frost"]
    said = f"generated with seed {', '.join(map(str, seeds))}"
    return said if ice == "photographs" else f"{said}; frost is a {ice}, not the published photographs"


def _settings(images: np.ndarray, severities: Sequence[int], seed: int) -> dict[str, Any]:
    return {"images": digest_of_array(images), "severities": list(severities), "seed": seed}


def digest_of_array(array: np.ndarray) -> str:
    """SHA-256 of an array's values, dtype and shape."""

    head = digest_of([str(array.dtype), list(array.shape)])
    return hashlib.sha256(head.encode() + np.ascontiguousarray(array).tobytes()).hexdigest()


def _keep_labels(folder: Path, labels: np.ndarray) -> None:
    """Writes the labels unless they exist; `UserError` if arrays from elsewhere have other labels."""
    path = folder / "labels.npy"
    try:
        if not path.is_file():
            found = ""
        elif np.array_equal(read_npy(path), labels):
            return
        else:
            found = "are of other images, or of these in another order"
    except UserError:
        found = "cannot be read"
    if found and (there := published(folder)):
        raise UserError(f"{path} {found}, and {', '.join(there)} there were not made here: move that folder away")
    with atomic_path(path) as temporary:
        np.save(temporary, labels)


def _is_entry(found: Any) -> bool:
    if not isinstance(found, dict) or not found.keys() >= _ENTRY:
        return False
    settings = found["settings"]
    return isinstance(settings, dict) and "seed" in settings


class _Manifest:
    """The manifest of a folder: which arrays were generated here, from what, and their digests."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:

        self.folder, self.settings, self.path = folder, settings, folder / MANIFEST
        remedy = "delete it and the arrays that were made here"
        self.entries: dict[str, Any] = read_json(self.path, remedy=remedy, of=dict) if self.path.is_file() else {}
        if not all(_is_entry(entry) for entry in self.entries.values()):
            raise UserError(f"{self.path} is damaged: {remedy}")

    def _of(self, name: str, frost_folder: Path | None) -> dict[str, Any]:
        settings = {"version": VERSIONS[name], **self.settings}
        if name == "frost":
            settings["frost"] = "photographs" if frost_folder else "computed texture"
            if frost_folder:
                # the array depends on the photographs
                settings["photographs"] = {n: digest(frost_folder / n) for n in FILES if (frost_folder / n).is_file()}
        return settings

    def has(self, name: str, frost_folder: Path | None) -> bool:
        path = self.folder / f"{name}.npy"
        if not path.is_file():
            return False
        entry = self.entries.get(name)
        if entry is None:
            return True
        if entry["settings"] != self._of(name, frost_folder):
            return False
        # a file that was truncated or changed since is regenerated
        return path.stat().st_size == entry["bytes"] and digest(path) == entry["sha256"]

    def add(self, name: str, path: Path, frost_folder: Path | None) -> None:
        entry = {"sha256": digest(path), "bytes": path.stat().st_size, "settings": self._of(name, frost_folder)}
        self.entries[name] = entry
        write_json(self.path, self.entries)

    def digest_of(self, name: str) -> str:
        return self.entries[name]["sha256"] if name in self.entries else digest(self.folder / f"{name}.npy")


@contextmanager
def _parts(
    images: np.ndarray, seed: int, frost_folder: Path | None, tasks: list[_Task], workers: int
) -> Iterator[Iterator[np.ndarray]]:
    """The corrupted parts in the order of `tasks`, made by `workers` processes; with 1, in this process."""
    if workers <= 1 or len(tasks) <= 1:
        yield (_corrupted(images, seed, frost_folder, task) for task in tasks)
        return
    # forked children share the images and need not import anything
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(images, seed, frost_folder)) as pool:
        try:
            yield _bounded(pool, tasks, 4 * workers)
        finally:
            pool.shutdown(cancel_futures=True)


def _bounded(pool: ProcessPoolExecutor, tasks: list[_Task], ahead: int) -> Iterator[np.ndarray]:
    """Results in order, with at most `ahead` of them waiting in memory."""
    waiting = [pool.submit(_in_worker, task) for task in tasks[:ahead]]
    for task in [*tasks[ahead:], *[None] * len(waiting)]:
        yield waiting.pop(0).result()
        if task is not None:
            waiting.append(pool.submit(_in_worker, task))


def _begin(images: np.ndarray, seed: int, frost_folder: Path | None) -> None:
    _shared.update(images=images, seed=seed, frost_folder=frost_folder)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this worker when its parent ends: after a SIGKILL of the parent it would wait for its next task for ever,
    with the images in memory."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in a worker"
    parent.join()
    os._exit(1)


def _in_worker(task: _Task) -> np.ndarray:
    return _corrupted(_shared["images"], _shared["seed"], _shared["frost_folder"], task)


def _corrupted(images: np.ndarray, seed: int, frost_folder: Path | None, task: _Task) -> np.ndarray:
    name, severity, start = task
    part = images[start : start + _CHUNK]
    numbers = np.arange(start, start + len(part))
    return corrupt(part, name, severity, indices=numbers, seed=seed, frost_folder=frost_folder)
