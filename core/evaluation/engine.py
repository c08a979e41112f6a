"""Measures a network on a data set: all requested evaluations in one pass over the images.

Each batch is read and transferred once; its shifted views are made on the device. Draws are a function of (seed, image,
repeat) and sums are exact (`metrics.accumulate`), so results depend on the batch size only through the network's
rounding: a convolution may sum in another order for another batch size, which can flip the argmax of nearly equal
logits, and alters logit changes by about 1e-7.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stillpoint.core.base.errors import UserError, nearest
from stillpoint.core.base.modes import evaluating, weights_fixed
from stillpoint.core.base.progress import OnProgress
from stillpoint.core.base.words import counted
from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.data.loading import Batch, DeviceLoader
from stillpoint.core.data.sets import ImageSet
from stillpoint.core.evaluation.networks import callable_of
from stillpoint.core.evaluation.registry import EVALUATIONS
from stillpoint.core.evaluation.view import Evaluation, View
from stillpoint.core.metrics.outputs import Output, logits_of

#: name -> factory (config, seed) -> Evaluation
Evaluations = Mapping[str, Callable[[EvaluateConfig, int], Evaluation]]


class Loader(Protocol):
    """What `evaluate` reads: `stillpoint.core.data.loading.DeviceLoader` and `StreamLoader` implement it."""

    def epoch(self, epoch: int) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...


class Predictor:
    """Images (B, C, H, W) -> float32 logits (B, K), without gradients; remembers whether images and logits were finite.

    net           an nn.Module, scripted, exported (`torch.export`) or not, or any other function of images
    maps          the network should return images, as when the targets are images
    labels        (N,) class numbers that its logits must cover
    output        where the logits are in its output (`stillpoint.core.metrics.outputs.logits_of`)
    preprocess    applied to images before `net`, if given

    Raises ValueError for a network that returns no logits, or those of a single class.
    """

    def __init__(
        self,
        net: nn.Module | Callable[..., Any],
        *,
        precision: str = "float32",
        channels_last: bool = False,
        maps: bool = False,
        labels: Tensor | None = None,
        output: Output | None = None,
        preprocess: Callable[[Tensor], Any] | None = None,
    ) -> None:
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be float32 or bfloat16, not {precision!r}")
        self.net, self.precision, self.output, self.preprocess = net, precision, output, preprocess
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        # changes strides, not values; torch would otherwise convert the filters in every forward
        if channels_last and isinstance(net, nn.Module):
            net.to(memory_format=torch.channels_last)
        self.maps, self.highest = maps, -1 if labels is None or not len(labels) else int(labels.max())
        self.images = 0
        self._call = callable_of(net)
        self._finite: Tensor | None = None

    def __call__(self, images: Tensor) -> Tensor:
        device = images.device.type
        autocast = torch.autocast(device, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()
        with torch.inference_mode(), autocast:
            seen = images.contiguous(memory_format=self.memory_format)
            output = self._call(seen if self.preprocess is None else self.preprocess(seen))
            logits = self._checked(logits_of(output, self.output), len(images)).float()
            finite = logits.isfinite().all()
            if images.is_floating_point():  # rectifiers may turn the NaN of an image into 0
                finite = finite & images.isfinite().all()
            self._finite = finite if self._finite is None else self._finite & finite
        self.images += len(images)
        return logits

    @property
    def finite(self) -> bool:
        return self._finite is None or bool(self._finite)

    def _checked(self, output: Tensor, count: int) -> Tensor:
        if self.maps:
            return output
        shape = tuple(output.shape)
        if output.ndim > 2:
            raise ValueError(
                f"the network returns maps {shape[1:]}, not one logit per class, so there are no predictions to "
                "compare: use measure_maps, or stillpoint explain to see how its modules move"
            )
        if output.ndim < 2 or shape[0] != count:
            raise ValueError(f"the network returns {shape} for {counted(count, 'image')}, not logits ({count}, K)")
        if shape[1] < 2:
            raise ValueError(f"the network returns logits {shape}, but at least 2 classes are needed")
        if self.highest >= shape[1]:
            raise ValueError(
                f"label {self.highest} is not a class of the network, whose classes are 0 to {shape[1] - 1}"
            )
        return output


def chosen(names: tuple[str, ...], known: Mapping[str, Any]) -> list[str]:
    """The requested evaluations, each once and in the given order; `UserError` for an unknown one."""
    for name in names:
        if name not in known:
            raise UserError(f"unknown evaluation {name!r}: choose from {', '.join(known)}{nearest(name, list(known))}")
    return list(dict.fromkeys(names))


def evaluate(
    net: nn.Module,
    data: Loader | ImageSet,
    config: EvaluateConfig,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    evaluations: Evaluations = EVALUATIONS,
    precision: str = "float32",
    channels_last: bool = False,
    progress: OnProgress | None = None,
) -> dict[str, float | Tensor]:
    """Runs the evaluations named by ``config.metrics`` and returns their results in one flat dictionary.

    net            images (B, C, H, W) -> logits (B, K), already on `device`; in eval mode during the call
    data           a loader that does not shuffle, or an `ImageSet` (then read in batches of ``config.batch_size``)
    seed           of the random shifts
    evaluations    by name; a pipeline adds its own to core's, or replaces them under ``config.protocol`` "authors"
    precision      "bfloat16" runs the network under autocast; metrics always see float32 logits

    Numbers are floats (fractions in [0, 1]); maps over shifts are tensors. Raises `UserError` for an unknown name, no
    images, and logits that are not finite, whose argmax would be perfectly consistent.
    """
    predict = Predictor(net, precision=precision, channels_last=channels_last)
    if isinstance(data, ImageSet):
        data = DeviceLoader(data, config.batch_size, device=device, channels_last=channels_last)
    return one_pass(predict, data, config, seed, evaluations, progress)


def one_pass(
    predict: Predictor,
    loader: Loader,
    config: EvaluateConfig,
    seed: int,
    evaluations: Evaluations,
    progress: OnProgress | None,
    root: Path | str | None = None,
) -> dict[str, float | Tensor]:
    """`evaluate` with a given `Predictor` and loader; `root` is passed to the evaluations."""
    names = chosen(config.metrics, evaluations)
    running = [evaluations[name](config, seed) for name in names]
    report = progress or (lambda what, done, total: None)
    seen = 0
    with evaluating(predict.net), weights_fixed():
        for batch in loader.epoch(0):
            report("images", batch.step, len(loader))
            if not len(batch.images):
                continue
            predict.maps = batch.labels.ndim > 1
            images, wide, margin = batch.images, None, config.margin
            if margin:
                wide = images
                first, height, width = margin // 2, images.shape[2] - margin, images.shape[3] - margin
                images = wide[:, :, first : first + height, first : first + width]
            elif isinstance(loader, DeviceLoader):
                wide = loader.canvas(batch.indices)
            indices, steps = batch.indices.cpu(), len(loader)
            more: dict[str, Any] = {
                "wide": wide,
                "step": batch.step,
                "steps": steps,
                "image_set": getattr(loader, "image_set", None),
                "normalise": getattr(loader, "normalise", None),
            }
            view = View(images, batch.labels, indices, predict, report, root=root, **more)
            for evaluation in running:
                evaluation.update(view)
            seen += len(batch.images)
    if not seen:
        raise UserError("there are no images to evaluate")
    if not predict.finite:
        raise UserError("the images or the network's logits are not finite (NaN or infinity): it cannot be evaluated")
    report("images", len(loader), len(loader))
    results: dict[str, float | Tensor] = {}
    for evaluation in running:
        results |= evaluation.compute()
    return results
