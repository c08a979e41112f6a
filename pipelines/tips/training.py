"""The objective of the paper, and the learning rate of its code."""

from torch import Tensor, nn

from stillpoint.core.config.schema import RunConfig
from stillpoint.core.layers.translation_invariant import Response, TranslationInvariantDownsample2d
from stillpoint.core.layers.translation_losses import Shift, draw_shift, evenness_penalty, undoing_losses
from stillpoint.core.training.hooks import Moment
from stillpoint.core.training.train import TrainHooks
from stillpoint.pipelines.tips.config import LAYER, Model, Train
from stillpoint.pipelines.tips.weights import recognised

#: warm-up epochs of the code, and its initial rate, whatever the recipe's
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


class Losses:
    """The terms added to the task loss, from the layers' responses in each training forward."""

    def __init__(self, train: Train, seed: int) -> None:
        self.train, self.seed = train, seed
        self.seen: list[Response] = []
        self.at = Moment(0, 0, 0, 0)
        self.part = 0

    def begin(self, net: nn.Module, at: Moment) -> None:
        self.at, self.part = at, 0

    def watch(self, net: nn.Module) -> None:
        self.seen = []
        for module in net.modules():
            if isinstance(module, TranslationInvariantDownsample2d):
                module.watched = self.seen if net.training else None

    def penalty(self, net: nn.Module) -> Tensor:
        whole = evenness_penalty(self.seen) if self.train.evenness else self.seen[0].tau.new_zeros(())
        if self.at.epoch + 1 >= self.train.wake_up_at:
            key = (self.seed, self.at.epoch, self.at.step, self.part)
            shifts = [draw_shift(self._largest(seen.x), *key, layer) for layer, seen in enumerate(self.seen)]
            detach = not self.train.attached
            losses = undoing_losses(self.seen, shifts=shifts, kind=self.train.shift, detach=detach)
            whole = whole + self.train.alpha * losses.mean()
        self.seen, self.part = [], self.part + 1
        return whole

    def _largest(self, x: Tensor) -> Shift:
        # the first map has the image's size
        height, width = (x if self.train.shift_of == "map" else self.seen[0].x).shape[2:]
        return int(self.train.max_shift * height), int(self.train.max_shift * width)


def hooks(config: RunConfig) -> TrainHooks:
    """The paper's losses; a network with another pool is trained on the task alone."""
    assert isinstance(config.train, Train) and isinstance(config.model, Model)
    if config.model.downsample != LAYER:
        return TrainHooks(translate=recognised)
    losses = Losses(config.train, config.seed)
    return TrainHooks(
        before_step=losses.begin,
        before_forward=losses.watch,
        penalty=losses.penalty,
        task_weight=1 - config.train.alpha,
        translate=recognised,
    )


def authors_warmup(rate: float, epoch: int, step: int, steps_per_epoch: int, *, at_end: float) -> float:
    """The rate of a step, both counted from 0, while the code warms up; afterwards `rate`.

    It moves linearly from 0.01 to the schedule's rate at the tenth epoch, `at_end`, which is a decrease if the recipe's
    rate is 0.01.
    """
    if epoch >= _WARMUP_EPOCHS:
        return rate
    done = (step + epoch * steps_per_epoch) / (_WARMUP_EPOCHS * steps_per_epoch)
    return _FIRST_RATE + done * (at_end - _FIRST_RATE)
