"""Sparse dictionary networks.

Dai et al., "Revisiting sparse convolutional model for visual recognition", NeurIPS 2022, with CIFAR-10-C.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from stillpoint.pipelines.paper import Paper

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stillpoint.core.config.schema import EvaluateConfig, RunConfig
    from stillpoint.core.evaluation.registry import Evaluation
    from stillpoint.core.runs.layout import Run
    from stillpoint.core.training.train import TrainHooks
    from stillpoint.pipelines.paper import ModelEntry
    from stillpoint.pipelines.results import Shown


class SparseDictionaryNetworks(Paper):
    def models(self) -> "dict[str, ModelEntry]":
        from stillpoint.pipelines.sdnet.catalogue import models

        return models()

    def schema(self) -> "type[RunConfig]":
        from stillpoint.pipelines.sdnet.config import Config

        return Config

    def build(self, model: Any, **shape: int) -> "nn.Module":
        from stillpoint.pipelines.sdnet.models import build

        return build(model, **shape)

    def evaluations(self, config: "RunConfig") -> "Mapping[str, Callable[[EvaluateConfig, int], Evaluation]]":
        from stillpoint.pipelines.sdnet.evaluate import evaluations

        return evaluations(config)

    def measured(self, config: "RunConfig", run: "Run") -> None:
        from stillpoint.pipelines.sdnet.evaluate import measured

        measured(config, run)

    def hooks(self, config: "RunConfig") -> "TrainHooks":
        from stillpoint.pipelines.sdnet.training import hooks

        return hooks(config)

    def translated(self, tensors: "dict[str, Tensor]", net: "nn.Module") -> "dict[str, Tensor]":
        from stillpoint.pipelines.sdnet.weights import recognised

        return recognised(tensors, net)

    def shown(self, config: "RunConfig") -> "Shown":
        from stillpoint.pipelines.sdnet.results import shown

        return shown(config)


PAPER = SparseDictionaryNetworks()
