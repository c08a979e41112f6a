"""The evaluation "all_shifts": every circular shift of some images."""

import torch
from torch import Tensor

from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.evaluation.spread import Spread
from stillpoint.core.evaluation.view import ALONE, Result, View
from stillpoint.core.metrics import agreement, relative_logit_change, topk_correct
from stillpoint.core.metrics.accumulate import Tally
from stillpoint.core.metrics.accuracy_metrics import WorstShiftAccuracy
from stillpoint.core.metrics.shift_metrics import LogitChange
from stillpoint.core.metrics.views import every_shift


class AllShifts:
    """Every H x W circular shift of a sample of LIMIT_ALL_SHIFTS images.

    An image counts as correct in the worst case only if it is correct at every shift.
    """

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.limit, self.batch_size = config.limit_all_shifts, config.batch_size
        self.images = 0
        self.worst, self.kept_always, self.changes = WorstShiftAccuracy(**ALONE), Tally(**ALONE), LogitChange(**ALONE)
        self.share = Spread()
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
        total, done = height * width * count, 0
        right, kept, change = [], [], []
        for image, shifted in every_shift(images, self.batch_size):
            view.progress("all shifts", done, total)
            moved = view.predict(shifted)
            right.append(topk_correct(moved, labels[image])[:, 0])
            kept.append(agreement(logits[image], moved))
            change.append(relative_logit_change(logits[image], moved))
            done += len(image)
        view.progress("all shifts", total, total)
        rights, keeps, changes = (torch.cat(part).view(-1, count) for part in (right, kept, change))  # (S, count)
        self.worst.count(rights.all(0))
        self.kept_always.count(keeps.all(0))
        self.changes.take(changes)
        self.share.take(keeps.T.double())
        sums = [part.sum(1).view(height, width) for part in (rights, keeps)]
        largest = changes.amax(1).view(height, width)
        if self.right is None or self.kept is None or self.largest is None:
            self.right, self.kept, self.largest = sums[0], sums[1], largest
        else:
            self.right, self.kept = self.right + sums[0], self.kept + sums[1]
            self.largest = torch.maximum(self.largest, largest)
        self.images += count

    def compute(self) -> Result:
        if self.right is None or self.kept is None or self.largest is None:
            raise ValueError("all_shifts has seen no image")
        views = self.images * self.right.numel()
        return {
            "all_shifts_images": float(self.images),
            "all_shifts_mean_accuracy": int(self.right.sum()) / views,
            "all_shifts_worst_accuracy": self.worst.mean,
            "all_shifts_consistency": int(self.kept.sum()) / views,
            "all_shifts_consistency_standard_error": self.share.standard_error,
            "all_shifts_always_consistent": self.kept_always.mean,
            "all_shifts_max_logit_change": self.changes.max,
            "all_shifts_mean_logit_change": self.changes.mean,
            "all_shifts_accuracy_map": (self.right.double() / self.images).float().cpu(),  # (H, W)
            "all_shifts_consistency_map": (self.kept.double() / self.images).float().cpu(),
            "all_shifts_logit_change_map": self.largest.float().cpu(),
        }
