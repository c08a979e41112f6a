"""Training hooks: the temperature schedule, and noise as a function of (seed, epoch, step, layer)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stillpoint.core.backbones.deeplab import DeepLabV3Plus
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.layers.gumbel import set_noise, set_tau
from stillpoint.core.training.annealing import multistep, piecewise_linear, step_decay
from stillpoint.core.training.hooks import Moment
from stillpoint.core.training.optim import ParameterGroup
from stillpoint.core.training.train import TrainHooks
from stillpoint.pipelines.lps.config import COLDEST, Train
from stillpoint.pipelines.lps.models import scorer_parameters
from stillpoint.pipelines.lps.weights import recognised


def temperature(train: Train, at: Moment) -> float:
    """The temperature of a training step; `UserError` for one below `COLDEST`."""
    n = at.epoch * at.steps + at.step if train.tau_per == "step" else at.epoch
    if train.tau == "step":
        value = step_decay(n, every=train.tau_every, gamma=train.tau_gamma, least=train.tau_min)
        if value < COLDEST:
            raise UserError(
                f"TRAIN.TAU step falls to {value:.0e} in epoch {at.epoch + 1}, below the smallest temperature "
                f"{COLDEST:.0e}: set TRAIN.TAU_MIN"
            )
        return value
    if train.tau == "constant":
        return 1.0
    schedule = multistep if train.tau == "multistep" else piecewise_linear
    return schedule(n, milestones=train.tau_milestones, temperatures=train.tau_temperatures)


class _Annealing:
    """Sets the temperature before each step, and new noise before each training forward."""

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


def groups(net: nn.Module, factor: float) -> list[ParameterGroup]:
    """Groups of a segmenter's ResNet at `factor` times the rate, scorers without weight decay; [] for a classifier."""
    if not isinstance(net, DeepLabV3Plus) or factor == 1:
        return []
    scorers = scorer_parameters(net.backbone)
    apart = {id(p) for p in scorers}
    others = [p for p in net.backbone.parameters() if id(p) not in apart]
    return [ParameterGroup(others, lr_factor=factor), ParameterGroup(scorers, weight_decay=0.0, lr_factor=factor)]


def begun(tensors: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """The initial weights from a checkpoint: of the network, or for a segmenter of its backbone's classifier."""
    if not isinstance(net, DeepLabV3Plus) or any(name.startswith(("backbone.", "model.")) for name in tensors):
        return recognised(tensors, net)
    body = {name: tensor for name, tensor in tensors.items() if not name.removeprefix("core.").startswith("fc.")}
    own = net.state_dict()
    return own | {f"backbone.{name}": tensor for name, tensor in recognised(body, net.backbone).items()}


def hooks(config: RunConfig) -> TrainHooks:
    annealing = _Annealing(config)
    factor = annealing.train.backbone_lr_factor
    return TrainHooks(
        before_step=annealing.begin,
        before_forward=annealing.draw,
        groups=lambda net: groups(net, factor),
        translate=begun,
    )
