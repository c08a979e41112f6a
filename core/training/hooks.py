"""What a paper's training does besides: the contract between core's loop and a paper."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from stillpoint.core.runs.records import Record
from stillpoint.core.training.optim import ParameterGroup


class Moment(NamedTuple):
    """Where training stands, each from 0: `step` of `steps` in `epoch` of `epochs`."""

    epoch: int
    step: int
    epochs: int
    steps: int


@dataclass(frozen=True)
class TrainHooks:
    """What a paper's training does besides.

    before_step(net, at)  called without gradient before every step of training; torch's generator is then seeded by
                         (seed, epoch, step), and what is set in `net` must follow from `at` (see `Moment`) or from it
    groups(net)          parameters that train at another rate or decay than the recipe's; see `ParameterGroup`
    before_forward(net)  called before every forward, in training and in validation (without gradient)
    penalty(net)         a scalar that is added to the loss of each mini-batch; not part of the history's losses
    task_weight          what the loss itself counts beside the penalty; the history's losses are without it
    record               told of every update between backward and the optimiser's step; see `Record`
    translate(state, net)  the tensors of TRAIN.FINETUNE under the names of `net`, where others may have written them
    """

    before_step: Callable[[nn.Module, Moment], None] | None = None
    groups: Callable[[nn.Module], Sequence[ParameterGroup]] | None = None
    before_forward: Callable[[nn.Module], None] | None = None
    penalty: Callable[[nn.Module], Tensor] | None = None
    task_weight: float = 1.0
    record: Record | None = None
    translate: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]] | None = None
