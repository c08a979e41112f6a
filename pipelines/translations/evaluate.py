"""The lesson's measurements: consistency under translation, confusions, and images that maximise classes and neurons.

Images of a view are random windows of larger canvases (`View.wide`): translation is part of the data, also in testing.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.randomness import uniform_integers
from stillpoint.core.config.schema import EvaluateConfig, RunConfig
from stillpoint.core.data.shifts import crop_window
from stillpoint.core.evaluation.maximise import class_images, neuron_images, strongest_pair_share
from stillpoint.core.evaluation.registry import EVALUATIONS, Evaluation, Result, View
from stillpoint.core.metrics import agreement, topk_correct
from stillpoint.core.metrics.accumulate import Tally

#: Images of each class in the grid of samples.
SAMPLES = 4


class Translated:
    """Whether two translations of an image get the same class, and the correct one; REPEATS pairs for each image.

    Translations are uniform over all offsets, functions of (seed, image, repeat).
    """

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.seed, self.repeats = seed, config.repeats
        self.pairs, self.right = Tally(), Tally()

    def update(self, view: View) -> None:
        wide, size = _canvas(view), (view.images.shape[2], view.images.shape[3])
        places = [wide.shape[2] - size[0] + 1, wide.shape[3] - size[1] + 1]
        same, right = [], []
        for repeat in range(self.repeats):
            drawn = [
                uniform_integers(view.indices, 0, count, 2, "translated", axis, self.seed, repeat)
                for axis, count in enumerate(places)
            ]  # rows and columns, each (B, 2 windows)
            corners = torch.stack(drawn, 2).to(wide.device)  # (B, 2 windows, 2 axes)
            first, second = (view.predict(crop_window(wide, corners[:, k], size)) for k in (0, 1))
            same.append(agreement(first, second))
            right += [topk_correct(logits, view.labels)[:, 0] for logits in (first, second)]
        self.pairs.update(torch.stack(same, 1))
        self.right.update(torch.stack(right, 1))

    def compute(self) -> Result:
        return {
            "translated_accuracy": self.right.mean,
            "translated_consistency": self.pairs.mean,
            "translated_consistency_standard_error": self.pairs.standard_error,
        }


class Confusion:
    """The confusion matrix, a map (K, K) with true classes in rows and predictions in columns."""

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.counts: Tensor | None = None

    def update(self, view: View) -> None:
        classes = view.logits.shape[1]
        pairs = view.labels * classes + view.logits.argmax(1)
        counts = torch.bincount(pairs, minlength=classes * classes).view(classes, classes)
        self.counts = counts if self.counts is None else self.counts + counts

    def compute(self) -> Result:
        if self.counts is None:
            raise ValueError("confusion has seen no image")
        return {"confusion_counts": self.counts.cpu()}


class Samples:
    """The first images of each class as the network sees them, a map (K, 4, H, W); missing images are zeros."""

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.grid: Tensor | None = None
        self.found: list[int] = []

    def update(self, view: View) -> None:
        if self.grid is None:
            classes = view.logits.shape[1]
            self.grid = view.images.new_zeros(classes, SAMPLES, *view.images.shape[2:])
            self.found = [0] * classes
        if min(self.found) == SAMPLES:
            return
        for image, label in zip(view.images, view.labels.tolist(), strict=True):
            if self.found[label] < SAMPLES:
                self.grid[label, self.found[label]] = image.mean(0)
                self.found[label] += 1

    def compute(self) -> Result:
        if self.grid is None:
            raise ValueError("samples has seen no image")
        return {"samples_grid": self.grid.float().cpu()}


class Maximisers:
    """The image that maximises each class, and each neuron of the first linear layer (see `maximise`).

    ``maximisers_stripes`` is the fraction of a neuron image's spectral energy in its strongest pair of frequencies, 1
    for a pure stripe, averaged over neurons; ``maximisers_class_losses`` (K,) and ``..._probabilities`` (K, K) are
    those of the class images.
    """

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.net: nn.Module | None = None
        self.shape: tuple[int, ...] = ()

    def update(self, view: View) -> None:
        # the network itself, because the ascent needs gradients
        self.net, self.shape = getattr(view.predict, "net", None), tuple(view.images.shape[1:])
        self.device = view.images.device

    def compute(self) -> Result:
        if self.net is None:
            raise ValueError("maximisers needs the network itself, not only its predictions")
        wanted = class_images(self.net, self.shape, device=self.device)
        neurons = neuron_images(self.net, self.shape, device=self.device)
        shares = strongest_pair_share(neurons.mean(1))
        return {
            "maximisers_stripes": float(shares.mean()),
            "maximisers_class_images": wanted.images.mean(1).cpu(),  # (K, H, W)
            "maximisers_class_losses": wanted.losses.cpu(),
            "maximisers_class_probabilities": wanted.probabilities.cpu(),
            "maximisers_neuron_images": neurons.mean(1).cpu(),  # (N, H, W)
            "maximisers_neuron_shares": shares.cpu(),
        }


def _canvas(view: View) -> Tensor:
    if view.wide is None:
        raise UserError("the evaluation translated needs images on a larger canvas: set AUGMENT.CANVAS_PADDING")
    return view.wide


def evaluations(config: RunConfig) -> Mapping[str, Callable[[EvaluateConfig, int], Evaluation]]:
    """Core's evaluations and the lesson's."""
    own: dict[str, Any] = {
        "translated": Translated,
        "confusion": Confusion,
        "samples": Samples,
        "maximisers": Maximisers,
    }
    return {**EVALUATIONS, **own}
