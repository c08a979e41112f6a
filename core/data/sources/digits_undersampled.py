"""Pairs of the digits, each as if measured in a quarter of its Fourier columns; no file is needed."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import digest_of
from stillpoint.core.base.progress import OnProgress
from stillpoint.core.data.contract import Dataset, HeldOut
from stillpoint.core.data.pair_files import PARTS, pair_info
from stillpoint.core.data.sources.digits import DATASET as DIGITS

if TYPE_CHECKING:
    from stillpoint.core.data.pairs import PairSet


class UndersampledDigits(Dataset):
    """Pairs made from the digits; their digest is a function of the digits' digest."""

    info = pair_info(
        "digits_undersampled",
        "Digits, a quarter of the Fourier columns measured",
        32,
        "nothing is needed: scikit-learn has the images",
    )

    def prepare(self, root: Path, progress: OnProgress, *, links: bool = False) -> dict[str, Any]:
        if links:
            raise UserError(f"{self.info.title} has no photographs to link: leave out --links")
        made = {part: self._made(root, part) for part in PARTS}
        counts = {part: len(found) for part, found in made.items()}
        digests = {part: found.digest for part, found in made.items()}
        return {"title": self.info.title, "classes": 0, "images": counts, "digests": digests}

    def signature(self, root: Path) -> list[list[Any]]:
        return DIGITS.signature(root)

    def load(self, root: Path, split: str, held_out: HeldOut) -> "PairSet":
        self.named(split, held_out)
        whole = self._made(root, "test" if split == "test" else "train")
        return whole if split == "test" or not held_out.size else whole.held_out(held_out, split == "val")

    def _made(self, root: Path, part: str) -> "PairSet":
        from stillpoint.core.data.pairs import undersample_images

        digits, name = DIGITS.part(root, part), self.info.name
        found = undersample_images(digits.images, f"{name} {part}")
        return replace(found, title=self.info.title, digest=digest_of([name, digits.digest]))


DATASET = UndersampledDigits()
