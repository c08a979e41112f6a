"""The way back up of learnable polyphase sampling (Rojas-Gomez et al., NeurIPS 2022)."""

import torch
from torch import Tensor

from stillpoint.core.layers import scripted
from stillpoint.core.layers.downsample import Grid, SoftGrid
from stillpoint.core.layers.learnable_sampler import LearnableSampler
from stillpoint.core.layers.phases import Stride, place_phase, spread_phases

# torch.fx, which cannot follow their checks, takes each of these as one step
for _name in ("place_phase", "spread_phases"):
    torch.fx.wrap(_name)


class LearnablePolyphaseUpsample2d(LearnableSampler):
    """Put a map back on the grid that a `LearnablePolyphaseDownsample2d` took, then filter: (B, C, h, w) to s, t times.

    Args:
        channels, stride, filter, size, padding, groups: as there.
        gain: times the filter; the authors' decoder has s * t.
        redraw: in training, weigh by a Gumbel softmax of the scores of its own, instead of by the weights handed over.
        soften_twice: in evaluation, take softmax(weights / tau) of the weights handed over, as the authors' code does.

    `forward(y, grid)`: at a phase (B,) everything else is zero; a `SoftGrid` fills all phases.

    Raises:
        ValueError: an option outside its set, or a grid that does not fit.

    Law: with hard sampling and where both obey their laws, upsampling of the downsampling commutes with every
    circular shift. Odd sides come back one larger.
    """

    def __init__(
        self,
        channels: int | None = None,
        stride: Stride = 2,
        *,
        filter: str = "binomial",
        size: int = 1,
        padding: str = "circular",
        groups: int = 8,
        gain: float = 1.0,
        redraw: bool = False,
        soften_twice: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, stride, filter, size, padding, groups, device, dtype)
        self.gain, self.redraw, self.soften_twice = gain, redraw, soften_twice
        needed = redraw or soften_twice
        self.register_buffer("tau", torch.ones((), device=device, dtype=dtype) if needed else None)

    def forward(self, y: Tensor, grid: Grid, noise: Tensor | None = None) -> Tensor:
        if torch.jit.is_scripting():
            smooth = self.filter(self._scripted(y, grid))
            return smooth if self.gain == 1 else smooth * self.gain
        else:  # TorchScript compiles no other branch
            return self._placed(y, grid, noise)

    def _scripted(self, y: Tensor, grid: Grid) -> Tensor:
        if isinstance(grid, Tensor):
            return scripted.placed(y, grid, list(self.stride))
        raise RuntimeError("soft grids are not scripted")

    def _placed(self, y: Tensor, grid: Grid, noise: Tensor | None) -> Tensor:
        if isinstance(grid, SoftGrid):
            weights = grid.weights
            if self.training and self.redraw:
                weights = self._weights(grid.scores, self._noise(grid.scores) if noise is None else noise)
            elif not self.training and self.soften_twice:
                weights = self._weights(weights)
            placed = spread_phases(y, weights, stride=self.stride)
        else:
            placed = place_phase(y, grid, stride=self.stride)
        smooth = self.filter(placed)
        return smooth if self.gain == 1 else smooth * self.gain

    def extra_repr(self) -> str:
        return f"{self.channels}, stride={self.stride}, gain={self.gain}, redraw={self.redraw}"
