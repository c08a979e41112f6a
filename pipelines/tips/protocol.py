"""The authors' evaluation: two shifts of each kind for a whole batch, and unweighted means over batches."""

from collections.abc import Callable, Iterable

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.layers.translation_losses import Shift, shift_features
from stillpoint.core.metrics.accuracy import topk_correct
from stillpoint.core.metrics.fidelity import all_agree


def draw(random: np.random.RandomState, largest: Shift) -> Shift:
    """Draws a shift (rows, columns), each uniform in -largest..largest, rows first."""
    down, right = (int(random.randint(-m, m + 1)) for m in largest)
    return down, right


def batch_shifts(random: np.random.RandomState, largest: Shift) -> list[Shift]:
    """Draws the five shifts of a batch: an unused one, two standard ones, two circular ones."""
    return [draw(random, largest) for _ in range(5)]


def evaluate(
    net: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    largest: Shift,
    random: np.random.RandomState,
) -> dict[str, float]:
    """The measures of the paper's code over batches of (images, labels), in percent, and the loss.

    acc1, acc5      accuracy of the unshifted images, weighted by batch size, like the loss
    s_cons, c_cons  images with one class under two standard (or circular) shifts
    s_stab, c_stab  images that also have that class unshifted, whatever their labels. In the paper's table "stability"
                    is the product of accuracy and consistency, `shift_fidelity`
    """
    sums = {"loss": 0.0, "acc1": 0.0, "acc5": 0.0}
    shares: dict[str, list[float]] = {name: [] for name in ("s_cons", "s_stab", "c_cons", "c_stab")}
    images = 0
    for x, labels in batches:
        _, *drawn = batch_shifts(random, largest)
        logits = net(x)
        still = logits.argmax(1)
        for kind, pair in (("standard", drawn[:2]), ("circular", drawn[2:])):
            first, second = (net(shift_features(x, shift=shift, kind=kind)).argmax(1) for shift in pair)
            shares[f"{kind[0]}_cons"].append(float(all_agree([first, second]).double().mean()))
            shares[f"{kind[0]}_stab"].append(float(all_agree([still, first, second]).double().mean()))
        images += len(labels)
        sums["loss"] += float(F.cross_entropy(logits, labels, reduction="sum"))
        best, among_five = (100 * float(part.sum()) for part in topk_correct(logits, labels, (1, 5)).T)
        sums["acc1"] += best
        sums["acc5"] += among_five
    means = {name: value / images for name, value in sums.items()}
    return means | {name: 100 * float(np.mean(values)) for name, values in shares.items()}
