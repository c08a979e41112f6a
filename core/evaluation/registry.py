"""The evaluations by name; a paper adds its own by passing the engine a mapping that extends `EVALUATIONS`.

An evaluation's module is imported on first use, since it imports torchmetrics.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module

from stillpoint.core.config import evaluations as catalogue
from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.evaluation.view import Evaluation, Result, View

__all__ = ["EVALUATIONS", "MAP_EVALUATIONS", "Evaluation", "Result", "View"]


def _make(home: str, config: EvaluateConfig, seed: int) -> Evaluation:
    module, _, name = home.partition(":")
    return getattr(import_module(f"stillpoint.core.evaluation.{module}"), name)(config, seed)


def _of(kind: str) -> dict[str, Callable[[EvaluateConfig, int], Evaluation]]:
    return {name: partial(_make, entry.home) for name, entry in catalogue.EVALUATIONS.items() if entry.of == kind}


#: name -> factory (config, seed) -> Evaluation, for networks that classify images
EVALUATIONS = _of("classes")
#: the same for networks that classify pixels
MAP_EVALUATIONS = _of("label_maps")
