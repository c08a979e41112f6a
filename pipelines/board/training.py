"""What two methods are trained with: a temperature that falls, and a loss that undoes a shift."""

from torch import Tensor, nn

from stillpoint.core.config.schema import RunConfig
from stillpoint.core.layers.gumbel import set_noise, set_tau
from stillpoint.core.layers.translation_invariant import Response, TranslationInvariantDownsample2d
from stillpoint.core.layers.translation_losses import draw_shift, evenness_penalty, undoing_losses
from stillpoint.core.training.annealing import piecewise_linear
from stillpoint.core.training.hooks import Moment, TrainHooks
from stillpoint.pipelines.board.config import Model, Train

#: a map moves by a quarter of its side at most (Saha and Gokhale, WACV 2025)
_LARGEST = 0.25


class LearntSampling:
    """Sets the temperature of an epoch and the noise of a forward (Rojas-Gomez et al., NeurIPS 2022)."""

    def __init__(self, train: Train, seed: int) -> None:
        self.train, self.seed = train, seed
        self.key: tuple[int, ...] = ()
        self.part = 0

    def begin(self, net: nn.Module, at: Moment) -> None:
        last = max(at.epochs - 1, 1)
        set_tau(net, piecewise_linear(at.epoch, milestones=[0, last], temperatures=[1.0, self.train.tau_end]))
        self.key, self.part = (self.seed, at.epoch, at.step), 0

    def draw(self, net: nn.Module) -> None:
        if net.training:
            set_noise(net, *self.key, self.part)
            self.part += 1


class Undoing:
    """The penalties of translation invariant polyphase sampling beside the task (Saha and Gokhale, WACV 2025)."""

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
        whole = evenness_penalty(self.seen)
        if self.at.epoch + 1 >= self.train.wake_up_at:
            key = (self.seed, self.at.epoch, self.at.step, self.part)
            shifts = [
                draw_shift((int(_LARGEST * seen.x.shape[2]), int(_LARGEST * seen.x.shape[3])), *key, layer)
                for layer, seen in enumerate(self.seen)
            ]
            whole = whole + self.train.alpha * undoing_losses(self.seen, shifts=shifts, kind="standard").mean()
        self.seen, self.part = [], self.part + 1
        return whole


def hooks(config: RunConfig) -> TrainHooks:
    assert isinstance(config.model, Model) and isinstance(config.train, Train)
    if config.model.downsample == "learnable_polyphase":
        sampling = LearntSampling(config.train, config.seed)
        return TrainHooks(before_step=sampling.begin, before_forward=sampling.draw)
    if config.model.downsample == "translation_invariant":
        losses = Undoing(config.train, config.seed)
        return TrainHooks(
            before_step=losses.begin,
            before_forward=losses.watch,
            penalty=losses.penalty,
            task_weight=1 - config.train.alpha,
        )
    return TrainHooks()
