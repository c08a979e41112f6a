"""The evaluation "robustness": noise and common corruptions, at the lambda of training, the best one and the line's.

A plain ResNet has no lambda, and is measured once for each condition.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.catalogue import data_root
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.data.corruptions import BENCHMARK, NAMES, SEVERITIES, corrupt
from stillpoint.core.data.corruptions.prepare import FOLDER, caption, frost_folder, published
from stillpoint.core.data.sets import evenly, sample
from stillpoint.core.data.sources.cifar10_c import rows as cifar10_c_rows
from stillpoint.core.evaluation.registry import Result, View
from stillpoint.core.layers.sparse_coding import SparseCoding2d
from stillpoint.core.metrics.accumulate import Values
from stillpoint.core.metrics.corruption import mean_corruption_error
from stillpoint.pipelines.sdnet.pixels import Pixels
from stillpoint.pipelines.sdnet.robust import (
    CLEAN,
    NOISES,
    POOLED,
    Condition,
    Sweep,
    conditions,
    inference_penalty,
    loaded,
    noisy,
    part_of,
    reconstruction_errors,
    sweep,
)
from stillpoint.pipelines.sdnet.tallies import Tallies
from stillpoint.pipelines.sdnet.views import chosen, first_layer

#: the four noises of the paper's tables
PAPER_NOISES = ("gaussian_noise", "shot_noise", "speckle_noise", "impulse_noise")
#: tally at the lambda of training -> the one at the line's
BY_LINE = {"trained": "line", "levels": "levels_line"}
#: name of the tally, the condition, and the network's input
Shown = tuple[str, Condition, Tensor]


class Robustness:
    """Accuracy under the authors' noises and all 19 corruptions, with three choices of lambda.

    Lambda is that of training, the best one of each noise and level, or the one that the fitted line predicts for each
    condition without labels. The line's input is the mean error of a condition over at most LIMIT_SWEEP of its images,
    evenly spaced, since it was fitted on such means; no result depends on EVALUATE.BATCH_SIZE.

    Names: ``robustness_<corruption>_accuracy`` (mean of five severities) and ``..._error`` (mean corruption error, not
    normalised) at the lambda of training, ``robustness_line_...`` by the line, ``robustness_levels_...`` for the
    authors' own levels. Images of sizes without defined corruptions, such as 28 pixels, raise `UserError`.
    """

    def __init__(self, config: Any, seed: int, *, run: RunConfig) -> None:
        self.config, self.seed, self.run = config, seed, run
        self.pixels, self.tallies = Pixels.of(run), Tallies()
        self.sweep: Sweep | None = None
        self.by_line: dict[Condition, float] = {}
        self.prepared, self.photographs, self.images = True, True, 0
        self.published: set[str] = set()
        # functions that yield the conditions, and the largest number of images of each
        self.kinds: tuple[tuple[Callable[[View, Tensor], Iterator[Shown]], int | None], ...] = (
            (self._clean, None),
            (self._levels, config.limit_sweep),
            (self._corruptions, config.limit_corruptions),
        )

    def update(self, view: View) -> None:
        layer = first_layer(view)
        if layer is not None and self.sweep is None:
            device = view.images.device
            self.sweep = sweep(self.run, self.seed, layer, view.predict, view.root, device, view.progress)
            self.by_line = {one: self.sweep.penalty(error) for one, error in self._errors(layer, view).items()}
        self.images += len(chosen(view, self.config.limit_corruptions))
        for shown, limit in self.kinds:
            rows = chosen(view, limit)
            if not len(rows):
                continue
            labels = view.labels[rows]
            for how, condition, seen in shown(view, rows):
                logits = view.logits if seen is view.images else view.predict(seen)
                self.tallies.update((how, *condition), logits, labels)
                if layer is None or self.sweep is None:
                    continue
                with inference_penalty(layer, self.by_line[condition]):
                    self.tallies.update((BY_LINE[how], *condition), view.predict(seen), labels)
                if how == "levels":
                    with inference_penalty(layer, self.sweep.chosen[condition]):
                        self.tallies.update(("levels_chosen", *condition), view.predict(seen), labels)

    def _errors(self, layer: SparseCoding2d, view: View) -> dict[Condition, float]:
        """The mean reconstruction error of every condition, over images that do not depend on the batches."""
        found: dict[Condition, Values] = {}
        for shown, limit in self.kinds:
            for part in self._parts(view, limit):
                for _, condition, seen in shown(part, torch.arange(len(part.indices))):
                    found.setdefault(condition, Values()).update(reconstruction_errors(layer, seen))
        return {condition: values.mean for condition, values in found.items()}

    def _parts(self, view: View, limit: int | None) -> Iterator[View]:
        """At most LIMIT_SWEEP of the measured images, in batches."""
        if view.image_set is None:
            yield view
            return
        numbers = evenly(len(view.image_set), limit)
        numbers = numbers[evenly(len(numbers), self.config.limit_sweep)]
        for batch in loaded(self.run, view.image_set, numbers, view.images.device):
            about: dict[str, Any] = {"image_set": view.image_set, "root": view.root}
            yield View(batch.images, batch.labels, batch.indices, view.predict, view.progress, **about)

    def _clean(self, view: View, rows: Tensor) -> Iterator[Shown]:
        yield "trained", (CLEAN, 0.0), view.images

    def _levels(self, view: View, rows: Tensor) -> Iterator[Shown]:
        images, pictures = view.images[rows], self.pixels.stored(view.images[rows])
        # under the authors' protocol, the same noise on which lambda was chosen
        part = part_of(self.run) if self.run.evaluate.protocol == "authors" else "unseen"
        for condition in conditions(self.config.noise_levels)[1:]:
            changed = noisy(pictures, condition, view.indices[rows], part, self.seed)
            yield "levels", condition, self.pixels.seen(changed, images)

    def _corruptions(self, view: View, rows: Tensor) -> Iterator[Shown]:
        images, pictures = view.images[rows], self.pixels.stored(view.images[rows])
        for number, name in enumerate(NAMES):
            view.progress("corruptions", number, len(NAMES))
            for severity in SEVERITIES:
                changed = self._corrupted(name, severity, pictures, view, rows)
                yield "trained", (name, severity), self.pixels.seen(changed, images)

    def _corrupted(self, name: str, severity: int, pictures: np.ndarray, view: View, rows: Tensor) -> np.ndarray:
        """The corrupted images: for CIFAR-10 from the prepared or published files if present, otherwise generated."""
        root, indices = data_root(view.root), view.indices[rows].numpy()
        if self.run.data.name == "cifar10" and (root / FOLDER / f"{name}.npy").is_file():
            stored, labels = cifar10_c_rows(root, name)
            whole = len(stored) // len(SEVERITIES)
            # indices count the images within DATA.LIMIT, rows of the file those of the whole test set
            left = sample(torch.from_numpy(labels[:whole].astype(np.int64)), self.run.data.limit).numpy()
            places = left[indices.clip(max=len(left) - 1)] + (severity - 1) * whole
            if indices.max() >= len(left) or not np.array_equal(labels[places], view.labels[rows].cpu().numpy()):
                raise UserError(
                    f"{root / FOLDER} holds other images than the test images of {root}, or in another order: move it "
                    "away and generate it again with stillpoint prepare cifar10_c"
                )
            if severity == SEVERITIES[0] and name in published(root / FOLDER):
                self.published.add(name)
            if name == "frost":
                self.photographs = not caption(root / FOLDER).count("computed")
            return stored[places]
        self.prepared = False
        ice = frost_folder(root)
        self.photographs = self.photographs and ice is not None
        return corrupt(pictures, name, severity, indices=indices, seed=0, frost_folder=ice)

    def compute(self) -> Result:
        found: Result = {"robustness_images": float(self.images), "robustness_prepared": float(self.prepared)}
        found |= {
            "robustness_published": len(self.published) / len(NAMES),
            "robustness_photographs": float(self.photographs),
        }
        for how, start in (("trained", "robustness"), ("line", "robustness_line")):
            if how == "line" and self.sweep is None:
                continue
            means = {name: [self.tallies.mean(how, name, s) for s in SEVERITIES] for name in NAMES}
            errors = {name: [1 - accuracy for accuracy in row] for name, row in means.items()}
            found |= {f"{start}_{name}_accuracy": float(np.mean(row)) for name, row in means.items()}
            found[f"{start}_noises_accuracy"] = float(np.mean([means[name] for name in PAPER_NOISES]))
            found[f"{start}_error"] = mean_corruption_error({name: errors[name] for name in BENCHMARK})
            found[f"{start}_error_19"] = mean_corruption_error(errors)
            found[f"{start}_severities"] = torch.tensor([means[name] for name in NAMES])  # (19, 5)
            found[f"{start}_clean_accuracy"] = self.tallies.mean(how, CLEAN)
        for how in ("levels", "levels_chosen", "levels_line"):
            if how == "levels" or self.sweep is not None:
                found |= {f"robustness_{how}_{name}_accuracy": self.tallies.mean(how, name) for name in NOISES}
        return found | ({} if self.sweep is None else _sweep_results(self.sweep))


def _sweep_results(swept: Sweep) -> Result:
    lines = torch.tensor([swept.line(name) for name in (*NOISES, POOLED)], dtype=torch.float64)  # (5, 3)
    names = (CLEAN, *NOISES)
    places = [(names.index(name), level) for name, level in swept.conditions]
    return {
        "robustness_line_slope": float(lines[-1, 0]),
        "robustness_line_intercept": float(lines[-1, 1]),
        "robustness_line_r2": float(lines[-1, 2]),
        "robustness_sweep_accuracy": torch.from_numpy(swept.accuracy),  # (conditions, lambdas)
        "robustness_sweep_errors": torch.from_numpy(swept.errors),  # (conditions,)
        "robustness_sweep_conditions": torch.tensor(places, dtype=torch.float64),  # (conditions, 2): noise, level
        "robustness_sweep_lambdas": torch.tensor(swept.lambdas, dtype=torch.float64),
        "robustness_sweep_lines": lines,  # a row for each noise and one for all: slope, intercept, r2
    }
