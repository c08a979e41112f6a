"""The paper's measurements on ImageNet: windows in a larger crop, the diagonal sweep, internal feature distance.

The images of a view are the central windows; the larger crop is `View.wide` (256 pixels for windows of 224). If
``EVALUATE.MARGIN`` is 0 it is the image itself with its border replicated by MAX_SHIFT pixels.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from stillpoint.core.backbones.backbone import Backbone
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.modes import evaluating
from stillpoint.core.config.schema import EvaluateConfig, RunConfig
from stillpoint.core.data.shifts import crop_window, roll
from stillpoint.core.evaluation.registry import EVALUATIONS, Evaluation, Result, View
from stillpoint.core.evaluation.windows import Windows, wide_images
from stillpoint.core.layers.downsample import Downsample
from stillpoint.core.metrics import agreement
from stillpoint.pipelines.blurpool.config import Model


class AuthorsWindows:
    """Consistency of windows as in the authors' code: a pair of corners per batch, REPEATS passes, NumPy's RandomState.

    Zhang's generator is unseeded, ours has the seed 0; that of Zou et al. has 7. Draws run through the batches of one
    pass before the next, so the result depends on EVALUATE.BATCH_SIZE: Zhang's is 8.
    """

    def __init__(self, config: EvaluateConfig, seed: int, *, start: int = 0) -> None:
        self.repeats, self.max_shift = config.repeats, config.max_shift
        self.random, self.offsets = np.random.RandomState(start), np.zeros((0, 2, 2), dtype=np.int64)
        self.correct = self.images = 0

    def update(self, view: View) -> None:
        wide, positions = wide_images(view, self.max_shift)
        size = (view.images.shape[2], view.images.shape[3])
        if not len(self.offsets):
            # all passes are drawn at once, because here the loop over passes is inside that over batches
            self.offsets = np.stack(
                [self.random.randint(positions, size=2) for _ in range(2 * self.repeats * view.steps)]
            ).reshape(self.repeats * view.steps, 2, 2)
        for repeat in range(self.repeats):
            corners = self.offsets[repeat * view.steps + view.step]
            first, second = (view.predict(crop_window(wide, corner.tolist(), size)) for corner in corners)
            self.correct += int(agreement(first, second).sum())
            self.images += len(first)

    def compute(self) -> Result:
        return {"windows_consistency": self.correct / self.images}


class Diagonal:
    """The probability of the true class while the window moves along the diagonal (Zhang 2019, figure 1).

    Stores the curves of every image, (images, positions) in [0, 1]; `stability` is one minus the mean absolute step of
    the probability from one position to the next, and `always_right` the fraction of images that are correct at every
    position.
    """

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.max_shift, self.limit = config.max_shift, config.limit_all_shifts
        self.curves: dict[str, list[Tensor]] = {"probability": [], "runner_up": [], "correct": [], "predicted": []}
        self.images = 0

    def update(self, view: View) -> None:
        rows = view.sample(self.limit)
        if len(rows) == 0:
            return
        wide, positions = wide_images(view, self.max_shift)
        wide, labels = (whole[rows.to(whole.device)] for whole in (wide, view.labels))
        found = diagonal_sweep(view.predict, wide, labels, view.images.shape[2], positions + 1)
        for name, curve in found.items():
            self.curves[name].append(curve.cpu())
        self.images += len(rows)

    def compute(self) -> Result:
        curves = {name: torch.cat(parts) for name, parts in self.curves.items()}
        return {
            "diagonal_images": float(self.images),
            "diagonal_stability": 1 - float(curves["probability"].diff(dim=1).abs().mean()),
            "diagonal_accuracy": float(curves["correct"].double().mean()),
            "diagonal_always_right": float(curves["correct"].all(1).double().mean()),
            **{f"diagonal_{name}": curve.float() for name, curve in curves.items()},
        }


def diagonal_sweep(
    predict: Callable[[Tensor], Tensor], wide: Tensor, labels: Tensor, size: int, positions: int
) -> dict[str, Tensor]:
    """Predictions for windows of images (N, C, H, W) with top left corners (o, o), o = 0..positions-1.

    Each result is (N, positions):
    probability   of the label, in [0, 1]
    runner_up     the largest probability of another class
    correct       whether the label is predicted
    predicted     the predicted class
    """
    columns: dict[str, list[Tensor]] = {"probability": [], "runner_up": [], "correct": [], "predicted": []}
    for offset in range(positions):
        chances = predict(wide[:, :, offset : offset + size, offset : offset + size]).double().softmax(1)
        own = chances.gather(1, labels[:, None])
        predicted = chances.argmax(1)
        columns["probability"].append(own[:, 0])
        columns["runner_up"].append(chances.scatter(1, labels[:, None], -1.0).amax(1))
        columns["correct"].append(predicted == labels)
        columns["predicted"].append(predicted)
    return {name: torch.stack(parts, 1) for name, parts in columns.items()}


@torch.no_grad()
def feature_distance(predict: Callable[[Tensor], Tensor], images: Tensor, max_shift: int = 8) -> dict[str, Tensor]:
    """Internal feature distance: how far internal maps are from moving with the input (Zhang 2019).

    predict       a network, or a callable that holds one as `net`
    images        (B, C, H, W)

    Returns for each layer that a backbone names and each slot of `net` a map (max_shift + 1, max_shift + 1) over
    circular shifts (rows, columns): the mean cosine distance, in [0, 2], of shift(F(x)) and F(shift(x)), both upsampled
    to the input's resolution by repeating pixels. It is 0 everywhere for a shift-equivariant layer, and at multiples of
    t for any layer of cumulative stride t. ValueError without a network; `UserError` for one without such layers or
    slots.
    """
    net = predict if isinstance(predict, nn.Module) else getattr(predict, "net", None)
    if not isinstance(net, nn.Module):
        raise ValueError("feature_distance needs a network or a callable that holds one as `net`")
    kept: dict[str, Tensor] = {}
    layers = net.parts().layers if isinstance(net, Backbone) else ()

    def keep(name: str, output: Tensor | tuple[Tensor, ...]) -> None:
        y = output[0] if isinstance(output, tuple) else output
        if y.ndim == 4:
            # a copy, because an in-place ReLU overwrites the previous layer's map
            kept[name] = _directions(y)

    handles = [
        module.register_forward_hook(lambda m, i, o, name=name: keep(name, o))
        for name, module in net.named_modules()
        if isinstance(module, Downsample) or name in layers
    ]
    try:
        with evaluating(net):
            net(images)
            still = dict(kept)
            if not still:
                raise UserError(
                    f"feature_distance finds no named layer or slot in {type(net).__name__}: leave it out of "
                    "EVALUATE.METRICS"
                )
            maps = {name: torch.zeros(max_shift + 1, max_shift + 1, dtype=torch.float64) for name in still}
            for dh in range(max_shift + 1):
                for dw in range(max_shift + 1):
                    kept.clear()
                    net(roll(images, (dh, dw)))
                    for name, reference in still.items():
                        size = (images.shape[2], images.shape[3])
                        maps[name][dh, dw] = _distance(reference, kept[name], (dh, dw), size)
    finally:
        for handle in handles:
            handle.remove()
    return maps


def _directions(y: Tensor) -> Tensor:
    """The channel vectors of (B, C, h, w), normalised to length 1; zero vectors stay zero."""
    length = torch.linalg.vector_norm(y, dim=1, keepdim=True)
    return y / length.masked_fill(length == 0, 1)


def _distance(still: Tensor, moved: Tensor, shift: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Mean cosine distance of two maps of directions, the first shifted by `shift` at the input's resolution `size`.

    Upsampled maps have few distinct pairs of rows and of columns, so each pair is compared once and weighted by its
    frequency. The cosine distance is half the squared difference of two directions, exactly 0 for equal ones; a
    direction and a zero vector have distance 1, like orthogonal ones.
    """
    (old_rows, new_rows, by_row), (old_columns, new_columns, by_column) = (
        _pairs(full, still.shape[axis], by, still.device) for axis, full, by in zip((2, 3), size, shift, strict=True)
    )
    a, b = still[:, :, old_rows][..., old_columns], moved[:, :, new_rows][..., new_columns]
    distance = (a - b).square().sum(1) / 2  # (B, rows, columns)
    lone = (a == 0).all(1) ^ (b == 0).all(1)
    weights = by_row[:, None] * by_column
    return (distance.double().masked_fill(lone, 1) * weights).sum() / (len(a) * weights.sum())


def _pairs(full: int, small: int, shift: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Along an axis of `full` pixels: (positions in the unshifted map, in the shifted map, frequency of each pair)."""
    pixel = torch.arange(full, device=device)
    both = torch.stack([(pixel - shift) % full * small // full, pixel * small // full])
    places, counts = both.unique(dim=1, return_counts=True)
    return places[0], places[1], counts.double()


class FeatureDistance:
    """`feature_distance` on a sample of LIMIT_ALL_SHIFTS images, for shifts of 0..2 MAX_SHIFT pixels on each axis.

    Maps are named ``feature_distance_map:<place>:<layer>``, with the layer's place in the network; the number
    ``feature_distance_deepest`` is the mean over shifts and images at the deepest layer.
    """

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.reach, self.limit = 2 * config.max_shift, config.limit_all_shifts
        self.sums: dict[str, Tensor] = {}
        self.images = 0

    def update(self, view: View) -> None:
        rows = view.sample(self.limit)
        count = len(rows)
        if count == 0:
            return
        for name, found in feature_distance(view.predict, view.images[rows.to(view.images.device)], self.reach).items():
            self.sums[name] = self.sums.get(name, 0) + count * found
        self.images += count

    def compute(self) -> Result:
        maps = {name: total / self.images for name, total in self.sums.items()}
        deepest = list(maps.values())[-1]
        shifts = deepest.numel() - 1  # the zero shift always has distance 0
        named = {f"feature_distance_map:{k:02d}:{name}": grid.float() for k, (name, grid) in enumerate(maps.items())}
        return {
            "feature_distance_images": float(self.images),
            "feature_distance_deepest": float(deepest.sum()) / shifts,
            **named,
        }


def evaluations(config: RunConfig) -> Mapping[str, Callable[[EvaluateConfig, int], Evaluation]]:
    """Core's evaluations and the paper's, under the protocol of a configuration."""
    windows: Callable[[EvaluateConfig, int], Evaluation] = Windows
    if config.evaluate.protocol == "authors":
        adaptive = isinstance(config.model, Model) and config.model.downsample == "adaptive_blur"
        windows = partial(AuthorsWindows, start=7) if adaptive else AuthorsWindows
    return {**EVALUATIONS, "windows": windows, "diagonal": Diagonal, "feature_distance": FeatureDistance}
