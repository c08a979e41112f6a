"""Modes: a network's evaluation mode and back, whether its weights change, and whether PyTorch is exporting."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

#: Whether torch.export is tracing. torch 2.6 cannot tell it from torch.compile, which there takes the same, plainer
#: way. It is PyTorch's own function, because the compiler knows that one and not what calls it.
exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


@contextmanager
def evaluating(net: nn.Module | Callable[..., Any]) -> Iterator[None]:
    """A context with `net` in eval mode; on exit every module returns to its previous mode.

    ``net.train()`` alone would also switch modules that were frozen in eval mode. A function has no mode, and an
    exported module keeps the one it was exported in.
    """
    before = {module: module.training for module in net.modules()} if isinstance(net, nn.Module) else {}
    try:
        if isinstance(net, nn.Module):
            net.eval()
    except NotImplementedError:
        before = {}
    try:
        yield
    finally:
        for module, training in before.items():
            if module.training != training:
                # a network's own `eval` may do more than set the flag
                module.train(training)
        for module, training in before.items():
            module.training = training


_FIXED: ContextVar[dict[Any, Any] | None] = ContextVar("weights that do not change", default=None)


@contextmanager
def weights_fixed(kept: dict[Any, Any] | None = None) -> Iterator[None]:
    """Nobody changes a network's weights or statistics in this context, so that what follows from them alone is
    computed once (`stillpoint.core.layers.conv_norm_act`) and put into `kept`, with which another context may go on."""
    before = _FIXED.set({} if kept is None else kept)
    try:
        yield
    finally:
        _FIXED.reset(before)


def fixed_weights() -> dict[Any, Any] | None:
    """Where to keep what follows from weights until they may change again; None where they may change at any time."""
    return _FIXED.get()
