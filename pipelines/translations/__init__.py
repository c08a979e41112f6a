"""Translated Fashion-MNIST: what a classifier loses when objects are not centred, and which networks recover it."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from stillpoint.pipelines.paper import Paper

if TYPE_CHECKING:
    from torch import nn

    from stillpoint.core.config.schema import EvaluateConfig, RunConfig
    from stillpoint.core.evaluation.registry import Evaluation
    from stillpoint.pipelines.paper import ModelEntry
    from stillpoint.pipelines.results import Shown


class Translations(Paper):
    def models(self) -> "dict[str, ModelEntry]":
        from stillpoint.pipelines.translations.catalogue import models

        return models()

    def schema(self) -> "type[RunConfig]":
        from stillpoint.pipelines.translations.config import Config

        return Config

    def build(self, model: Any, **shape: int) -> "nn.Module":
        from stillpoint.pipelines.translations.models import build

        return build(model, **shape)

    def evaluations(self, config: "RunConfig") -> "Mapping[str, Callable[[EvaluateConfig, int], Evaluation]]":
        from stillpoint.pipelines.translations.evaluate import evaluations

        return evaluations(config)

    def shown(self, config: "RunConfig") -> "Shown":
        from stillpoint.pipelines.translations.results import shown

        return shown(config)


PAPER = Translations()
