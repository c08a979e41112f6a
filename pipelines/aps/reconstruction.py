"""The evaluations of the U-Nets: quality of the reconstruction, and whether it moves with its input.

Source: Chaman and Dokmanic, arXiv 2105.04040. Decibels are capped at `FINEST`: a difference below float32's resolution
counts as that resolution, so that exact equality has a finite value.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from stillpoint.core.base.randomness import generator, uniform_integers
from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.data.shifts import roll
from stillpoint.core.evaluation.registry import Evaluation, Result, View
from stillpoint.core.metrics import nmse, psnr, ssim
from stillpoint.core.metrics.accumulate import Values

#: PSNR in dB of a difference as small as float32's resolution
FINEST = -20 * math.log10(torch.finfo(torch.float32).eps)


def decibels(target: Tensor, output: Tensor) -> Tensor:
    """`stillpoint.core.metrics.psnr` of each image, at most `FINEST`: (B, C, H, W) -> (B,)."""
    return psnr(target, output).clamp(max=FINEST)


class Quality:
    """NMSE, PSNR in dB and SSIM of the reconstruction against the target, means over images."""

    MEASURES: tuple[tuple[str, Callable[[Tensor, Tensor], Tensor]], ...] = (
        ("nmse", nmse),
        ("psnr", decibels),
        ("ssim", ssim),
    )

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.values = {name: Values() for name, _ in self.MEASURES}

    def update(self, view: View) -> None:
        for name, measure in self.MEASURES:
            self.values[name].update(measure(view.labels, view.logits))

    def compute(self) -> Result:
        return {f"reconstruction_{name}": values.mean for name, values in self.values.items()}


class Equivariance:
    """Whether the reconstruction moves with its input: roll(f(x), s) against f(roll(x, s)), by NMSE, PSNR and SSIM.

    Each image has REPEATS shifts s, each axis uniform in -MAX_SHIFT..MAX_SHIFT-1, functions of (seed, image, repeat).
    With targets, ``psnr_change`` is an image's largest |PSNR(f(x)) - PSNR(f(roll(x, s)))| over its shifts, averaged
    over images. `alter` replaces the inputs, which then have no targets.
    """

    def __init__(
        self,
        config: EvaluateConfig,
        seed: int,
        *,
        name: str = "equivariance",
        alter: Callable[[View, int], Tensor] | None = None,
    ) -> None:
        self.name, self.alter, self.seed = name, alter, seed
        self.max_shift, self.repeats = config.max_shift, config.repeats
        self.values = {measure: Values() for measure, _ in Quality.MEASURES}
        self.changes = Values()

    def update(self, view: View) -> None:
        inputs, outputs = view.images, view.logits
        if self.alter is not None:
            inputs = self.alter(view, self.seed)
            outputs = view.predict(inputs)
        before = decibels(view.labels, outputs) if self.alter is None else None
        changes = []
        for repeat in range(self.repeats):
            key = (self.name, self.seed, repeat)
            shifts = uniform_integers(view.indices, -self.max_shift, self.max_shift, 2, *key).to(inputs.device)
            moved, expected = view.predict(roll(inputs, shifts)), roll(outputs, shifts)
            for measure, function in Quality.MEASURES:
                self.values[measure].update(function(expected, moved))
            if before is not None:
                changes.append((decibels(roll(view.labels, shifts), moved) - before).abs())
        if changes:
            self.changes.update(torch.stack(changes).amax(0))

    def compute(self) -> Result:
        found: Result = {measure: values.mean for measure, values in self.values.items()}
        if self.alter is None:
            found["psnr_change"] = self.changes.mean
        return {f"{self.name}_{key}": value for key, value in found.items()}


def half_turn(view: View, seed: int) -> Tensor:
    """The input turned by 180 degrees."""
    return view.images.flip(2, 3)


def noisy(view: View, seed: int) -> Tensor:
    """The input plus white noise of half its own standard deviation."""
    return view.images + 0.5 * view.images.std((1, 2, 3), keepdim=True) * white_noise(view, seed)


def white_noise(view: View, seed: int) -> Tensor:
    """White noise without an image, a function of (seed, image)."""
    shape = view.images.shape[1:]
    drawn = [torch.randn(shape, generator=generator("white noise", seed, int(index))) for index in view.indices]
    return torch.stack(drawn).to(view.images)


#: evaluations by name; the last three use inputs unlike those of training
EVALUATIONS: dict[str, Callable[[EvaluateConfig, int], Evaluation]] = {
    "reconstruction": Quality,
    "equivariance": Equivariance,
    "equivariance_half_turn": partial(Equivariance, name="equivariance_half_turn", alter=half_turn),
    "equivariance_noisy": partial(Equivariance, name="equivariance_noisy", alter=noisy),
    "equivariance_white_noise": partial(Equivariance, name="equivariance_white_noise", alter=white_noise),
}
