"""Training and evaluation mode of a network, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Within it `net` is in eval mode; afterwards every module is in the mode that it was in.

    ``net.train()`` alone would wake the modules that were frozen in eval mode within a network in training.
    """
    before = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            if module.training != training:
                # by its own method, which may do more than set the flag
                module.train(training)
        for module, training in before.items():
            module.training = training
