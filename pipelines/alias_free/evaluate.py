"""The paper's adversarial grids as evaluations: fractions of images that are correct under every shift of a set.

With ``EVALUATE.PROTOCOL authors`` the crop windows omit offset 0 and translations are interpolated as in their code.
Their code draws some shifts at random for each batch; our grids always try every shift.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from torch import Tensor

from stillpoint.core.config.schema import RunConfig
from stillpoint.core.data.shifts import crop_window
from stillpoint.core.evaluation.registry import EVALUATIONS, Evaluation, Result, View
from stillpoint.core.evaluation.view import ALONE
from stillpoint.core.metrics.accuracy_metrics import WorstShiftAccuracy
from stillpoint.pipelines.alias_free import grids

#: images (n, C, H, W) and their positions in the batch -> the images after one shift
Move = Callable[[Tensor, Tensor], Tensor]


class Grid:
    """Fraction of images that are correct without a shift and under every shift of a set: ``<name>_accuracy``."""

    def __init__(self, name: str, limit: int) -> None:
        self.name, self.limit = name, limit
        self.stands = WorstShiftAccuracy(**ALONE)
        self.images = 0

    def moves(self, view: View) -> Iterable[Move]:
        raise NotImplementedError

    def begin(self, view: View, rows: Tensor) -> Tensor:
        """The images that count as unshifted."""
        return view.images[rows]

    def update(self, view: View) -> None:
        rows = view.sample(self.limit).to(view.images.device)
        if not len(rows):
            return
        images = self.begin(view, rows)
        labels = view.labels[rows]
        right = view.predict(images).argmax(1) == labels
        for done, move in enumerate(moves := list(self.moves(view))):
            view.progress(self.name.replace("_", " "), done, len(moves))
            (left,) = right.nonzero(as_tuple=True)
            if not len(left):
                break
            right[left] = view.predict(move(images[left], rows[left])).argmax(1) == labels[left]
        view.progress(self.name.replace("_", " "), len(moves), len(moves))
        self.stands.count(right)
        self.images += len(rows)

    def compute(self) -> Result:
        return {f"{self.name}_accuracy": self.stands.mean, f"{self.name}_images": float(self.images)}


class ShiftGrid(Grid):
    """Circular shifts, whole or fractional."""

    def __init__(self, name: str, limit: int, shifts: Iterable[grids.Shift]) -> None:
        super().__init__(name, limit)
        self.shifts = list(shifts)

    def moves(self, view: View) -> Iterable[Move]:
        return [partial(self._shifted, shift) for shift in self.shifts]

    @staticmethod
    def _shifted(shift: grids.Shift, images: Tensor, rows: Tensor) -> Tensor:
        return grids.shifted(images, shift)


class CropGrid(Grid):
    """Windows of a larger crop, up to `shift` pixels from its centre on each axis; the centre counts as unshifted."""

    def __init__(self, limit: int, shift: int, *, authors: bool) -> None:
        super().__init__("crop_grid", limit)
        self.shift, self.authors = shift, authors

    def moves(self, view: View) -> Iterable[Move]:
        wide, size = self._wide(view), view.images.shape[2:]
        top, left = ((w - s) // 2 for w, s in zip(wide.shape[2:], size, strict=True))
        # theirs start at 1 of 0..2m, so that the first window is missing
        steps = range(-self.shift + self.authors, self.shift + 1)
        offsets = [(top + a, left + b) for a in steps for b in steps if (a, b) != (0, 0)]
        return [partial(self._window, wide, at, (size[0], size[1])) for at in offsets]

    @staticmethod
    def _window(wide: Tensor, at: tuple[int, int], size: tuple[int, int], images: Tensor, rows: Tensor) -> Tensor:
        return crop_window(wide[rows], at, size)

    def _wide(self, view: View) -> Tensor:
        if view.wide is None:
            raise ValueError("crop_grid needs images with a margin: set EVALUATE.MARGIN")
        return view.wide


class TranslationGrid(Grid):
    """Translations by fractions of the side, with zeros entering and bilinear interpolation."""

    def __init__(self, limit: int, constraint: float, steps: int, *, authors: bool) -> None:
        super().__init__("translation_grid", limit)
        line = grids.translation_grid(constraint, steps)
        self.translations = [(a, b) for a in line for b in line]
        self.rule = "authors" if authors else "exact"

    def moves(self, view: View) -> Iterable[Move]:
        return [partial(self._translated, by) for by in self.translations]

    def _translated(self, by: grids.Shift, images: Tensor, rows: Tensor) -> Tensor:
        return grids.translate_bilinear(images, by, rule=self.rule)


def evaluations(config: RunConfig) -> Mapping[str, Callable[..., Evaluation]]:
    """Core's evaluations and the grids, which draw nothing and ignore the seed."""
    authors = config.evaluate.protocol == "authors"
    return {
        **EVALUATIONS,
        "integer_grid": lambda e, seed: ShiftGrid("integer_grid", e.limit_grids, grids.integer_grid(e.grid_shift)),
        "half_grid": lambda e, seed: ShiftGrid("half_grid", e.limit_grids, grids.half_grid(e.grid_shift)),
        "fraction_grid": lambda e, seed: ShiftGrid("fraction_grid", e.limit_grids, grids.fraction_grid(e.grid_factor)),
        "crop_grid": lambda e, seed: CropGrid(e.limit_grids, e.crop_shift, authors=authors),
        "translation_grid": lambda e, seed: TranslationGrid(
            e.limit_grids, e.translation, e.translation_steps, authors=authors
        ),
    }
