"""Record or override the grids chosen by polyphase layers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stillpoint.core.layers.downsample import Downsample, Grid, SoftGrid


@dataclass(frozen=True)
class Selection:
    """One grid chosen in a forward pass.

    name    path of the module that chose, for example "layer2.0.pool"
    grid    the chosen grid: each image's phase (B,) int64, or a `SoftGrid`
    scores  (B, s * t), the compared scores; the largest wins
    """

    name: str
    grid: Grid
    scores: Tensor

    @property
    def phase(self) -> Tensor:
        """(B,) int64, the chosen phase, row + stride * column of the grid's first pixel; of a `SoftGrid`, the one of
        largest weight."""
        return self.grid.weights.argmax(1) if isinstance(self.grid, SoftGrid) else self.grid

    def gap(self) -> Tensor:
        """(B,) relative gap between the two largest scores: how close the choice was to a tie."""
        best, second = self.scores.topk(2, dim=1).values.unbind(1)
        return (best - second) / best.abs().clamp_min(torch.finfo(best.dtype).tiny)


@contextmanager
def record_grids(net: nn.Module, *, force: Sequence[Grid] | None = None) -> Iterator[list[Selection]]:
    """Records every grid that `net` chooses within the context, in the yielded list, in the order of execution.

    Args:
        net: any module; its grid-choosing layers are recorded, except when they are called with a grid.
        force: grids to use instead of the network's choices, such as phases (B,), one for each choice in order; the
            recorded scores are still those of the network's own choice.

    Raises:
        ValueError: more choices in the context than `force` has grids.
    """
    found: list[Selection] = []
    given = None if force is None else iter(force)
    names: dict[nn.Module, str] = {
        m: name for name, m in net.named_modules() if isinstance(m, Downsample) and m.chooses
    }
    asked: dict[nn.Module, bool] = {}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) > 1 or kwargs.get("grid") is not None:
            return None
        asked[module] = kwargs.get("return_grid", False)
        kwargs = {**kwargs, "return_grid": True}
        if given is not None:
            grid = next(given, None)
            if grid is None:
                raise ValueError(
                    f"{names[module]} makes choice number {len(found) + 1}, but force has only {len(found)} grids"
                )
            kwargs["grid"] = _moved(grid, args[0].device)
        return args, kwargs

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if module not in asked:
            return None
        assert isinstance(module, Downsample)
        y, grid = output
        with torch.no_grad():
            found.append(Selection(names[module], grid, module.scores(args[0])))
        return output if asked.pop(module) else y

    handles = [h for m in names for h in _watch(m, before, after)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _watch(module: nn.Module, before: Any, after: Any) -> tuple[Any, Any]:
    return (
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, with_kwargs=True),
    )


def _moved(grid: Grid, device: torch.device) -> Grid:
    return SoftGrid(*(part.to(device) for part in grid)) if isinstance(grid, SoftGrid) else grid.to(device)
