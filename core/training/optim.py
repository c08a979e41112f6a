"""PyTorch's optimisers without the import of its compiler."""

import inspect
from typing import Any, TypeVar, cast

import torch
from torch import nn

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.schema import TrainConfig

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)
_DECORATED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict", "step")


def _without_compiler(kind: type[Kind]) -> type[Kind]:
    """The same optimiser, whose methods do not import the compiler when they are called for the first time.

    PyTorch decorates them so that a compiled program leaves them out, and the decorators import `torch._dynamo`: two
    seconds and more at the start of every training on one core. Nothing here compiles an optimiser.
    """
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in _DECORATED}
    methods["step"] = torch.no_grad()(methods["step"])
    return cast(type[Kind], type(kind.__name__, (kind,), methods | {"__doc__": kind.__doc__}))


SGD = _without_compiler(torch.optim.SGD)
Adam = _without_compiler(torch.optim.Adam)


def optimizer(train: TrainConfig, net: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimiser over the trainable parameters of `net`.

    Raises `UserError` for settings that do not go together.
    """
    parameters = [p for p in net.parameters() if p.requires_grad]
    if train.nesterov and not train.momentum:
        raise UserError("TRAIN.NESTEROV needs a TRAIN.MOMENTUM above 0")
    given: dict[str, Any] = {"lr": train.lr, "weight_decay": train.weight_decay, "fused": True}
    if train.optimizer == "adam":
        return Adam(parameters, **given)
    return SGD(parameters, **given, momentum=train.momentum, nesterov=train.nesterov)
