"""Training hooks: the interface between core's loop and a paper."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from stillpoint.core.runs.records import Record
from stillpoint.core.training.optim import ParameterGroup


class Moment(NamedTuple):
    """A moment of training, counted from 0: `step` of `steps` in `epoch` of `epochs`."""

    epoch: int
    step: int
    epochs: int
    steps: int


@dataclass(frozen=True)
class TrainHooks:
    """What a paper adds to training.

    before_step(net, at)   called without gradient before every training step, when torch's generator is seeded by
                           (seed, epoch, step); changes to `net` must depend only on `at` (see `Moment`) and its draws
    groups(net)            parameters with another rate or decay than the recipe's; see `ParameterGroup`
    before_forward(net)    called without gradient before every forward, in training and in validation
    penalty(net)           scalar added to the loss of each mini-batch; not part of the history's losses
    task_weight            weight of the loss beside the penalty; not applied to the history's losses
    record                 called at every update between backward and the optimiser's step; see `Record`
    translate(state, net)  renames the tensors of a foreign TRAIN.FINETUNE file to the names of `net`
    """

    before_step: Callable[[nn.Module, Moment], None] | None = None
    groups: Callable[[nn.Module], Sequence[ParameterGroup]] | None = None
    before_forward: Callable[[nn.Module], None] | None = None
    penalty: Callable[[nn.Module], Tensor] | None = None
    task_weight: float = 1.0
    record: Record | None = None
    translate: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]] | None = None
