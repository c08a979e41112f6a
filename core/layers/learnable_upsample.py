"""The upsampling of learnable polyphase sampling: puts a map back on the grid from which it was sampled, or spreads it
over the phases by their weights (Rojas-Gomez et al., NeurIPS 2022)."""

import torch
from torch import Tensor

from stillpoint.core.layers import scripted
from stillpoint.core.layers.downsample import Grid, SoftGrid
from stillpoint.core.layers.learnable_sampler import LearnableSampler
from stillpoint.core.layers.phases import Stride, place_phase, shortened, spread_phases

# torch.fx, which cannot trace their checks, treats each of these as one operation
for _name in ("place_phase", "shortened", "spread_phases"):
    torch.fx.wrap(_name)


class LearnablePolyphaseUpsample2d(LearnableSampler):
    """Put maps on the grid of a `LearnablePolyphaseDownsample2d`, then filter: (B, C, h, w) -> (B, C, s h, t w).

    Args:
        channels, stride, filter, size, padding, groups: as in `LearnablePolyphaseDownsample2d`.
        gain: factor of the filter; s * t in the authors' networks.
        redraw: in training, draw new weights, by a Gumbel softmax of the scores, instead of using the given ones.
        soften_twice: in evaluation, use softmax(weights / tau) of the given weights, as the authors' code does.

    `forward(y, grid)`: a phase (B,) leaves zeros elsewhere; a `SoftGrid` fills all phases. Sides that the downsampling
    extended stay longer, as in the authors' code; `size` (H, W) crops them to their original size, before the filter.

    Raises:
        ValueError: an option outside its set, a grid that does not fit, or a size that does not extend to (s h, t w).

    Law: with hard sampling, circular padding and a downsampling that obeys its law, downsampling and then upsampling
    commutes with every circular shift. With a `size` and no filter it is the adjoint of extension by zeros, then
    sampling at the grid.

    Examples:
        >>> up = layers.LearnablePolyphaseUpsample2d()
        >>> up(torch.randn(2, 8, 3, 3), torch.tensor([0, 3])).shape
        torch.Size([2, 8, 6, 6])
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

    def forward(
        self, y: Tensor, grid: Grid, size: tuple[int, int] | None = None, noise: Tensor | None = None
    ) -> Tensor:
        if torch.jit.is_scripting():
            smooth = self.filter(self._scripted(y, grid, size))
            return smooth if self.gain == 1 else smooth * self.gain
        else:  # TorchScript does not compile this branch
            return self._placed(y, grid, size, noise)

    def _scripted(self, y: Tensor, grid: Grid, size: tuple[int, int] | None) -> Tensor:
        if isinstance(grid, Tensor):
            placed = scripted.placed(y, grid, list(self.stride))
            return placed if size is None else scripted.cut_back(placed, size, list(self.stride))
        raise RuntimeError("under TorchScript the grid must be a phase (B,), not a SoftGrid")

    def _placed(self, y: Tensor, grid: Grid, size: tuple[int, int] | None, noise: Tensor | None) -> Tensor:
        if isinstance(grid, SoftGrid):
            weights = grid.weights
            if self.training and self.redraw:
                weights = self._weights(grid.scores, self._noise(grid.scores) if noise is None else noise)
            elif not self.training and self.soften_twice:
                weights = self._weights(weights)
            placed = spread_phases(y, weights, stride=self.stride)
        else:
            placed = place_phase(y, grid, stride=self.stride)
        smooth = self.filter(placed if size is None else shortened(placed, size, self.stride))
        return smooth if self.gain == 1 else smooth * self.gain

    def extra_repr(self) -> str:
        return f"{self.channels}, stride={self.stride}, gain={self.gain}, redraw={self.redraw}"
