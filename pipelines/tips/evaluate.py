"""The paper's measurements: consistency and stability under two shifts of each kind, up to a quarter of the image.

Two shifts are drawn for every image and repeat; the authors' draws for a whole batch, and their means over batches, are
in `stillpoint.pipelines.tips.protocol`.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from stillpoint.core.base.randomness import uniform_integers
from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.data.shifts import roll
from stillpoint.core.evaluation import registry
from stillpoint.core.evaluation.registry import Evaluation, Result, View
from stillpoint.core.metrics import agreement
from stillpoint.core.metrics.accumulate import Tally
from stillpoint.core.metrics.fidelity import all_agree, shift_fidelity

KINDS = ("standard", "circular")


def moved(images: Tensor, shifts: Tensor, *, circular: bool) -> Tensor:
    """Images (B, C, H, W), each moved by its own shift (B, 2), circularly or with zeros entering."""
    rolled = roll(images, shifts)
    if circular:
        return rolled
    height, width = images.shape[2:]
    rows, columns = (torch.arange(n, device=images.device) for n in (height, width))
    down, right = shifts.to(images.device).unbind(1)
    kept = ((rows - down[:, None]) >= 0) & ((rows - down[:, None]) < height)
    also = ((columns - right[:, None]) >= 0) & ((columns - right[:, None]) < width)
    return rolled * (kept[:, None, :, None] & also[:, None, None, :])


class Fidelity:
    """For each kind of shift: the fraction of pairs with one class, the fraction that also has it unshifted (the code's
    stability), and accuracy times the first (the paper's table's stability)."""

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.seed, self.repeats = seed, config.repeats
        self.correct = Tally()
        self.pairs = {kind: Tally() for kind in KINDS}
        self.threes = {kind: Tally() for kind in KINDS}

    def update(self, view: View) -> None:
        reach = [side // 4 for side in view.images.shape[2:]]
        still = view.predict(view.images)
        self.correct.update((still.argmax(1) == view.labels)[:, None])
        for kind in KINDS:
            pairs, threes = [], []
            for repeat in range(self.repeats):
                drawn = [
                    uniform_integers(view.indices, -m, m + 1, 2, "fidelity", kind, self.seed, repeat, axis)
                    for axis, m in enumerate(reach)
                ]
                shifts = [torch.stack([axis[:, n] for axis in drawn], 1) for n in (0, 1)]
                circular = kind == "circular"
                first, second = (view.predict(moved(view.images, s, circular=circular)) for s in shifts)
                pairs.append(agreement(first, second))
                threes.append(all_agree([logits.argmax(1) for logits in (still, first, second)]))
            self.pairs[kind].update(torch.stack(pairs, 1))
            self.threes[kind].update(torch.stack(threes, 1))

    def compute(self) -> Result:
        found: Result = {}
        for kind in KINDS:
            consistency = float(self.pairs[kind].mean)
            found[f"{kind}_shift_consistency"] = consistency
            found[f"{kind}_shift_stability"] = float(self.threes[kind].mean)
            found[f"{kind}_shift_fidelity"] = shift_fidelity(float(self.correct.mean), consistency)
        return found


EVALUATIONS: Mapping[str, Callable[[EvaluateConfig, int], Evaluation]] = {
    **registry.EVALUATIONS,
    "fidelity": Fidelity,
}
