"""Training hooks: the temperature schedule, and noise as a function of (seed, epoch, step, layer)."""

import torch
from torch import nn

from stillpoint.core.config.schema import RunConfig
from stillpoint.core.layers.gumbel import set_noise, set_tau
from stillpoint.core.training.annealing import multistep, piecewise_linear, step_decay
from stillpoint.core.training.hooks import Moment
from stillpoint.core.training.train import TrainHooks
from stillpoint.pipelines.lps.config import Train
from stillpoint.pipelines.lps.weights import recognised


def temperature(train: Train, at: Moment) -> float:
    """The temperature of a step of training."""
    n = at.epoch * at.steps + at.step if train.tau_per == "step" else at.epoch
    if train.tau == "step":
        return step_decay(n, every=train.tau_every, gamma=train.tau_gamma, least=train.tau_min)
    if train.tau == "constant":
        return 1.0
    schedule = multistep if train.tau == "multistep" else piecewise_linear
    return schedule(n, milestones=train.tau_milestones, temperatures=train.tau_temperatures)


class _Annealing:
    """Sets both before every training forward; each forward of a step has its own noise."""

    def __init__(self, config: RunConfig) -> None:
        assert isinstance(config.train, Train)
        self.train, self.seed = config.train, config.seed
        self.key: tuple[int, ...] = ()
        self.part = 0

    def begin(self, net: nn.Module, at: Moment) -> None:
        set_tau(net, temperature(self.train, at))
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        self.key, self.part = (self.seed, at.epoch, at.step, rank), 0

    def draw(self, net: nn.Module) -> None:
        if net.training:
            set_noise(net, *self.key, self.part)
            self.part += 1


def hooks(config: RunConfig) -> TrainHooks:
    annealing = _Annealing(config)
    return TrainHooks(before_step=annealing.begin, before_forward=annealing.draw, translate=recognised)
