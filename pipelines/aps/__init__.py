"""Adaptive polyphase sampling.

Chaman and Dokmanic, "Truly shift-invariant convolutional neural networks", CVPR 2021.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from stillpoint.pipelines.paper import Paper

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stillpoint.core.config.schema import EvaluateConfig, RunConfig
    from stillpoint.core.evaluation.registry import Evaluation
    from stillpoint.pipelines.paper import ModelEntry
    from stillpoint.pipelines.results import Shown


class AdaptivePolyphaseSampling(Paper):
    def models(self) -> "dict[str, ModelEntry]":
        from stillpoint.pipelines.aps.catalogue import models

        return models()

    def schema(self) -> "type[RunConfig]":
        from stillpoint.pipelines.aps.config import Config

        return Config

    def build(self, model: Any, **shape: int) -> "nn.Module":
        from stillpoint.pipelines.aps.models import build

        return build(model, **shape)

    def evaluations(self, config: "RunConfig") -> "Mapping[str, Callable[[EvaluateConfig, int], Evaluation]]":
        from stillpoint.pipelines.aps.evaluate import evaluations

        return evaluations(config)

    def translated(self, tensors: "dict[str, Tensor]", net: "nn.Module") -> "dict[str, Tensor]":
        from stillpoint.pipelines.aps.weights import from_authors

        return from_authors(tensors, net)

    def shown(self, config: "RunConfig") -> "Shown":
        from stillpoint.pipelines.aps.results import shown

        return shown(config)


PAPER = AdaptivePolyphaseSampling()
