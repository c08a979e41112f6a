"""ImageNet's classes; sorts its 50,000 validation photographs, published in one folder, into class folders.

Their classes are published separately. The development kit has a number for each in
``data/ILSVRC2012_validation_ground_truth.txt``, and the WordNet identifier (the folder's name) of each number in
``data/meta.mat``. Kaggle's copy, which most people have, has ``LOC_val_solution.csv`` with the identifiers instead.
Photographs are linked or copied; no existing file is moved or deleted.
"""

import csv
import io
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import atomic_path
from stillpoint.core.base.progress import OnProgress
from stillpoint.core.data.archives import archive_files
from stillpoint.core.data.formats import read_mat

COUNT = 50_000
ARCHIVE = "ILSVRC2012_img_val.tar"
KIT = "ILSVRC2012_devkit_t12"
#: the folder of photographs in Kaggle's archive, and the file beside it with the validation classes
KAGGLE, SOLUTION = "ILSVRC/Data/CLS-LOC", "LOC_val_solution.csv"
TRUTH, META = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"
#: most bytes: the photographs have 6.7 GB, none above 20 MB; the kit has some megabytes
_ARCHIVE_BYTES = {"most": 16 << 30, "largest": 64 << 20}
_KIT_BYTES = {"most": 256 << 20, "largest": 64 << 20}
#: most bytes: the file has 1.5 MB, bounding boxes included
_SOLUTION_BYTES = 64 << 20
_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)


@cache
def classes() -> tuple[str, ...]:
    """The WordNet identifiers of the 1000 classes in the order of class numbers, whatever folders exist."""
    lines = Path(__file__).with_name("imagenet_classes.txt").read_text().splitlines()
    return tuple(line for line in lines if not line.startswith("#"))


def needed(root: Path) -> str:
    """The end of an error message: which files to put where."""
    return (
        f"put {ARCHIVE} (or its photographs, unpacked, as {root}/imagenet/val/ILSVRC2012_val_*.JPEG) and {KIT}.tar.gz "
        f"(or the folder {KIT}), or Kaggle's folder ILSVRC and {SOLUTION}, into {root} or {root}/imagenet"
    )


def sort_validation(root: Path, progress: OnProgress, *, links: bool = False) -> None:
    """Sorts unsorted validation photographs into ``<root>/imagenet/val/<class>/``; does nothing if there are none.

    Sorted photographs are left alone, so an interrupted call can be repeated. The unsorted files stay; a sorted one is
    a hard link if the file system allows it, otherwise a copy, or with `links` a symbolic link. `UserError` if the file
    of classes is missing or damaged, a photograph is missing, or one is in the wrong folder.
    """
    target, count = root / "imagenet" / "val", COUNT
    flat, archive = _flat(root), _found(root, (ARCHIVE,))
    if not flat and archive is None:
        return
    done = _sorted(target)
    if len(done) == count and flat == {}:
        # all are sorted, so an archive beside the folders needs no development kit
        return
    shown = _shown(root, count)
    for number, wnid in done.items():
        if not 1 <= number <= count or wnid != shown[number - 1]:
            right = f"not of {wnid}" if not 1 <= number <= count else f"of {shown[number - 1]}, not of {wnid}"
            raise UserError(f"{target / wnid} holds photograph {number}, which is {right}: remove it from there")
    waiting = set(range(1, count + 1)) - done.keys()
    total = len(waiting)
    for number, path in flat.items():
        if number in waiting:
            _link(path, target / shown[number - 1] / f"ILSVRC2012_val_{number:08d}.JPEG", symbolic=links)
            waiting.discard(number)
            progress("photographs", total - len(waiting), total)
    if waiting and archive is not None:
        for number, content in _members(archive):
            if number in waiting:
                _write(content, target / shown[number - 1] / f"ILSVRC2012_val_{number:08d}.JPEG")
                waiting.discard(number)
                progress("photographs", total - len(waiting), total)
    if waiting:
        first = ", ".join(f"ILSVRC2012_val_{number:08d}.JPEG" for number in sorted(waiting)[:3])
        more = ", ..." if len(waiting) > 3 else ""
        raise UserError(
            f"{len(waiting)} of {count} validation photographs are missing ({first}{more}): {needed(root)}; sorted "
            "photographs stay, and the same command continues"
        )


def _places(root: Path) -> tuple[Path, Path, Path]:
    return root / "imagenet", root, root / "imagenet" / "val"


def kaggle(root: Path) -> Path | None:
    """The folder with train and val in Kaggle's copy, unpacked into the data root or its folder imagenet; or None."""
    places = root / KAGGLE, root / "imagenet" / KAGGLE, root / "imagenet" / "Data" / "CLS-LOC"
    return next((place for place in places if place.is_dir()), None)


def _found(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for folder in _places(root) for name in names if (folder / name).exists()), None)


def _solution(root: Path) -> Path | None:
    copy = kaggle(root)
    beside = (*copy.parents[:3], copy, copy / "val") if copy else ()
    places = (*beside, *_places(root))
    return next((place / SOLUTION for place in places if (place / SOLUTION).is_file()), None)


def _flat(root: Path) -> dict[int, Path]:
    """Number -> unsorted photograph; the folder of validation images takes precedence."""
    found: dict[int, Path] = {}
    copy = kaggle(root)
    places = (root / "imagenet" / "val", root / "imagenet", root, *((copy / "val",) if copy else ()))
    for folder in places:
        if folder.is_dir():
            for entry in os.scandir(folder):
                match = _NAME.fullmatch(entry.name)
                if match and entry.is_file():
                    found.setdefault(int(match[1]), Path(entry.path))
    return dict(sorted(found.items()))


def _sorted(target: Path) -> dict[int, str]:
    """Number -> class folder, for sorted photographs."""
    found: dict[int, str] = {}
    if not target.is_dir():
        return found
    for folder in sorted(entry.name for entry in os.scandir(target) if entry.is_dir()):
        for entry in os.scandir(target / folder):
            # a dangling link does not count
            if (match := _NAME.fullmatch(entry.name)) and entry.is_file():
                number = int(match[1])
                if number in found:
                    raise UserError(
                        f"{entry.name} is in {target / found[number]} and in {target / folder}: remove the wrong one"
                    )
                found[number] = folder
    return found


def _link(source: Path, target: Path, *, symbolic: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink() and not target.exists():
        target.unlink()  # a dangling link
    try:
        # atomic, without a second copy of 6 GB
        os.link(source.resolve(), target)
    except FileExistsError:
        return
    except OSError:
        if symbolic:
            target.symlink_to(source.resolve())
            return
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)


def _write(content: bytes, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def _members(archive: Path) -> Iterator[tuple[int, bytes]]:
    """(number, content) of the photographs in the archive, in its order."""
    for name, content in archive_files(archive, **_ARCHIVE_BYTES):
        if match := _NAME.fullmatch(Path(name).name):
            yield int(match[1]), content


def _shown(root: Path, count: int) -> list[str]:
    """The class of each validation photograph, number 1 first."""
    kit, folder = _found(root, (f"{KIT}.tar.gz", f"{KIT}.tar")), _found(root, (KIT,))
    if folder is None and kit is None:
        solution = _solution(root)
        if solution is None:
            raise UserError(f"the development kit of ImageNet is not in {root}: {needed(root)}")
        return _solved(solution, count)
    truth, meta = (_kit_file(folder, kit, name) for name in (TRUTH, META))
    wnids = _wnids(meta, folder or kit)
    try:
        numbers = [int(line) for line in truth.split()]
        shown = [wnids[number] for number in numbers]
    except (ValueError, KeyError) as error:
        raise UserError(f"{TRUTH} of {folder or kit} is damaged (unknown class {error}): fetch it again") from None
    if len(shown) != count:
        raise UserError(f"{TRUTH} of {folder or kit} has {len(shown)} lines, not {count}: fetch it again")
    return shown


def _solved(path: Path, count: int) -> list[str]:
    """The classes in Kaggle's ``LOC_val_solution.csv``: ``ILSVRC2012_val_00000001,n01751748 111 108 441 193 ...``."""
    if path.stat().st_size > _SOLUTION_BYTES:
        raise UserError(f"{path} was refused: it has more than {_SOLUTION_BYTES:,} bytes")
    found: dict[int, str] = {}
    try:
        rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))
        if {"ImageId", "PredictionString"} - set(rows.fieldnames or ()):
            raise ValueError("its columns are not ImageId and PredictionString")
        for line, row in enumerate(rows, start=2):
            name, fields = row["ImageId"] or "", (row["PredictionString"] or "").split()
            match = _NAME.fullmatch(f"{name.removesuffix('.JPEG')}.JPEG")
            # a class and a box, once or several times
            if not match or not fields or len(set(fields[::5])) != 1 or fields[0] not in _known():
                raise ValueError(f"line {line} does not name a photograph and its class")
            if found.setdefault(int(match[1]), fields[0]) != fields[0]:
                raise ValueError(f"{name} has two classes")
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} is damaged ({error}): fetch it again") from None
    if found.keys() != set(range(1, count + 1)):
        raise UserError(f"{path} lists {len(found)} photographs, not exactly those from 1 to {count}: fetch it again")
    return [found[number] for number in range(1, count + 1)]


@cache
def _known() -> frozenset[str]:
    return frozenset(classes())


def _kit_file(folder: Path | None, archive: Path | None, name: str) -> bytes:
    if folder is not None and (folder / name).is_file():
        return (folder / name).read_bytes()
    if archive is not None:
        for found, content in archive_files(archive, **_KIT_BYTES):
            if found.endswith(f"/{name}"):
                return content
    raise UserError(f"{folder or archive} has no {name}: fetch {KIT}.tar.gz again")


def _wnids(content: bytes, origin: Any) -> Mapping[int, str]:
    """Class number -> WordNet identifier, for synsets without children (the 1000 classes)."""
    synsets = read_mat(content, f"{META} of {origin}").get("synsets", ())
    try:
        rows = np.ravel(synsets)
        found = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows if int(row["num_children"]) == 0}
    except (TypeError, ValueError, IndexError):
        raise UserError(f"{META} of {origin} is damaged: it has no table of classes; fetch it again") from None
    # they become folder names
    if bad := [wnid for wnid in found.values() if wnid not in _known()]:
        raise UserError(f"{META} of {origin} is damaged: {bad[0]!r} is not an ImageNet class; fetch it again")
    return found
