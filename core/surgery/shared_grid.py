"""Sampling layers that share a grid: the first to run chooses it, the others follow."""

from typing import Any

from torch import Tensor

from stillpoint.core.layers.downsample import Downsample, Grid


class Register:
    """The grid that one sampling chose in this forward, for those that follow it; copies and files hold none."""

    def __init__(self) -> None:
        self.grid: Grid | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"grid": None}


class ChosenSample2d(Downsample):
    """Samples by a filling, and keeps the grid that it chose for those that follow."""

    def __init__(self, filling: Downsample, register: Register) -> None:
        super().__init__()
        self.filling, self.register, self.stride = filling, register, filling.stride

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        y, self.register.grid = self.filling(x, return_grid=True)
        return y


class FollowingSample2d(Downsample):
    """Samples on the grid that another layer chose in this forward."""

    def __init__(self, filling: Downsample, register: Register) -> None:
        super().__init__()
        self.filling, self.register, self.stride = filling, register, filling.stride

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        y: Tensor = self.filling(x, self.register.grid)
        return y
