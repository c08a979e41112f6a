"""Sampling layers that share a grid: the first to run chooses it, the others follow."""

from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from stillpoint.core.base.modes import evaluating
from stillpoint.core.layers.downsample import Downsample, Grid


class Register:
    """Holds the grid chosen in this forward by one layer, for those that follow it; copies and pickles are empty."""

    def __init__(self) -> None:
        self.grid: Grid | None = None
        self._held: Any = None

    @property
    def held(self) -> torch.jit.ScriptModule:
        """The same for TorchScript, which shares a module between others only if it was scripted before them."""
        if self._held is None:
            self._held = torch.jit.script(_Held())
        return self._held

    def __getstate__(self) -> dict[str, Any]:
        return {"grid": None, "_held": None}


@torch.no_grad()
def near_ties(net: nn.Module, images: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """Images on which float32 rounding may break a network's shift-invariance: bool (B,).

    At some layer that chooses a grid, their two best scores differ by at most `tolerance`, relative to the best.
    """
    near = torch.zeros(len(images), dtype=torch.bool, device=images.device)

    def look(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        first, second = module.filling.scores(given[0]).topk(2, dim=1).values.unbind(1)  # type: ignore[operator,union-attr]
        near.logical_or_((first - second) <= tolerance * first.abs())

    hooks = [m.register_forward_pre_hook(look) for m in net.modules() if isinstance(m, ChosenSample2d)]
    try:
        with evaluating(net):
            net(images)
    finally:
        for hook in hooks:
            hook.remove()
    return near


class _Held(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.phase = torch.zeros(0, dtype=torch.int64, device="cpu")

    def forward(self) -> Tensor:
        return self.phase

    @torch.jit.export
    def keep(self, phase: Tensor) -> None:
        self.phase = phase


class _SharedSample2d(Downsample):
    __jit_ignored_attributes__ = ("register",)
    if TYPE_CHECKING:
        filling: Downsample
        held: Any

    def __init__(self, filling: Downsample, register: Register) -> None:
        super().__init__()
        self.filling, self.register, self.stride = filling, register, filling.stride

    def __prepare_scriptable__(self) -> Self:
        self._modules["held"] = self.register.held
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_modules": {k: v for k, v in self._modules.items() if k != "held"}}


class ChosenSample2d(_SharedSample2d):
    """Samples by a filling, and stores the grid that it chose for the layers that follow."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if torch.jit.is_scripting():
            phase = self.filling.scripted_choice(x)
            self.held.keep(phase)
            return self.filling.scripted_at(x, phase)
        else:  # TorchScript does not compile this branch
            return self._chosen(x)

    def _chosen(self, x: Tensor) -> Tensor:
        y, self.register.grid = self.filling(x, return_grid=True)
        return y


class FollowingSample2d(_SharedSample2d):
    """Samples on the grid that another layer chose in this forward."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if torch.jit.is_scripting():
            return self.filling.scripted_at(x, self.held())
        else:  # TorchScript does not compile this branch
            return self._following(x)

    def _following(self, x: Tensor) -> Tensor:
        y: Tensor = self.filling(x, self.register.grid)
        return y
