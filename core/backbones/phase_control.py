"""To watch, or to dictate, the phases that the polyphase Downsamples of any network choose."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stillpoint.core.layers.blur import blur_with
from stillpoint.core.layers.phases import polyphase_components
from stillpoint.core.layers.polyphase import PolyphaseDownsample2d


@dataclass(frozen=True)
class Selection:
    """One choice of a forward pass.

    name    path of the module that chose, for example "layer2.0.pool"
    phase   (B,) int64, the phase used: row + stride * column of the grid's first pixel
    scores  (B, s * s) float64, the norm (or maximum) of every phase that the criterion compares
    """

    name: str
    phase: Tensor
    scores: Tensor

    def gap(self) -> Tensor:
        """(B,) relative distance between the two largest scores: how near the choice was to a tie."""
        best, second = self.scores.topk(2, dim=1).values.unbind(1)
        return (best - second) / best.abs().clamp_min(torch.finfo(best.dtype).tiny)


@contextmanager
def record_phases(net: nn.Module, *, force: Sequence[Tensor] | None = None) -> Iterator[list[Selection]]:
    """Within the context, every choice of `net` is appended to the list, in the order of execution.

    Args:
        net: any module; its `PolyphaseDownsample2d` are watched, except where they are handed a phase (shortcuts).
        force: (B,) phases to use instead of the network's own choices, one for each selection in the same order; the
            scores are still recorded, so that one can see what would have been chosen.

    Raises:
        ValueError: more selections in the context than `force` has entries.
    """
    found: list[Selection] = []
    given = None if force is None else iter(force)
    names: dict[nn.Module, str] = {m: name for name, m in net.named_modules() if isinstance(m, PolyphaseDownsample2d)}
    asked: dict[nn.Module, bool] = {}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) > 1 or kwargs.get("phase") is not None:
            return None
        asked[module] = kwargs.get("return_phase", False)
        kwargs = {**kwargs, "return_phase": True}
        if given is not None:
            phase = next(given, None)
            if phase is None:
                raise ValueError(
                    f"{names[module]} makes choice number {len(found) + 1}, but only {len(found)} are given"
                )
            kwargs["phase"] = phase.to(args[0].device)
        return args, kwargs

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if module not in asked:
            return None
        y, phase = output
        found.append(Selection(names[module], phase, _scores(module, args[0])))
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


@torch.no_grad()
def _scores(pool: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(pool, PolyphaseDownsample2d)
    if pool.select == "after_blur":
        x = blur_with(x, pool.kernel, padding=pool.padding)
    phases = polyphase_components(x.double(), stride=pool.stride).flatten(2)  # (B, s * s, C * h * w)
    if pool.criterion == "max":
        return phases.amax(2)
    order = {"l1": 1, "l1_min": 1, "l_infty": torch.inf}.get(pool.criterion, 2)
    return torch.linalg.vector_norm(phases, order, dim=2)
