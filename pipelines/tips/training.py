"""The paper's objective, and the learning-rate warm-up of its code."""

from dataclasses import replace

from torch import Tensor

from stillpoint.core.config.schema import RunConfig
from stillpoint.core.training.hooks import TrainHooks
from stillpoint.core.training.undoing import UndoingPenalty
from stillpoint.pipelines.tips.config import LAYER, Model, Train
from stillpoint.pipelines.tips.weights import recognised

#: warm-up epochs of the authors' code, and its initial rate, whatever the recipe's
_WARMUP_EPOCHS, _FIRST_RATE = 10, 0.01


def objective(task: Tensor, undoing: Tensor, evenness: Tensor, *, alpha: float, awake: bool) -> Tensor:
    """evenness + (1 - alpha) * task + alpha * mean of `undoing` over the levels, the last term only once `awake`.

    Args:
        task: cross entropy of the batch.
        undoing: of `undoing_losses`, (levels,).
        evenness: of `evenness_penalty`.
        alpha: between 0 and 1. The task has weight 1 - alpha even before the last term starts.
    """
    whole = evenness + (1 - alpha) * task
    return whole + alpha * undoing.mean() if awake else whole


def hooks(config: RunConfig) -> TrainHooks:
    """The paper's losses; a network with another pool is trained on the task only."""
    assert isinstance(config.train, Train) and isinstance(config.model, Model)
    if config.model.downsample != LAYER:
        return TrainHooks(translate=recognised)
    train = config.train
    penalty = UndoingPenalty(
        config.seed,
        alpha=train.alpha,
        wake_up_at=train.wake_up_at,
        max_shift=train.max_shift,
        of_image=train.shift_of == "image",
        kind=train.shift,
        detach=not train.attached,
        evenness=train.evenness,
    )
    return replace(penalty.hooks(), translate=recognised)


def authors_warmup(rate: float, epoch: int, step: int, steps_per_epoch: int, *, at_end: float) -> float:
    """The learning rate of a step during the warm-up of the authors' code; after it, `rate`.

    `epoch` and `step` are counted from 0. The warm-up moves linearly from 0.01 to `at_end`, the schedule's rate at the
    tenth epoch, which is a decrease if the recipe's rate is 0.01.
    """
    if epoch >= _WARMUP_EPOCHS:
        return rate
    done = (step + epoch * steps_per_epoch) / (_WARMUP_EPOCHS * steps_per_epoch)
    return _FIRST_RATE + done * (at_end - _FIRST_RATE)
