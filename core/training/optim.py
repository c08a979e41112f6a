"""PyTorch's optimisers, without importing its compiler."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import nn

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.schema import TrainConfig

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)
_DECORATED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict", "step")


def _without_compiler(kind: type[Kind]) -> type[Kind]:
    """A subclass of an optimiser whose methods do not import the compiler on their first call.

    PyTorch's decorators exclude these methods from compilation and import `torch._dynamo`, which takes over two seconds
    on one core at the start of every training. Nothing here compiles an optimiser.
    """
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in _DECORATED}
    methods["step"] = torch.no_grad()(methods["step"])
    return cast(type[Kind], type(kind.__name__, (kind,), methods | {"__doc__": kind.__doc__}))


SGD = _without_compiler(torch.optim.SGD)
Adam = _without_compiler(torch.optim.Adam)
AdamW = _without_compiler(torch.optim.AdamW)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with their own training settings.

    weight_decay  of these parameters; None: the recipe's
    lr_factor     multiplies the recipe's learning rate
    """

    parameters: Sequence[nn.Parameter]
    weight_decay: float | None = None
    lr_factor: float = 1.0


def optimizer(train: TrainConfig, net: nn.Module, groups: Sequence[ParameterGroup] = ()) -> torch.optim.Optimizer:
    """The recipe's optimiser over the trainable parameters of `net`.

    Parameters in none of `groups` form the first group. With TRAIN.BIAS_RATE, norms' biases form a group of that rate,
    whose decay is divided by it, so that they decay by as much (Jordan, arXiv 2404.00498). Parameters of modules with
    ``decays = False``, such as a layer's scorer, form the last group, without weight decay; with TRAIN.DECAY matrices,
    so do parameters with at most one axis: biases, scales and norms. Each group has its `lr_factor`.

    Raises `UserError` for incompatible settings, and ValueError for a parameter in two groups or not in `net`.
    """
    if train.nesterov and not train.momentum:
        raise UserError("TRAIN.NESTEROV needs a TRAIN.MOMENTUM above 0")
    given: dict[str, Any] = {"lr": train.lr, "weight_decay": train.weight_decay, "fused": True}
    kind: Any = {"adam": Adam, "adamw": AdamW, "sgd": SGD}[train.optimizer]
    more = {"momentum": train.momentum, "nesterov": train.nesterov} if kind is SGD else {}
    return kind(_grouped(train, net, (*groups, *_fast(train, net, groups))), **given, **more)


def _grouped(train: TrainConfig, net: nn.Module, groups: Sequence[ParameterGroup]) -> list[dict[str, Any]]:
    own = {id(p): p for p in net.parameters()}
    listed = [p for group in groups for p in group.parameters]
    taken = {id(p) for p in listed}
    if len(taken) < len(listed) or taken - own.keys():
        raise ValueError("a parameter is in two groups, or not in the network")
    still = {id(p) for module in net.modules() if not getattr(module, "decays", True) for p in module.parameters()}
    if train.decay == "matrices":
        still |= {key for key, p in own.items() if p.ndim < 2}
    made = [
        ([p for key, p in own.items() if key not in taken | still], train.weight_decay, 1.0),
        *((group.parameters, group.weight_decay, group.lr_factor) for group in groups),
        ([p for key, p in own.items() if key in still - taken], 0.0, 1.0),
    ]
    found = []
    for parameters, decay, factor in made:
        if learned := [p for p in parameters if p.requires_grad]:
            decay = train.weight_decay if decay is None else decay
            found.append({"params": learned, "weight_decay": decay, "lr": train.lr * factor, "lr_factor": factor})
    return found or [{"params": [], "lr_factor": 1.0}]


def _fast(train: TrainConfig, net: nn.Module, groups: Sequence[ParameterGroup]) -> list[ParameterGroup]:
    """A group of the norms' biases not in `groups`: a `bias` without a `weight`, or with a one-dimensional one."""
    if train.bias_rate == 1:
        return []
    found, taken = {}, {id(p) for group in groups for p in group.parameters}
    for module in net.modules():
        own = dict(module.named_parameters(recurse=False))
        shift, scale = own.get("bias"), own.get("weight")
        if shift is not None and id(shift) not in taken and (scale is None or scale.ndim == 1):
            found[id(shift)] = shift
    decay = 0.0 if train.decay == "matrices" else train.weight_decay / train.bias_rate
    return [ParameterGroup(list(found.values()), decay, train.bias_rate)] if found else []
