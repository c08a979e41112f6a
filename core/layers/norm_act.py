"""Norm, sum with a shortcut and activation, in one pass over memory where the result is the same."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _modules

from stillpoint.core.kernels import norm as kernel

#: the activations that the kernels compute; subclasses are excluded
KNOWN = {nn.Identity: "none", nn.ReLU: "relu", nn.ReLU6: "relu6"}
_Four = tuple[Tensor, Tensor, Tensor, Tensor]
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_GLOBAL_HOOKS = tuple(f"_global{name}" for name in _HOOKS)


def norm_act(x: Tensor, norm: nn.Module, act: nn.Module | None = None, residual: Tensor | None = None) -> Tensor:
    """``act(norm(x) + residual)``; in training it also updates the running statistics of `norm`.

    Args:
        x: (B, C, H, W).
        norm: any module that keeps the shape.
        act: any module that keeps the shape; None: no activation.
        residual: (B, C, H, W), added before the activation; None: nothing is added.

    Returns:
        (B, C, H, W).

    Fused on a CPU for channels-last maps, an affine `nn.BatchNorm2d` with running statistics, and no activation,
    `nn.ReLU` or `nn.ReLU6`. Everything else calls the modules one after the other, and so do cases that would notice
    the difference: hooks, tracing, exporting, compiling, function transforms, subclasses.

    Law: up to rounding, the modules' own output, gradients and statistics. Statistics are summed in float64.

    Examples:
        >>> norm, act = torch.nn.BatchNorm2d(8), torch.nn.ReLU()
        >>> x = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)
        >>> layers.norm_act(x, norm, act, residual=x).shape
        torch.Size([2, 8, 4, 4])
    """
    plain = type(x) is not Tensor or torch.compiler.is_compiling()
    if not plain and isinstance(norm, nn.BatchNorm2d) and fusible(norm, act):
        parameters = cast(_Four, (norm.weight, norm.bias, norm.running_mean, norm.running_var))
        if kernel.fused(x, parameters, residual, training=norm.training):
            return kernel.norm_act2d(
                x,
                parameters,
                residual,
                activation="none" if act is None else KNOWN[type(act)],
                training=norm.training,
                momentum=_counted(norm),
                eps=norm.eps,
            )
    y = norm(x)
    if residual is not None:
        y = y + residual
    return y if act is None else act(y)


def fusible(norm: nn.Module, act: nn.Module | None) -> bool:
    """Whether the kernels support both modules, and calling these only runs their classes' forward."""
    if type(norm) is not nn.BatchNorm2d or not (act is None or type(act) in KNOWN):
        return False
    if not (norm.affine and norm.track_running_stats):
        return False
    if any(t is None for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)):
        return False
    return unwatched(norm) and (act is None or unwatched(act))


def unwatched(module: nn.Module) -> bool:
    """Whether calling the module only runs its class's forward: no hooks, and no forward of its own."""
    if any(getattr(_modules, name) for name in _GLOBAL_HOOKS):
        return False
    return "forward" not in vars(module) and not any(vars(module)[name] for name in _HOOKS)


def _counted(norm: nn.BatchNorm2d) -> float:
    """The weight of this batch in the running statistics; counts the batch in training, as `nn.BatchNorm2d` does."""
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            return 1.0 / float(norm.num_batches_tracked)
    return 0.0 if norm.momentum is None else norm.momentum
