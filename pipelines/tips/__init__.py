"""Translation invariant polyphase sampling (Saha and Gokhale, WACV 2025)."""

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


class TranslationInvariant(Paper):
    def models(self) -> "dict[str, ModelEntry]":
        from stillpoint.pipelines.tips.catalogue import models

        return models()

    def schema(self) -> "type[RunConfig]":
        from stillpoint.pipelines.tips.config import Config

        return Config

    def build(self, model: Any, **shape: int) -> "nn.Module":
        from stillpoint.pipelines.tips.models import build

        return build(model, **shape)

    def evaluations(self, config: "RunConfig") -> "Mapping[str, Callable[[EvaluateConfig, int], Evaluation]]":
        from stillpoint.pipelines.tips.evaluate import EVALUATIONS

        return EVALUATIONS

    def hooks(self, config: "RunConfig") -> "TrainHooks":
        from stillpoint.pipelines.tips.training import hooks

        return hooks(config)

    def translated(self, tensors: "dict[str, Tensor]", net: "nn.Module") -> "dict[str, Tensor]":
        from stillpoint.pipelines.tips.weights import recognised

        return recognised(tensors, net)

    def shown(self, config: "RunConfig") -> "Shown":
        from stillpoint.pipelines.tips.results import shown

        return shown(config)


PAPER = TranslationInvariant()
