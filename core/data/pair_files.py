"""Data sets of image pairs (input, target) prepared by the user: ``<root>/<name>/{train,test}.safetensors``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillpoint.core.base.documents import read_json
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import digest
from stillpoint.core.base.progress import OnProgress
from stillpoint.core.config.catalogue import DatasetInfo, missing
from stillpoint.core.data.contract import Dataset, HeldOut, signature_of

if TYPE_CHECKING:
    from stillpoint.core.data.pairs import PairSet

PARTS = ("train", "test")
_FILES = (
    "put train.safetensors and test.safetensors into {{root}}/{name}, each with tensors input and target, float32 "
    "(N, 1, {size}, {size}); pipelines/aps/README.md shows how they are made"
)


def pair_info(name: str, title: str, size: int, files: str = _FILES) -> DatasetInfo:
    """The catalogue's entry for a set of pairs: one channel, no classes, no normalisation."""
    return DatasetInfo(name, title, 0, 1, size, (0.0,), (1.0,), 0, files.format(name=name, size=size), pairs=True)


class PairFiles(Dataset):
    """A data set of pairs in one memory-mapped file for each part."""

    def __init__(self, info: DatasetInfo) -> None:
        self.info = info

    def prepare(self, root: Path, progress: OnProgress, *, links: bool = False) -> dict[str, Any]:
        if links:
            raise UserError(f"{self.info.title} has no photographs to link: leave out --links")
        return self.describe(root)

    def load(self, root: Path, split: str, held_out: HeldOut) -> "PairSet":
        from stillpoint.core.data.pairs import PairSet, mapped

        self.named(split, held_out)
        part = "test" if split == "test" else "train"
        about = self.describe(root, (part,))
        whole = PairSet(*mapped(self.path(root, part)), about["title"], about["digests"][part])
        return whole if part == "test" or not held_out.size else whole.held_out(held_out, split == "val")

    def signature(self, root: Path) -> list[list[Any]] | None:
        return signature_of(root, *(self.path(root, part) for part in PARTS))

    def path(self, root: Path, part: str) -> Path:
        return root / self.info.name / f"{part}.safetensors"

    def describe(self, root: Path, parts: tuple[str, ...] = PARTS) -> dict[str, Any]:
        """Title, number of pairs and digest of each of `parts`; a file is checked again only if it changed."""
        from stillpoint.core.data.pairs import check_values, mapped

        known = _known(root / "prepared" / f"{self.info.name}.json")
        counts, digests, signature, sizes = {}, {}, {}, set()
        for part in parts:
            path = self.path(root, part)
            if not path.is_file():
                raise missing(self.info.name, root, f" ({path} not found)")
            inputs, targets = mapped(path)
            counts[part] = len(targets)
            sizes.add(tuple(targets.shape[2:]))
            stat = path.stat()
            signature[part] = [stat.st_size, stat.st_mtime_ns]
            if known.get(part, ([], ""))[0] == signature[part]:
                digests[part] = known[part][1]
            else:
                check_values(path, inputs, targets)
                digests[part] = digest(path)
        other = [f"{h}x{w}" for h, w in sorted(sizes) if (h, w) != (self.info.size, self.info.size)]
        title = f"{self.info.title} ({', '.join(other)})" if other else self.info.title
        content = {"title": title, "classes": 0, "images": counts, "digests": digests}
        return {**content, "sources": signature, "version": _VERSION}


#: version of the checks; files accepted by an earlier one are checked again
_VERSION = 2


def _known(marker: Path) -> dict[str, tuple[list[int], str]]:
    """Part -> (size and time, digest) of the files in a marker."""
    try:
        found = read_json(marker, of=dict)
        if found["version"] != _VERSION:
            return {}
        return {part: (found["sources"][part], found["digests"][part]) for part in found["digests"]}
    except (UserError, TypeError, KeyError):
        return {}
