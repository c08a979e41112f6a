"""The board compares all methods on one network, one recipe and the same seeds, by all measures.

It has no network of its own: its entries are core's backbones with different fillings of their slots.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from stillpoint.pipelines.paper import Paper

if TYPE_CHECKING:
    from torch import nn

    from stillpoint.core.config.schema import EvaluateConfig, RunConfig
    from stillpoint.core.evaluation.registry import Evaluation
    from stillpoint.core.runs.layout import Run
    from stillpoint.core.training.train import TrainHooks
    from stillpoint.pipelines.paper import ModelEntry
    from stillpoint.pipelines.results import Shown


class Board(Paper):
    def models(self) -> "dict[str, ModelEntry]":
        from stillpoint.pipelines.board.catalogue import models

        return models()

    def schema(self) -> "type[RunConfig]":
        from stillpoint.pipelines.board.config import Config

        return Config

    def build(self, model: Any, **shape: int) -> "nn.Module":
        from stillpoint.pipelines.board.models import build

        return build(model, **shape)

    def evaluations(self, config: "RunConfig") -> "Mapping[str, Callable[[EvaluateConfig, int], Evaluation]]":
        from stillpoint.core.evaluation.registry import EVALUATIONS

        return EVALUATIONS

    def measured(self, config: "RunConfig", run: "Run") -> None:
        from stillpoint.pipelines.board.cost import keep_cost

        keep_cost(config, run)

    def tool(self, name: str) -> "Callable[..., Any]":
        """The functions `page`, `free`, `add`, `read` and `check` for `stillpoint board`."""
        from stillpoint.pipelines.board import own

        return getattr(own, name)

    def shown(self, config: "RunConfig") -> "Shown":
        from stillpoint.pipelines.board.results import shown

        return shown(config)

    def hooks(self, config: "RunConfig") -> "TrainHooks":
        from stillpoint.pipelines.board.training import hooks

        return hooks(config)


PAPER = Board()
