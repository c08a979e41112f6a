"""Training hooks for two methods: the falling temperature of LPS, and the undoing loss of TIPS."""

import torch
from torch import nn

from stillpoint.core.config.schema import RunConfig
from stillpoint.core.layers.gumbel import set_noise, set_tau
from stillpoint.core.training.annealing import piecewise_linear
from stillpoint.core.training.hooks import Moment, TrainHooks
from stillpoint.core.training.undoing import UndoingPenalty
from stillpoint.pipelines.board.config import Model, Train


class LearntSampling:
    """Sets the temperature of an epoch and the noise of a forward (Rojas-Gomez et al., NeurIPS 2022)."""

    def __init__(self, train: Train, seed: int) -> None:
        self.train, self.seed = train, seed
        self.key: tuple[int, ...] = ()
        self.part = 0

    def begin(self, net: nn.Module, at: Moment) -> None:
        last = max(at.epochs - 1, 1)
        set_tau(net, piecewise_linear(at.epoch, milestones=[0, last], temperatures=[1.0, self.train.tau_end]))
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        # each process draws its own noise; rank 0 has the key with which the kept board was trained
        self.key, self.part = (self.seed, at.epoch, at.step, *([rank] if rank else [])), 0

    def draw(self, net: nn.Module) -> None:
        if net.training:
            set_noise(net, *self.key, self.part)
            self.part += 1


def hooks(config: RunConfig) -> TrainHooks:
    assert isinstance(config.model, Model) and isinstance(config.train, Train)
    if config.model.downsample == "learnable_polyphase":
        sampling = LearntSampling(config.train, config.seed)
        return TrainHooks(before_step=sampling.begin, before_forward=sampling.draw)
    if config.model.downsample == "translation_invariant":
        return UndoingPenalty(config.seed, alpha=config.train.alpha, wake_up_at=config.train.wake_up_at).hooks()
    return TrainHooks()
