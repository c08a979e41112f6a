"""The evaluation "corruptions": noise, blur, weather and compression, at three of their five severities."""

import torch

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.data.corruptions import BENCHMARK, corrupt
from stillpoint.core.data.sets import FolderSet, ImageSet
from stillpoint.core.evaluation.view import ALONE, Result, View
from stillpoint.core.metrics import topk_correct
from stillpoint.core.metrics.accumulate import Tally

#: of the benchmark's severities 1 to 5
SEVERITIES = (1, 3, 5)


class Corruptions:
    """The error on LIMIT_DEAR images under the 15 common corruptions (Hendrycks and Dietterich, ICLR 2019).

    ``corruption_error`` is the mean over corruptions and severities 1, 3 and 5; ``corruption_error_<name>`` that of one
    corruption. A grey image is corrupted as a colour image with three equal channels; the first is kept.
    Photographs are corrupted as the network sees them, resized and cropped.
    """

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.limit, self.seed = config.limit_dear, seed
        self.right = {name: Tally(**ALONE) for name in BENCHMARK}
        self.whole = Tally(**ALONE)

    def update(self, view: View) -> None:
        rows = view.sample(self.limit)
        if len(rows) == 0:
            return
        normalise = view.normalise
        if not isinstance(view.image_set, ImageSet | FolderSet) or normalise is None:
            raise UserError("the evaluation corruptions needs stored pixels: evaluate a registered data set")
        numbers, labels = view.indices[rows], view.labels[rows.to(view.labels.device)]
        pixels = _pixels(view, rows)  # (n, C, S, S)
        colours = pixels.shape[1]
        given = pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
        columns = []
        for number, name in enumerate(BENCHMARK):
            view.progress("corruptions", number, len(BENCHMARK))
            own = []
            for severity in SEVERITIES:
                made = corrupt(given, name, severity, indices=numbers.numpy(), seed=self.seed)
                changed = torch.from_numpy(made).permute(0, 3, 1, 2)[:, :colours].contiguous()
                logits = view.predict(normalise(changed.to(view.images.device)))
                own.append(topk_correct(logits, labels)[:, 0])
            self.right[name].count(torch.stack(own, 1))
            columns += own
        self.whole.count(torch.stack(columns, 1))

    def compute(self) -> Result:
        return {
            "corruption_images": float(int(self.whole.images)),
            "corruption_error": 1 - self.whole.mean,
            "corruption_error_standard_error": self.whole.standard_error,
            **{f"corruption_error_{name}": 1 - tally.mean for name, tally in self.right.items()},
        }


def _pixels(view: View, rows: torch.Tensor) -> torch.Tensor:
    """The pixels of images, uint8 on the CPU; photographs are not decoded again: their normalisation is undone."""
    if isinstance(view.image_set, ImageSet):
        return view.image_set.images[view.indices[rows]]
    assert view.normalise is not None
    images = view.images[rows.to(view.images.device)]
    ends = torch.tensor([0, 255], dtype=torch.uint8, device=images.device).view(2, 1, 1, 1)
    # normalising is affine in each channel, so two pixels determine it
    low, high = view.normalise(ends.expand(2, images.shape[1], 1, 1)).unbind(0)
    return ((images - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8).cpu()
