"""The paper's evaluations: robustness to noise and common corruptions, attacks, and reconstructions."""

from collections.abc import Callable, Mapping
from functools import partial

from stillpoint.core.config.schema import EvaluateConfig, RunConfig
from stillpoint.core.evaluation.registry import EVALUATIONS, Evaluation
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.sdnet import events
from stillpoint.pipelines.sdnet.attack import Attack
from stillpoint.pipelines.sdnet.autoattack import AutoAttacked
from stillpoint.pipelines.sdnet.pictures import Reconstructions
from stillpoint.pipelines.sdnet.robustness import Robustness


def evaluations(config: RunConfig) -> Mapping[str, Callable[[EvaluateConfig, int], Evaluation]]:
    """Core's evaluations and the paper's.

    The authors' protocol changes the images on which lambda is chosen, and the inverse of batch norms.
    """
    if getattr(config.evaluate, "tensorboard", False):
        events.require()
    return {
        **EVALUATIONS,
        "robustness": partial(Robustness, run=config),
        "attack": partial(Attack, run=config),
        "autoattack": partial(AutoAttacked, run=config),
        "reconstructions": partial(Reconstructions, run=config),
    }


def measured(config: RunConfig, run: Run) -> None:
    """Writes the reconstructions for TensorBoard if requested."""
    if getattr(config.evaluate, "tensorboard", False):
        events.write(run)
