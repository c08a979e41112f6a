"""The paper's evaluations: ten crops, divergence and flip rates over shifts, flip rates over perturbed videos.

The shifted views are cut from the stored images at `divide` times the resolution (`data.shifted_crops`). Like the
authors, "shifts" shows them to the network without the normalisation of training; "shifts_normalised" normalises them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.data.batched_crops import shifted_crops_batch, ten_crops_batch
from stillpoint.core.data.formats import decode_image
from stillpoint.core.data.sets import FolderSet, ImageSet
from stillpoint.core.data.shifted_crops import crops_at, shift_offsets, ten_crops
from stillpoint.core.evaluation.registry import EVALUATIONS, Evaluation, Result, View
from stillpoint.core.metrics import topk_correct
from stillpoint.core.metrics.accumulate import Tally, Values
from stillpoint.core.metrics.divergence import shift_divergence
from stillpoint.core.metrics.flip_rate import flips
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.wavelet_twins.config import Evaluate
from stillpoint.pipelines.wavelet_twins.perturbations import Perturbations
from stillpoint.pipelines.wavelet_twins.scores import write_scores

__all__ = ["Shifts", "TenCrops", "evaluations", "measured"]

#: photographs whose views are in memory at once
_PHOTOGRAPHS = 16
#: the authors resize to 256 for crops of 224, and to 36 for crops of 32
_TEN_CROPS = (256, 224)

Normalise = Callable[[Tensor], Tensor]


def _scaled(pixels: Tensor) -> Tensor:
    return pixels.float() / 255


def _normalised(pixels: Tensor, *, mean: Sequence[float] | None, std: Sequence[float] | None, view: View) -> Tensor:
    found = _stored(view)
    centre, spread = (
        torch.tensor(values, dtype=torch.float32, device=pixels.device)[:, None, None]
        for values in (mean or found.mean, std or found.std)
    )
    return (_scaled(pixels) - centre) / spread


def _stored(view: View) -> ImageSet | FolderSet:
    if view.image_set is None:
        raise UserError("this evaluation needs stored images: evaluate a registered data set")
    return view.image_set


class TenCrops:
    """Accuracy of the mean probability over ten normalised crops: corners, centre and their mirror images."""

    def __init__(
        self, config: Evaluate, seed: int, *, mean: Sequence[float] | None, std: Sequence[float] | None
    ) -> None:
        self.mean, self.std = mean, std
        self.k: tuple[int, ...] = ()
        self.tallies: list[Tally] = []

    def update(self, view: View) -> None:
        total: Tensor | None = None
        for pixels in self._views(view):
            images = _normalised(pixels.to(view.images.device), mean=self.mean, std=self.std, view=view)
            # in float64, so that rounding of the sum does not decide between two classes
            chances = view.predict(images).double().softmax(1)
            total = chances if total is None else total + chances
        assert total is not None
        if not self.tallies:
            self.k = (1, 5) if total.shape[1] >= 10 else (1,)
            self.tallies = [Tally() for _ in self.k]
        for tally, right in zip(self.tallies, topk_correct(total, view.labels, self.k).unbind(1), strict=True):
            tally.update(right)

    def _views(self, view: View) -> Iterator[Tensor]:
        stored, size = _stored(view), view.images.shape[-1]
        resize = size * _TEN_CROPS[0] // _TEN_CROPS[1]
        if isinstance(stored, ImageSet):
            yield from ten_crops_batch(stored.images[view.indices], size, resize=resize)
        else:
            paths = [stored.paths[index] for index in view.indices.tolist()]
            yield from torch.stack([ten_crops(decode_image(Path(p), p), size, resize=resize) for p in paths], 1)

    def compute(self) -> Result:
        names = ("tencrops_accuracy", "tencrops_accuracy_top5")
        return {name: tally.mean for name, tally in zip(names, self.tallies, strict=False)}


class Shifts:
    """Divergence of every shift from the unshifted image, and how often the class flips from one shift to another.

    For each direction: ``kl_<direction>_curve`` (nats, mean over images, first shift zero), its mean over the other
    shifts ``kl_<direction>``, its value at one pixel ``kl_<direction>_pixel``; ``mfr_<direction>_curve`` for steps of 1
    pixel, 2, ..., its mean ``mfr_<direction>`` and its first value ``mfr_<direction>_step1``. For the direction "all"
    the curve is a map (vertical, horizontal), and flips are counted along each axis and together. ``shifts_accuracy``
    is that of the first view for the flip rates: a network that predicts one class for all images never flips.
    """

    def __init__(
        self,
        config: Evaluate,
        seed: int,
        *,
        prefix: str = "",
        normalise: Callable[[Tensor, View], Tensor] | None = None,
    ) -> None:
        self.config, self.prefix, self.normalise = config, prefix, normalise
        self.divergence: dict[str, list[Values]] = {}
        self.flipped: dict[str, list[Tally]] = {}
        self.images = 0
        self.right = Tally()

    def update(self, view: View) -> None:
        rows = view.sample(self.config.limit_shifts)
        stored = _stored(view)
        group = _PHOTOGRAPHS if isinstance(stored, FolderSet) else max(len(rows), 1)
        for some in rows.split(group) if len(rows) else ():
            self._measure(view, view.indices[some], view.labels[some.to(view.labels.device)])
        self.images += len(rows)

    def _measure(self, view: View, indices: Tensor, labels: Tensor) -> None:
        config = self.config
        fine = self._predict(view, indices, config.kl_shift, config.kl_divide)
        coarse = self._predict(view, indices, config.flip_shift, 1)
        self.right.update(topk_correct(coarse[0, 0], labels)[:, 0])
        for direction in config.directions:
            offsets = shift_offsets(direction, config.kl_shift * config.kl_divide)
            moved = shift_divergence(torch.stack([fine[offset].double() for offset in offsets], 1))  # (B, S)
            sums = self.divergence.setdefault(direction, [Values() for _ in offsets])
            for values, column in zip(sums, moved.unbind(1), strict=True):
                values.update(column)
            for step, flipped in enumerate(self._flips(coarse, direction), 1):
                tallies = self.flipped.setdefault(direction, [])
                if len(tallies) < step:
                    tallies.append(Tally())
                tallies[step - 1].update(flipped)

    def _flips(self, logits: Mapping[tuple[int, int], Tensor], direction: str) -> Iterator[Tensor]:
        """Yields for each step the flips (B, pairs) along the lines of a direction."""
        most = self.config.flip_shift
        if direction == "all":
            rows = [[(v, h) for h in range(most + 1)] for v in range(most + 1)]
            lines = [*rows, *map(list, zip(*rows, strict=True))]
        else:
            lines = [shift_offsets(direction, most)]  # type: ignore[arg-type]
        classes = [torch.stack([logits[offset].argmax(1) for offset in line], 1) for line in lines]
        for step in range(1, most + 1):
            yield torch.cat([flips(line, step) for line in classes], 1)

    def _predict(self, view: View, indices: Tensor, most: int, divide: int) -> dict[tuple[int, int], Tensor]:
        """Logits of the views at every shift that a direction needs, each computed once."""
        directions = self.config.directions
        needed = {offset for direction in directions for offset in shift_offsets(direction, most * divide)}
        # sorted so that offsets with the same horizontal shift are adjacent
        offsets = sorted(needed, key=lambda offset: (offset[1], offset[0]))
        logits = {}
        for number, (offset, pixels) in enumerate(
            zip(offsets, self._views(view, indices, offsets, most, divide), strict=True)
        ):
            view.progress(f"{self.prefix}shifts by 1/{divide} pixel", number, len(offsets))
            pixels = pixels.to(view.images.device)
            logits[offset] = view.predict(_scaled(pixels) if self.normalise is None else self.normalise(pixels, view))
        return logits

    @staticmethod
    def _views(
        view: View, indices: Tensor, offsets: Sequence[tuple[int, int]], most: int, divide: int
    ) -> Iterator[Tensor]:
        stored, size = _stored(view), view.images.shape[-1]
        if isinstance(stored, ImageSet):
            pixels = stored.images[indices].to(view.images.device)
            yield from shifted_crops_batch(pixels, size, offsets, max_shift=most, divide=divide)
        else:
            paths = [stored.paths[index] for index in indices.tolist()]
            options = {"max_shift": most, "divide": divide}
            yield from torch.stack([crops_at(decode_image(Path(p), p), size, offsets, **options) for p in paths], 1)

    def compute(self) -> Result:
        if not self.images:
            raise ValueError("shifts has seen no image")
        found: Result = {
            f"{self.prefix}shifts_images": float(self.images),
            f"{self.prefix}shifts_accuracy": self.right.mean,
        }
        side = self.config.kl_shift * self.config.kl_divide + 1
        for direction in self.config.directions:
            start = f"{self.prefix}%s_{direction}"
            curve = torch.tensor([values.mean for values in self.divergence[direction]], dtype=torch.float64)
            found[start % "kl"] = float(curve[1:].mean())
            found[start % "mfr"] = sum(tally.mean for tally in self.flipped[direction]) / len(self.flipped[direction])
            if direction != "all":
                found[start % "kl" + "_pixel"] = float(curve[self.config.kl_divide])
                found[start % "mfr" + "_step1"] = self.flipped[direction][0].mean
            found[start % "kl" + "_curve"] = curve if direction != "all" else curve.view(side, side)
            found[start % "mfr" + "_curve"] = torch.tensor([tally.mean for tally in self.flipped[direction]])
        return found


def evaluations(config: RunConfig) -> Mapping[str, Callable[..., Evaluation]]:
    """Core's evaluations and the paper's, which draw nothing, so that every protocol is the authors'."""
    data = config.data
    statistics = {"mean": data.mean, "std": data.std}

    def normalise(pixels: Tensor, view: View) -> Tensor:
        return _normalised(pixels, view=view, **statistics)  # type: ignore[arg-type]

    return {
        **EVALUATIONS,
        "tencrops": partial(TenCrops, **statistics),  # type: ignore[arg-type]
        "shifts": Shifts,
        "shifts_normalised": partial(Shifts, prefix="normalised_", normalise=normalise),
        "perturbations": partial(Perturbations, **statistics),  # type: ignore[arg-type]
    }


def measured(config: RunConfig, run: Run) -> None:
    """Adds the run's metrics to its scores.json."""
    write_scores(config, run)
