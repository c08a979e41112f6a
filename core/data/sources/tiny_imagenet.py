"""Tiny ImageNet (Stanford CS231n, 2015): 200 classes of ImageNet at 64x64, 500 training and 50 validation images each.

Read where ``tiny-imagenet-200.zip`` was unpacked: ``train/<class>/images/``, and ``val/images/`` with
``val/val_annotations.txt``. The images of its test part have no published labels.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.catalogue import DatasetInfo, missing
from stillpoint.core.data.contract import signature_of
from stillpoint.core.data.imagenet_validation import classes as imagenet_classes
from stillpoint.core.data.photographs import Photographs, is_hidden, pictures_in

FOLDER = "tiny-imagenet-200"
_TEXT_BYTES = 16 << 20


class TinyImageNet(Photographs):
    """Tiny ImageNet; classes are numbered by sorted WordNet identifiers, unlike in ``wnids.txt``."""

    info = DatasetInfo(
        name="tiny_imagenet",
        title="Tiny ImageNet",
        num_classes=200,
        channels=3,
        size=64,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        val_size=0,
        files=f"unpack {FOLDER}.zip so that {{root}}/{FOLDER} holds wnids.txt, train and val",
        streaming=True,
        resize=64,
        like=("cifar10", "imagenet"),
    )
    counts: ClassVar[dict[str, int]] = {"train": 100_000, "val": 10_000}

    def signature(self, root: Path) -> list[list[Any]] | None:
        return signature_of(root, root / FOLDER)

    def folder(self, root: Path, part: str) -> Path:
        return root / FOLDER / part

    def classes(self, root: Path) -> tuple[str, ...]:
        path = root / FOLDER / "wnids.txt"
        if not path.is_file():
            raise missing(self.info.name, root, f" ({path} not found)")
        found = _text(path).split()
        if len(found) != 200 or len(set(found)) != 200 or not set(found) <= set(imagenet_classes()):
            raise UserError(f"{path} does not hold 200 classes of ImageNet: unpack {FOLDER}.zip again")
        return tuple(sorted(found))

    def listed(self, root: Path, part: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        folder, classes = self.folder(root, part), self.classes(root)
        if part == "val":
            yield from self._annotated(folder, classes)
            return
        there = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_hidden(entry.name)]
        strange = [name for name in there if name not in classes and pictures_in(folder / name / "images")]
        if strange:
            raise UserError(
                f"{folder} has image folders that are not classes of wnids.txt: {', '.join(sorted(strange)[:5])}"
            )
        for name in classes:
            for picture in pictures_in(folder / name / "images"):
                yield name, picture

    def _annotated(self, folder: Path, classes: tuple[str, ...]) -> Iterator[tuple[str, os.DirEntry[str]]]:
        path = folder / "val_annotations.txt"
        if not path.is_file():
            raise missing(self.info.name, folder.parents[1], f" ({path} not found)")
        rows = [line.split("\t") for line in _text(path).splitlines() if line]
        if any(len(row) < 2 or row[1] not in classes for row in rows):
            raise UserError(f"{path} has a line without the class of an image: unpack {FOLDER}.zip again")
        class_of = {row[0]: row[1] for row in rows}
        pictures = {picture.name: picture for picture in pictures_in(folder / "images")}
        if len(class_of) != len(rows) or pictures.keys() - class_of.keys():
            odd = sorted(pictures.keys() - class_of.keys())[:3]
            raise UserError(
                f"{path} has no class for {', '.join(odd)}: unpack {FOLDER}.zip again"
                if odd
                else f"{path} has the class of an image twice: unpack {FOLDER}.zip again"
            )
        for name, picture in sorted((class_of[name], name) for name in pictures):
            yield name, pictures[picture]


def _text(path: Path) -> str:
    if path.stat().st_size > _TEXT_BYTES:
        raise UserError(f"{path} was refused: it has more than {_TEXT_BYTES:,} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged ({error})") from None


DATASET = TinyImageNet()
