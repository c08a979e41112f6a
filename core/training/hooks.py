"""What a paper's training does besides: the contract between core's loop and a paper."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from stillpoint.core.runs.records import Record


@dataclass(frozen=True)
class TrainHooks:
    """What a paper's training does besides.

    before_forward(net)  called before every forward, in training and in validation (without gradient)
    penalty(net)         a scalar that is added to the loss of each mini-batch; not part of the history's losses
    record               told of every update between backward and the optimiser's step; see `Record`
    translate(state, net)  the tensors of TRAIN.FINETUNE under the names of `net`, where others may have written them
    """

    before_forward: Callable[[nn.Module], None] | None = None
    penalty: Callable[[nn.Module], Tensor] | None = None
    record: Record | None = None
    translate: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]] | None = None
