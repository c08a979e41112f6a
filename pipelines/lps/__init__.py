"""Learnable polyphase sampling (Rojas-Gomez et al., NeurIPS 2022)."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from stillpoint.pipelines.paper import Paper

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stillpoint.core.config.schema import EvaluateConfig, RunConfig
    from stillpoint.core.evaluation.registry import Evaluation
    from stillpoint.core.training.train import TrainHooks
    from stillpoint.pipelines.paper import ModelEntry
    from stillpoint.pipelines.results import Shown


class LearnablePolyphase(Paper):
    def models(self) -> "dict[str, ModelEntry]":
        from stillpoint.pipelines.lps.catalogue import models

        return models()

    def schema(self) -> "type[RunConfig]":
        from stillpoint.pipelines.lps.config import Config

        return Config

    def build(self, model: Any, **shape: int) -> "nn.Module":
        from stillpoint.pipelines.lps.models import build

        return build(model, **shape)

    def evaluations(self, config: "RunConfig") -> "Mapping[str, Callable[[EvaluateConfig, int], Evaluation]]":
        from stillpoint.pipelines.lps.evaluate import evaluations

        return evaluations(config)

    def hooks(self, config: "RunConfig") -> "TrainHooks":
        from stillpoint.pipelines.lps.training import hooks

        return hooks(config)

    def translated(self, tensors: "dict[str, Tensor]", net: "nn.Module") -> "dict[str, Tensor]":
        from stillpoint.pipelines.lps.weights import recognised

        return recognised(tensors, net)

    def shown(self, config: "RunConfig") -> "Shown":
        from stillpoint.pipelines.lps.results import shown

        return shown(config)


PAPER = LearnablePolyphase()
