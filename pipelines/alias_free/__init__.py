"""Alias-free convnets.

Michaeli, Michaeli and Soudry, "Alias-free convnets: fractional shift invariance via polynomial activations", CVPR 2023.
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


class AliasFreeConvnets(Paper):
    def models(self) -> "dict[str, ModelEntry]":
        from stillpoint.pipelines.alias_free.catalogue import models

        return models()

    def schema(self) -> "type[RunConfig]":
        from stillpoint.pipelines.alias_free.config import Config

        return Config

    def build(self, model: Any, **shape: int) -> "nn.Module":
        from stillpoint.pipelines.alias_free.models import build

        return build(model, **shape)

    def evaluations(self, config: "RunConfig") -> "Mapping[str, Callable[[EvaluateConfig, int], Evaluation]]":
        from stillpoint.pipelines.alias_free.evaluate import evaluations

        return evaluations(config)

    def translated(self, tensors: "dict[str, Tensor]", net: "nn.Module") -> "dict[str, Tensor]":
        from stillpoint.pipelines.alias_free.weights import from_authors

        return from_authors(tensors, net)

    def shown(self, config: "RunConfig") -> "Shown":
        from stillpoint.pipelines.alias_free.results import shown

        return shown(config)


PAPER = AliasFreeConvnets()
