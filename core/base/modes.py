"""Contexts for evaluation mode and for fixed weights, and whether PyTorch is exporting."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

#: Whether torch.export is tracing. torch 2.6 cannot tell it from torch.compile, which there takes the same, plainer
#: path. It is PyTorch's own function, because the compiler recognises that one but no wrapper of it.
exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


@contextmanager
def evaluating(net: nn.Module | Callable[..., Any]) -> Iterator[None]:
    """A context with `net` in eval mode; on exit every module returns to its previous mode.

    ``net.train()`` alone would also switch modules that were frozen in eval mode. A function has no mode, and an
    exported module keeps its own.
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
    """A context in which no weights or statistics change, so that values derived from them alone are computed once
    (`stillpoint.core.layers.conv_norm_act`) and stored in `kept`, which a later context may reuse."""
    before = _FIXED.set({} if kept is None else kept)
    try:
        yield
    finally:
        _FIXED.reset(before)


def fixed_weights() -> dict[Any, Any] | None:
    """The store for values derived from weights, inside `weights_fixed`; None outside, where weights may change."""
    return _FIXED.get()
