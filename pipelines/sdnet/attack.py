"""The evaluation "attack": projected gradient descent, with attack and defence at chosen lambdas."""

from typing import Any

import torch
from torch import Tensor

from stillpoint.core.base.randomness import generator
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.evaluation.attack import Norm, pgd, project
from stillpoint.core.evaluation.registry import Result, View
from stillpoint.pipelines.sdnet.pixels import Pixels
from stillpoint.pipelines.sdnet.tallies import Tallies
from stillpoint.pipelines.sdnet.views import chosen, first_layer, network


class Attack:
    """Accuracy under projected gradient descent in both norms, with attack and defence at one lambda, in eval mode.

    ``attack_<norm>_accuracy`` is at the lambda of training. The maps hold for each lambda the accuracy without an
    attack, under an attack made at that lambda, and under one made at the lambda of training, which overstates
    robustness.
    """

    NORMS: tuple[Norm, ...] = ("linf", "l2")

    def __init__(self, config: Any, seed: int, *, run: RunConfig) -> None:
        self.config, self.seed, self.pixels, self.tallies = config, seed, Pixels.of(run), Tallies()
        self.lambdas: list[float] = []

    def update(self, view: View) -> None:
        rows = chosen(view, self.config.limit_attack)
        if not len(rows):
            return
        layer, labels = first_layer(view), view.labels[rows]
        images = self.pixels.scaled(view.images[rows]).clamp(0, 1)
        self.lambdas = [] if layer is None else [layer.penalty, *self.config.attack_lambdas]
        for norm in self.NORMS:
            for value in self.lambdas or [0.0]:
                before = layer.penalty if layer is not None else 0.0
                if layer is not None:
                    layer.penalty = value
                try:
                    logits = view.predict(self.pixels.normalised(images))
                    self.tallies.update((norm, "none", value), logits, labels)
                    found = self._attacked(view, images, labels, view.indices[rows], norm)
                    if value == (self.lambdas or [0.0])[0]:
                        fixed = found
                    self.tallies.update((norm, "same", value), view.predict(self.pixels.normalised(found)), labels)
                    self.tallies.update((norm, "fixed", value), view.predict(self.pixels.normalised(fixed)), labels)
                finally:
                    if layer is not None:
                        layer.penalty = before

    def _attacked(self, view: View, images: Tensor, labels: Tensor, indices: Tensor, norm: Norm) -> Tensor:
        net, radius = network(view), self.config.attack_linf / 255 if norm == "linf" else self.config.attack_l2
        frozen = [parameter for parameter in net.parameters() if parameter.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(False)
        shape = images.shape[1:]
        draws = [torch.randn(shape, generator=generator("attack", norm, self.seed, int(n))) for n in indices]
        # projected to the sphere, or to a corner of the box
        start = project(torch.stack(draws).to(images) * 1e3, norm, radius)
        view.progress(f"attack, {norm}", 0, 1)
        try:
            return pgd(
                lambda pixels: net(self.pixels.normalised(pixels)),
                *(images, labels),
                norm=norm,
                radius=radius,
                steps=self.config.attack_steps,
                start=start,
            )
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    def compute(self) -> Result:
        first = (self.lambdas or [0.0])[0]
        found: Result = {f"attack_{norm}_accuracy": self.tallies.mean(norm, "same", first) for norm in self.NORMS}
        if self.lambdas:
            found["attack_lambdas"] = torch.tensor(self.lambdas, dtype=torch.float64)
            for norm in self.NORMS:
                rows = [[self.tallies.mean(norm, how, v) for v in self.lambdas] for how in ("none", "same", "fixed")]
                found[f"attack_{norm}_curves"] = torch.tensor(rows)  # (3, lambdas)
        return found
