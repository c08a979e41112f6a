"""An exponential moving average of a network's weights, measured and kept in their place (TRAIN.EMA_DECAY)."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from stillpoint.core.base.errors import UserError


class Average:
    """The moving average of `net`'s parameters and running statistics over the steps of a training.

    Each step replaces it by decay * average + (1 - decay) * weights; `decay` is at most (1 + steps) / (10 + steps), so
    that the first steps are soon forgotten. Integers, and tensors in `fixed` such as infinite masks, are not averaged.
    """

    def __init__(self, net: nn.Module, decay: float, fixed: Collection[str] = ()) -> None:
        self.net, self.decay = net, decay
        own = net.state_dict()
        self.names = [n for n, t in own.items() if (t.is_floating_point() or t.is_complex()) and n not in fixed]
        self.tensors = [own[name].detach().clone() for name in self.names]

    def _live(self) -> list[Tensor]:
        own = self.net.state_dict()
        return [own[name] for name in self.names]

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Adds the current weights, those after `steps` steps."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(self.tensors, self._live(), 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """The network's state_dict with averages in place of the averaged tensors."""
        return {**self.net.state_dict(), **dict(zip(self.names, self.tensors, strict=True))}

    @contextmanager
    def in_network(self) -> Iterator[None]:
        """A context in which the averages are the network's weights."""
        live = self._live()
        trained = [tensor.clone() for tensor in live]
        self._put(live, self.tensors)
        try:
            yield
        finally:
            self._put(live, trained)

    def restore(self, saved: dict[str, Tensor], *, origin: str) -> None:
        """Continues from a saved `state_dict`; `UserError` if it lacks an averaged tensor."""
        found = [saved.get(name) for name in self.names]
        if any(new is None or new.shape != own.shape for new, own in zip(found, self.tensors, strict=True)):
            raise UserError(f"{origin} holds no average of this network's weights: remove it to start from scratch")
        self._put(self.tensors, [new for new in found if new is not None])

    @staticmethod
    @torch.no_grad()
    def _put(to: list[Tensor], values: list[Tensor]) -> None:
        for tensor, value in zip(to, values, strict=True):
            tensor.copy_(value)
