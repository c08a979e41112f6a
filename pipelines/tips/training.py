"""The objective of the paper, and the learning rate of its code."""

from torch import Tensor

#: epochs that the code warms up for, and the rate that it begins with whatever the recipe's
_WARMUP_EPOCHS, _FIRST_RATE = 10, 0.01


def objective(task: Tensor, undoing: Tensor, evenness: Tensor, *, alpha: float, awake: bool) -> Tensor:
    """evenness + (1 - alpha) * task + alpha * mean of `undoing` over the levels, this last term once `awake`.

    Args:
        task: cross entropy of the batch.
        undoing: of `undoing_losses`, (levels,).
        evenness: of `evenness_penalty`.
        alpha: between 0 and 1. The task counts 1 - alpha also before the other term wakes up.
    """
    whole = evenness + (1 - alpha) * task
    return whole + alpha * undoing.mean() if awake else whole


def authors_warmup(rate: float, epoch: int, step: int, steps_per_epoch: int, *, at_end: float) -> float:
    """The rate of a step, both counted from 0, while the code warms up; afterwards `rate`.

    It goes in a straight line from 0.01 to what the schedule has at the tenth epoch, `at_end`: a fall where the
    recipe's own rate is 0.01.
    """
    if epoch >= _WARMUP_EPOCHS:
        return rate
    done = (step + epoch * steps_per_epoch) / (_WARMUP_EPOCHS * steps_per_epoch)
    return _FIRST_RATE + done * (at_end - _FIRST_RATE)
