"""The evaluations by name. Each sees every batch once (`update`) and then says its numbers (`result`).

A pipeline adds its own by passing `stillpoint.core.evaluation.engine.evaluate` a mapping that extends `EVALUATIONS`.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.randomness import uniform_integers
from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.data.sets import FolderSet, ImageSet, sample
from stillpoint.core.data.shifts import crop_window, fourier_shift, roll
from stillpoint.core.metrics import Tally, Values, agreement, relative_logit_change, topk_correct

Result = dict[str, float | Tensor]


class View:
    """One batch as an evaluation sees it: normalised images on the device, and the network.

    images (B, C, H, W), labels (B,), indices (B,) numbers of the images in their set, on the CPU. `predict` maps
    images to float32 logits. `progress` is for an evaluation that takes long within one batch. `wide` (B, C, H', W') is
    the larger crop whose middle `images` are, where EVALUATE.MARGIN asks for one, or the padded images they are random
    windows of, where AUGMENT.CANVAS_PADDING does. It is batch `step` of `steps`. `image_set` is where `indices` point,
    for an evaluation that makes views of the images as they were stored. `root` is the folder of the data, for one
    that needs other images besides; none: the usual one.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        predict: Callable[[Tensor], Tensor],
        progress: Callable[[str, int, int], None] = lambda what, done, total: None,
        *,
        wide: Tensor | None = None,
        step: int = 0,
        steps: int = 1,
        image_set: ImageSet | FolderSet | None = None,
        root: Path | str | None = None,
    ) -> None:
        self.image_set, self.root = image_set, root
        self.images, self.labels, self.indices = images, labels, indices
        self.predict, self.progress = predict, progress
        self.wide, self.step, self.steps = wide, step, steps

    def sample(self, limit: int | None) -> Tensor:
        """Places in the batch of the images, `limit` of the whole set, that a measurement too dear for all looks at."""
        if limit is None:
            return torch.arange(len(self.indices))
        chosen = torch.arange(limit) if self.image_set is None else sample(self.image_set.labels, limit)
        return torch.isin(self.indices, chosen).nonzero().flatten()

    @cached_property
    def logits(self) -> Tensor:
        """(B, K) of the images as they are, computed once for all evaluations."""
        return self.predict(self.images)


class Evaluation(Protocol):
    """Made by a factory ``(config, seed)``."""

    def update(self, view: View) -> None: ...

    def result(self) -> Result:
        """Floats, fractions in [0, 1], and tensors for maps over shifts. Names start with the evaluation's."""
        ...


class Accuracy:
    """Top-1 accuracy with its standard error, and top-5 where there are at least 10 classes, on unshifted images."""

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.k: tuple[int, ...] = ()
        self.tallies: list[Tally] = []

    def update(self, view: View) -> None:
        if not self.tallies:
            self.k = (1, 5) if view.logits.shape[1] >= 10 else (1,)
            self.tallies = [Tally() for _ in self.k]
        for tally, right in zip(self.tallies, topk_correct(view.logits, view.labels, self.k).unbind(1), strict=True):
            tally.update(right)

    def result(self) -> Result:
        top1 = self.tallies[0]
        found: Result = {"accuracy": top1.mean, "accuracy_standard_error": top1.standard_error}
        if len(self.tallies) > 1:
            found["accuracy_top5"] = self.tallies[1].mean
        return found


class ShiftPairs:
    """Two shifts of each image per repeat, each axis uniform in -MAX_SHIFT..MAX_SHIFT-1 pixels: do both get one class?

    MAX_SHIFT at half of an image's size is every circular shift, as Zhang shifts CIFAR-10's.

    `kind` is "circular" (roll; Zhang 2019, section 4; APS section 5) or "crop" (two windows of the image's own size
    out of the normalised image padded by MAX_SHIFT zeros, APS's standard consistency). `alter` changes the images
    first; results are then of the changed images, and their accuracy is told too.
    """

    def __init__(
        self,
        config: EvaluateConfig,
        seed: int,
        *,
        name: str = "circular",
        kind: str = "circular",
        alter: Callable[[View, int], Tensor] | None = None,
    ) -> None:
        if kind not in ("circular", "crop"):
            raise ValueError(f"kind must be circular or crop, not {kind!r}")
        self.name, self.kind, self.alter, self.seed = name, kind, alter, seed
        self.max_shift, self.repeats = config.max_shift, config.repeats
        self.right, self.pairs, self.unshifted = Tally(), Tally(config.repeats), Tally(2 * config.repeats)
        self.changes = Values()

    def update(self, view: View) -> None:
        images, logits = view.images, view.logits
        if self.alter is not None:
            images = self.alter(view, self.seed)
            logits = view.predict(images)
            self.right.update(topk_correct(logits, view.labels)[:, 0])
        padded = F.pad(images, (self.max_shift,) * 4) if self.kind == "crop" else images
        pairs, kept = [], []
        for repeat in range(self.repeats):
            key = (self.name, self.seed, repeat)
            drawn = uniform_integers(view.indices, -self.max_shift, self.max_shift, 4, *key).to(images.device)
            first, second = (view.predict(self._move(padded, drawn[:, k : k + 2], images)) for k in (0, 2))
            pairs.append(agreement(first, second))
            kept += [agreement(logits, first), agreement(logits, second)]
            self.changes.update(relative_logit_change(logits, first))
            self.changes.update(relative_logit_change(logits, second))
        self.pairs.update(torch.stack(pairs, 1))
        self.unshifted.update(torch.stack(kept, 1))

    def _move(self, padded: Tensor, shifts: Tensor, images: Tensor) -> Tensor:
        if self.kind == "circular":
            return roll(padded, shifts)
        return crop_window(padded, self.max_shift + shifts, (images.shape[2], images.shape[3]))

    def result(self) -> Result:
        found: Result = {} if self.alter is None else {"accuracy": self.right.mean}
        found |= {
            "consistency": self.pairs.mean,
            "consistency_standard_error": self.pairs.standard_error,
            "unshifted_consistency": self.unshifted.mean,
            "max_logit_change": self.changes.max,
            "mean_logit_change": self.changes.mean,
        }
        return {f"{self.name}_{key}": value for key, value in found.items()}


def half_turn(view: View, seed: int) -> Tensor:
    """Both axes reversed: what the APS code calls vertical flips is a rotation by 180 degrees."""
    return view.images.flip(2, 3)


def erased(images: Tensor, corners: Tensor, side: int) -> Tensor:
    """A `side` x `side` square of zeros in each image (B, C, H, W), its top left pixel at `corners` (B, 2)."""
    corners = corners.to(images.device)
    row, column = (torch.arange(n, device=images.device) - corners[:, k, None] for k, n in enumerate(images.shape[2:]))
    inside = ((row >= 0) & (row < side))[:, :, None] & ((column >= 0) & (column < side))[:, None, :]
    return images.masked_fill(inside[:, None], 0)


def erase_anywhere(view: View, seed: int, *, side: int) -> Tensor:
    """A square erased at a place drawn for each image, uniform over all that lie within it."""
    height, width = view.images.shape[2:]
    if side > min(height, width):
        raise UserError(f"a square of {side} pixels does not fit images of {height}x{width}: change EVALUATE.ERASE")
    rows = uniform_integers(view.indices, 0, height - side + 1, 1, "erase rows", seed, side)
    columns = uniform_integers(view.indices, 0, width - side + 1, 1, "erase columns", seed, side)
    return erased(view.images, torch.cat([rows, columns], 1), side)


class Together:
    """Several evaluations under one name, such as one for each side of the erased square."""

    def __init__(self, parts: Sequence[Evaluation]) -> None:
        self.parts = parts

    def update(self, view: View) -> None:
        for part in self.parts:
            part.update(view)

    def result(self) -> Result:
        return {key: value for part in self.parts for key, value in part.result().items()}


def erase(config: EvaluateConfig, seed: int) -> Evaluation:
    """Circular pairs on images with an erased square, for each side in ``EVALUATE.ERASE``: ``erase5_consistency``."""
    if not config.erase:
        raise UserError("the evaluation erase needs sides of squares: set EVALUATE.ERASE")
    sides = {side: partial(erase_anywhere, side=side) for side in config.erase}
    return Together([ShiftPairs(config, seed, name=f"erase{side}", alter=alter) for side, alter in sides.items()])


class AllShifts:
    """Every H x W circular shift of a sample of LIMIT_ALL_SHIFTS images.

    An image is right in the worst case only if it is right at every shift. Batches are filled with (image, shift)
    pairs, so that few images are no slower per view than many.
    """

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.limit, self.batch_size = config.limit_all_shifts, config.batch_size
        self.images = 0
        self.worst, self.kept_always, self.changes = Tally(), Tally(), Values()
        self.right: Tensor | None = None
        self.kept: Tensor | None = None
        self.largest: Tensor | None = None

    def update(self, view: View) -> None:
        rows = view.sample(self.limit)
        count = len(rows)
        if count == 0:
            return
        images, labels, logits = (whole[rows.to(whole.device)] for whole in (view.images, view.labels, view.logits))
        height, width = images.shape[2:]
        right, kept, change = [], [], []
        shifts = torch.cartesian_prod(torch.arange(height), torch.arange(width)).to(images.device)  # (S, 2)
        total = len(shifts) * count
        for start in range(0, total, self.batch_size):
            view.progress("all shifts", start, total)
            pair = torch.arange(start, min(start + self.batch_size, total), device=images.device)
            image, shift = pair % count, shifts[pair // count]
            moved = view.predict(roll(images[image], shift))
            right.append(topk_correct(moved, labels[image])[:, 0])
            kept.append(agreement(logits[image], moved))
            change.append(relative_logit_change(logits[image], moved))
        view.progress("all shifts", total, total)
        rights, keeps, changes = (torch.cat(part).view(-1, count) for part in (right, kept, change))  # (S, count)
        self.worst.update(rights.all(0))
        self.kept_always.update(keeps.all(0))
        self.changes.update(changes)
        sums = [part.sum(1).view(height, width) for part in (rights, keeps)]
        largest = changes.amax(1).view(height, width)
        if self.right is None or self.kept is None or self.largest is None:
            self.right, self.kept, self.largest = sums[0], sums[1], largest
        else:
            self.right, self.kept = self.right + sums[0], self.kept + sums[1]
            self.largest = torch.maximum(self.largest, largest)
        self.images += count

    def result(self) -> Result:
        if self.right is None or self.kept is None or self.largest is None:
            raise ValueError("all_shifts has seen no image")
        views = self.images * self.right.numel()
        return {
            "all_shifts_images": float(self.images),
            "all_shifts_mean_accuracy": int(self.right.sum()) / views,
            "all_shifts_worst_accuracy": self.worst.mean,
            "all_shifts_consistency": int(self.kept.sum()) / views,
            "all_shifts_always_consistent": self.kept_always.mean,
            "all_shifts_max_logit_change": self.changes.max,
            "all_shifts_mean_logit_change": self.changes.mean,
            "all_shifts_accuracy_map": (self.right.double() / self.images).float().cpu(),  # (H, W)
            "all_shifts_consistency_map": (self.kept.double() / self.images).float().cpu(),
            "all_shifts_logit_change_map": self.largest.float().cpu(),
        }


class Fractional:
    """Circular shifts by k/FRACTIONS of a pixel on both axes, k = 1..FRACTIONS, by trigonometric interpolation.

    The last one is the whole pixel. Numbers are over all fractions but that; the curves hold all of them.
    """

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.fractions = config.fractions
        self.kept = [Tally() for _ in range(self.fractions)]
        self.changes = [Values() for _ in range(self.fractions)]

    def update(self, view: View) -> None:
        for k, (kept, changes) in enumerate(zip(self.kept, self.changes, strict=True), start=1):
            shift = k / self.fractions
            moved = view.predict(fourier_shift(view.images, (shift, shift)))
            kept.update(agreement(view.logits, moved))
            changes.update(relative_logit_change(view.logits, moved))

    def result(self) -> Result:
        inner = self.kept[:-1]
        return {
            "fractional_consistency": sum(t.successes for t in inner) / sum(t.images for t in inner),
            "fractional_worst_consistency": min(tally.mean for tally in inner),
            "fractional_max_logit_change": max(values.max for values in self.changes[:-1]),
            "fractional_consistency_curve": torch.tensor([tally.mean for tally in self.kept]),  # (FRACTIONS,)
            "fractional_logit_change_curve": torch.tensor([values.max for values in self.changes]),
            "fractional_mean_logit_change_curve": torch.tensor([values.mean for values in self.changes]),
        }


#: name -> factory (config, seed) -> Evaluation
EVALUATIONS: dict[str, Callable[[EvaluateConfig, int], Evaluation]] = {
    "accuracy": Accuracy,
    "circular": ShiftPairs,
    "crop": partial(ShiftPairs, name="crop", kind="crop"),
    "erase": erase,
    "flips": partial(ShiftPairs, name="flips", alter=half_turn),
    "all_shifts": AllShifts,
    "fractional": Fractional,
}
