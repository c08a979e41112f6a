"""Data sets that are decoded once into one file, ``<root>/prepared/<name>.safetensors``, and read from it.

The file holds uint8 images, labels and their digests. It stays valid if its sources are removed, but not if they
change.
"""

import errno
import json
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillpoint.core.base.documents import parse_json
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import atomic_path
from stillpoint.core.base.progress import OnProgress
from stillpoint.core.data.contract import Dataset, Decoded, HeldOut
from stillpoint.core.data.judging import content_digest

if TYPE_CHECKING:
    from stillpoint.core.data.sets import ImageSet, LabelMapSet

#: version of decoding and checking; files of an earlier one are decoded or checked again
VERSION = 2
#: error numbers of a read-only folder
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_KEYS = frozenset({"title", "classes", "images", "digests", "sources"})


class Stored(Dataset):
    """A data set that fits into memory."""

    @abstractmethod
    def sources(self, root: Path) -> list[Path]:
        """The files or folders under `root` to decode, an original in preference to a copy; [] if there are none."""

    @abstractmethod
    def decode(self, root: Path, progress: OnProgress) -> Decoded:
        """Reads the sources; `UserError` if they are missing, damaged, or not those of the data set."""

    def judged(self, found: Decoded, where: str) -> Decoded:
        """`found`, with notes, if it is this data set; otherwise `UserError`, in which `where` names the source."""
        return found

    def signature(self, root: Path) -> list[list[Any]] | None:
        """A value that changes with the sources: path, size and modification time of each file and folder of images.

        None if the sources are absent. An image edited in place within a folder of images goes unnoticed.
        """
        paths = self.sources(root)
        folders = [sub for path in paths if path.is_dir() for sub in sorted(path.glob("*/*")) if sub.is_dir()]
        stats = [(path, path.stat()) for path in (*paths, *folders)]
        return [[str(path.relative_to(root)), stat.st_size, stat.st_mtime_ns] for path, stat in stats] or None

    def prepare(self, root: Path, progress: OnProgress, *, links: bool = False) -> dict[str, Any]:
        if links:
            raise UserError(f"{self.info.title} has no photographs to link: leave out --links")
        about = self.described(root)
        if about is None:
            # the signature comes first, so that a change during decoding is noticed the next time
            signature, found = self.signature(root), self._decoded(root, progress)
            about = write(self, root, found, signature)
        marker = {key: about[key] for key in ("title", "images", "digests")}
        return {**marker, "classes": len(about["classes"]), **about["notes"]}

    def load(self, root: Path, split: str, held_out: HeldOut) -> "ImageSet | LabelMapSet":
        self.named(split, held_out)
        if split == "test":
            return self.part(root, "test")
        whole = self.part(root, "train")
        return whole.held_out(held_out, split == "val") if held_out.size else whole

    def part(self, root: Path, part: str) -> "ImageSet | LabelMapSet":
        """All images of "train" or "test", decoded first if needed."""
        from safetensors import safe_open

        from stillpoint.core.data.sets import array_set

        about = self.described(root)
        if about is None:
            signature, found = self.signature(root), self._decoded(root, lambda what, done, total: None)
            try:
                about = write(self, root, found, signature)
            except OSError as error:
                if error.errno not in READ_ONLY:
                    raise
                # a read-only data root works too, but decodes every time
                images, labels = found.parts[part]
                digest = content_digest(images, labels)
                return array_set(self.info, images, labels, found.classes, found.title, digest, found.notes)
        path = cache_path(self.info.name, root)
        with safe_open(path, framework="np") as file:
            images, labels = file.get_tensor(f"{part}_images"), file.get_tensor(f"{part}_labels")
        digest = content_digest(images, labels)
        if digest != about["digests"][part]:
            raise UserError(
                f"{path} is damaged: its digest is wrong; remove it and run: "
                f"stillpoint prepare {self.info.name} --root {root}"
            )
        return array_set(self.info, images, labels, tuple(about["classes"]), about["title"], digest, about["notes"])

    def described(self, root: Path) -> dict[str, Any] | None:
        """The metadata of a complete and current file of this data set, otherwise None."""
        about = _about(self.info.name, root)
        current = self.signature(root)
        if about is None or current not in (None, about["sources"]):
            return None
        if about.get("version") == VERSION:
            return about
        # of an earlier version: decode again if the sources are present, otherwise check the file again
        return None if current is not None else self._judged_again(root, about)

    def _judged_again(self, root: Path, about: dict[str, Any]) -> dict[str, Any] | None:
        from safetensors.numpy import load_file

        path = cache_path(self.info.name, root)
        arrays = load_file(path)
        parts = {part: (arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in about["images"]}
        found = Decoded(about["title"], tuple(about["classes"]), parts)
        found = self.judged(found, str(path))
        try:
            return write(self, root, found, about["sources"])
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise
            return {**about, "notes": dict(found.notes)}

    def _decoded(self, root: Path, progress: OnProgress) -> Decoded:
        return self.judged(self.decode(root, progress), ", ".join(str(path) for path in self.sources(root)))


def cache_path(name: str, root: Path) -> Path:
    """The file that a data set is decoded into."""
    return root / "prepared" / f"{name}.safetensors"


#: prefixes of safetensors' dtypes that NumPy lacks
_NOT_NUMPYS = ("BF", "F4", "F6", "F8")


def _about(name: str, root: Path) -> dict[str, Any] | None:
    """The metadata of a data set's file; None if it is absent, truncated or of something else."""
    from safetensors import SafetensorError, safe_open

    path = cache_path(name, root)
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            about = parse_json((file.metadata() or {})["about"], str(path), of=dict)
            held = set(file.keys())
            if any(file.get_slice(key).get_dtype().startswith(_NOT_NUMPYS) for key in held):
                return None
    except (SafetensorError, OSError, KeyError, ValueError, UserError):
        return None  # so that it is decoded again
    if not about.keys() >= _KEYS:
        return None
    whole = isinstance(about["images"], dict) and isinstance(about["digests"], dict)
    if not whole or held != {f"{part}_{kind}" for part in about["digests"] for kind in ("images", "labels")}:
        return None
    return about


def write(dataset: Dataset, root: Path, found: Decoded, signature: Any = None) -> dict[str, Any]:
    """Writes decoded images as the file of `dataset`; returns its metadata."""
    from safetensors.numpy import save_file

    about = {
        "title": found.title,
        "classes": list(found.classes),
        "images": {part: len(labels) for part, (_, labels) in found.parts.items()},
        "digests": {part: content_digest(*arrays) for part, arrays in found.parts.items()},
        "sources": signature,
        "version": VERSION,
        "notes": dict(found.notes),
    }
    tensors = {}
    for part, (images, labels) in found.parts.items():
        tensors[f"{part}_images"], tensors[f"{part}_labels"] = images, labels
    with atomic_path(cache_path(dataset.info.name, root)) as temporary:
        # one entry, because safetensors does not keep the order of several
        save_file(tensors, temporary, {"about": json.dumps(about)})
    return about
