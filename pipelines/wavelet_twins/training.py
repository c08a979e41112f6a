"""Training hooks: the penalty on the mixing weights, and the record of their gradients."""

from functools import partial

import torch
from torch import Tensor, nn

from stillpoint.core.config.schema import RunConfig
from stillpoint.core.training.train import TrainHooks
from stillpoint.pipelines.wavelet_twins.models import mixing_weights
from stillpoint.pipelines.wavelet_twins.penalty import penalty, row_gradients


class GradientRecord:
    """Records the largest gradient of each mixing row at every update, one tensor (updates, rows) for each section."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._sizes: list[int] = []

    def update(self, net: nn.Module) -> None:
        """Called when the gradients are complete, penalty included, before the optimiser's step."""
        found = row_gradients(mixing_weights(net))
        self._sizes = [len(rows) for rows in found]
        self._rows.append(torch.cat(found).detach())

    def state(self) -> dict[str, Tensor]:
        """``section<i>`` -> float32 (updates, rows); empty before the first update."""
        if self._rows:
            # earlier updates are merged into one tensor, so that a state costs one copy
            self._kept = [torch.cat([*self._kept, torch.stack(self._rows).float().cpu()])]
            self._rows = []
        if not self._kept:
            return {}
        parts = self._kept[0].split(self._sizes, dim=1)
        return {f"section{number}": part.contiguous() for number, part in enumerate(parts)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restores the result of `state`."""
        parts = [state[f"section{number}"] for number in range(len(state))]
        self._sizes, self._rows = [part.shape[1] for part in parts], []
        self._kept = [torch.cat(parts, 1)] if parts else []


def hooks(config: RunConfig) -> TrainHooks:
    """The penalty of MODEL.PENALTY and the record of MODEL.RECORD_GRADIENTS, if requested."""
    model = config.model
    factors, recorded = getattr(model, "penalty", ()), getattr(model, "record_gradients", False)
    return TrainHooks(
        penalty=partial(_penalty, factors=factors) if factors else None,
        record=GradientRecord() if recorded else None,
    )


def _penalty(net: nn.Module, *, factors: tuple[float, ...]) -> Tensor:
    return penalty(mixing_weights(net), factors)
