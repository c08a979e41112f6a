"""Wavelet twins: a first layer of complex wavelet packets, whose modulus improves shift invariance."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from stillpoint.pipelines.paper import Paper
from stillpoint.pipelines.wavelet_twins.catalogue import configs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stillpoint.core.config.schema import EvaluateConfig, RunConfig
    from stillpoint.core.evaluation.registry import Evaluation
    from stillpoint.core.runs.layout import Run
    from stillpoint.core.training.train import TrainHooks
    from stillpoint.pipelines.paper import ModelEntry
    from stillpoint.pipelines.results import Shown

__all__ = ["PAPER", "configs"]


class WaveletTwins(Paper):
    def models(self) -> "dict[str, ModelEntry]":
        from stillpoint.pipelines.wavelet_twins.catalogue import models

        return models()

    def schema(self) -> "type[RunConfig]":
        from stillpoint.pipelines.wavelet_twins.config import Config

        return Config

    def build(self, model: Any, **shape: int) -> "nn.Module":
        from stillpoint.pipelines.wavelet_twins.models import build

        return build(model, **shape)

    def evaluations(self, config: "RunConfig") -> "Mapping[str, Callable[[EvaluateConfig, int], Evaluation]]":
        from stillpoint.pipelines.wavelet_twins.evaluate import evaluations

        return evaluations(config)

    def measured(self, config: "RunConfig", run: "Run") -> None:
        from stillpoint.pipelines.wavelet_twins.evaluate import measured

        measured(config, run)

    def hooks(self, config: "RunConfig") -> "TrainHooks":
        from stillpoint.pipelines.wavelet_twins.training import hooks

        return hooks(config)

    def translated(self, tensors: "dict[str, Tensor]", net: "nn.Module") -> "dict[str, Tensor]":
        from stillpoint.pipelines.wavelet_twins.weights import from_authors

        return from_authors(tensors, net)

    def shown(self, config: "RunConfig") -> "Shown":
        from stillpoint.pipelines.wavelet_twins.results import shown

        return shown(config)


PAPER = WaveletTwins()
