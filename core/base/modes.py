"""Training and evaluation mode of a network, for a while."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def evaluating(net: nn.Module | Callable[..., Any]) -> Iterator[None]:
    """Within it `net` is in eval mode; afterwards every module is in the mode that it was in.

    ``net.train()`` alone would wake the modules that were frozen in eval mode within a network in training. A function
    has no mode, and an exported module keeps the one that it was exported in.
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
                # by its own method, which may do more than set the flag
                module.train(training)
        for module, training in before.items():
            module.training = training
