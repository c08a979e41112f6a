"""The evaluations "circular", "crop" and "flips": pairs of shifts of each image."""

from collections.abc import Callable

import torch
from torch import Tensor

from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.evaluation.spread import Spread, wide
from stillpoint.core.evaluation.view import ALONE, Result, View
from stillpoint.core.metrics import relative_logit_change
from stillpoint.core.metrics.accuracy_metrics import Accuracy
from stillpoint.core.metrics.divergence import kl_divergence
from stillpoint.core.metrics.shift_metrics import LogitChange, ShiftConsistency
from stillpoint.core.metrics.views import Boundary, shifted_pairs


class ShiftPairs:
    """Whether two random shifts of an image get the same class; REPEATS pairs for each image.

    Each axis of a shift is uniform in -MAX_SHIFT..MAX_SHIFT-1 pixels. A MAX_SHIFT of half the image's size covers every
    circular shift, as Zhang shifts CIFAR-10.

    The boundary is "circular" (roll; Zhang 2019, section 4; APS section 5) or "zeros" (two windows of the image's own
    size out of the normalised image padded by MAX_SHIFT zeros, APS's standard consistency). `alter` changes the images
    first; the results are then of the changed images, and include their accuracy.
    """

    def __init__(
        self,
        config: EvaluateConfig,
        seed: int,
        *,
        name: str = "circular",
        boundary: Boundary = "circular",
        alter: Callable[[View, int], Tensor] | None = None,
    ) -> None:
        self.name, self.alter, self.seed = name, alter, seed
        self.options = {"boundary": boundary, "max_shift": config.max_shift, "repeats": config.repeats, "name": name}
        self.right, self.pairs, self.unshifted = Accuracy(**ALONE), ShiftConsistency(**ALONE), ShiftConsistency(**ALONE)
        self.changes, self.change, self.divergence = LogitChange(**ALONE), Spread(), Spread()

    def update(self, view: View) -> None:
        images, logits = view.images, view.logits
        if self.alter is not None:
            images = self.alter(view, self.seed)
            logits = view.predict(images)
            self.right.update(logits, view.labels)
        firsts, seconds = [], []
        for first, second in shifted_pairs(images, view.indices, seed=self.seed, **self.options):  # type: ignore[arg-type]
            firsts.append(view.predict(first))
            seconds.append(view.predict(second))
        one, other = torch.stack(firsts, 1), torch.stack(seconds, 1)  # (B, repeats, K)
        shifted = torch.cat([one, other], 1)
        self.pairs.update(one, other)
        self.unshifted.update(logits[:, None].expand_as(shifted), shifted)
        self.changes.update(logits, shifted)
        views = shifted.unbind(1)
        self.change.take(torch.stack([relative_logit_change(logits, view) for view in views], 1))
        self.divergence.take(torch.stack([kl_divergence(wide(logits), wide(view)) for view in views], 1))

    def compute(self) -> Result:
        found: Result = {} if self.alter is None else {"accuracy": self.right.mean}
        found |= {
            "consistency": self.pairs.mean,
            "consistency_standard_error": self.pairs.standard_error,
            "unshifted_consistency": self.unshifted.mean,
            "max_logit_change": self.changes.max,
            "mean_logit_change": self.changes.mean,
            "mean_logit_change_standard_error": self.change.standard_error,
            "divergence": self.divergence.mean,  # nats, from the unshifted image
            "divergence_standard_error": self.divergence.standard_error,
        }
        return {f"{self.name}_{key}": value for key, value in found.items()}


def crop(config: EvaluateConfig, seed: int) -> ShiftPairs:
    """Windows of the padded images: ``crop_consistency``."""
    return ShiftPairs(config, seed, name="crop", boundary="zeros")


def half_turn(view: View, seed: int) -> Tensor:
    """Images with both axes reversed, a rotation by 180 degrees; the APS code calls them vertical flips."""
    return view.images.flip(2, 3)


def flips(config: EvaluateConfig, seed: int) -> ShiftPairs:
    """Circular pairs of images turned by 180 degrees: ``flips_consistency``."""
    return ShiftPairs(config, seed, name="flips", alter=half_turn)
