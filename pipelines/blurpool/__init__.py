"""BlurPool and adaptive blur.

Zhang, "Making convolutional networks shift-invariant again", ICML 2019, with Zou et al.'s adaptive filters (BMVC 2020).
"""

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


class BlurPool(Paper):
    def models(self) -> "dict[str, ModelEntry]":
        from stillpoint.pipelines.blurpool.catalogue import models

        return models()

    def schema(self) -> "type[RunConfig]":
        from stillpoint.pipelines.blurpool.config import Config

        return Config

    def build(self, model: Any, **shape: int) -> "nn.Module":
        from stillpoint.pipelines.blurpool.models import build

        return build(model, **shape)

    def evaluations(self, config: "RunConfig") -> "Mapping[str, Callable[[EvaluateConfig, int], Evaluation]]":
        from stillpoint.pipelines.blurpool.evaluate import evaluations

        return evaluations(config)

    def hooks(self, config: "RunConfig") -> "TrainHooks":
        from stillpoint.pipelines.blurpool.training import hooks

        return hooks(config)

    def translated(self, tensors: "dict[str, Tensor]", net: "nn.Module") -> "dict[str, Tensor]":
        from stillpoint.pipelines.blurpool.weights import recognised

        return recognised(tensors, net)

    def shown(self, config: "RunConfig") -> "Shown":
        from stillpoint.pipelines.blurpool.results import shown

        return shown(config)


PAPER = BlurPool()
