"""Learnable polyphase sampling: a small network scores the phases of a map, and the best is selected (Rojas-Gomez et
al., "Learnable polyphase sampling for shift invariant and equivariant convolutional networks", NeurIPS 2022).

In training the phases are mixed by a Gumbel softmax of their scores, whose temperature tau a schedule lowers; in
evaluation each image is sampled on its best phase, as in adaptive polyphase sampling.
"""

from typing import Any

import torch
from torch import Tensor, nn

from stillpoint.core.layers.adaptive_blur import AdaptiveBlur2d
from stillpoint.core.layers.blur import BlurPool2d
from stillpoint.core.layers.downsample import Downsample, Grid, SoftGrid, sample_at
from stillpoint.core.layers.gumbel import Tempered
from stillpoint.core.layers.phase_convolution import wide
from stillpoint.core.layers.phase_scorers import phase_scorer
from stillpoint.core.layers.phases import Stride, extend, place_phase, shortened, spread_phases, stride_pair
from stillpoint.core.layers.polyphase import SELECTIONS
from stillpoint.core.layers.precision import without_autocast

# torch.fx, which cannot trace their checks, treats each of these as one operation
for _name in ("extend", "place_phase", "shortened", "spread_phases", "wide"):
    torch.fx.wrap(_name)

FILTERS = ("binomial", "adaptive")
#: how sides that are not multiples of the stride are extended
EXTENSIONS = ("circular", "zeros")
#: minimum width of a scorer that is narrower than its map
LEAST = 8
#: how scores become a grid: the best phase; softmax(scores / tau); softmax((scores + Gumbel noise) / tau)
SAMPLINGS = ("argmax", "softmax", "gumbel")


class _Sampler(Tempered, nn.Module):
    """The base of both layers: filter, temperature and noise."""

    def __init__(
        self,
        channels: int | None,
        stride: Stride,
        filter: str,
        size: int,
        padding: str,
        groups: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.register_buffer("noise_key", None, persistent=False)
        self.channels, self.stride = channels, stride_pair(stride)
        if filter not in FILTERS:
            raise ValueError(f"filter must be one of {', '.join(FILTERS)}, got {filter!r}")
        made: dict[str, Any] = {"size": size, "padding": padding, "device": device, "dtype": dtype}
        if filter == "binomial":
            self.filter: nn.Module = BlurPool2d(channels, 1, **made)
        elif channels is None:
            raise ValueError("an adaptive filter needs the number of channels")
        else:
            self.filter = AdaptiveBlur2d(channels, 1, groups=groups, **made)


class LearnablePolyphaseDownsample2d(_Sampler, Downsample):
    """Filter, score the phases, sample: a filling of the Downsample slot, (B, C, H, W) -> (B, C, ceil(H/s), ceil(W/t)).

    Args:
        channels: C.
        stride: one integer s or (rows s, columns t).
        scorer: a name of `SCORERS`, or None for a layer that is given its grid (otherwise it starts at the first
            pixel).
        hidden, scorer_padding: width and padding of the scorer, see `phase_scorer`; the default width is C //
            reduction.
        reduction: divisor of C for the scorer's width, which is at least min(C, 8); 8 gives the authors' small scorers.
        filter, size, padding, groups: "binomial" of `size` taps (1: none), or "adaptive" of `AdaptiveBlur2d`.
        select: score the map "before_blur" or "after_blur", where the second is what is sampled.
        extension: of sides that are not multiples of the stride, after the filter: "circular", or the authors' "zeros".
        sampling, test_sampling: in training and in evaluation, a name of `SAMPLINGS`.

    Raises:
        ValueError: an option outside its set, more channels asked of a scorer than it can have, a map too small.

    Laws: with hard sampling, circular paddings and sides that are multiples of the stride, f(roll(x, any shift)) is a
    roll of f(x). Soft sampling mixes the grids and, up to its noise, commutes only with shifts by multiples of the
    stride. Neither law holds for other paddings or extended sides. Hard choices are made in float32 or better, also
    under autocast.

    The buffer `tau` starts at 1. Parameters of scorers, which have no weight decay, have ".scorer." in their names.

    Examples:
        >>> pool, x = layers.LearnablePolyphaseDownsample2d(8).eval(), torch.randn(2, 8, 6, 6)
        >>> torch.allclose(pool(x.roll(1, -1)).mean((2, 3)), pool(x).mean((2, 3)), atol=1e-6)
        True
    """

    def __init__(
        self,
        channels: int,
        stride: Stride = 2,
        *,
        scorer: str | None = "conv",
        hidden: int | None = None,
        reduction: int = 1,
        scorer_padding: str = "circular",
        filter: str = "binomial",
        size: int = 1,
        padding: str = "circular",
        groups: int = 8,
        select: str = "after_blur",
        extension: str = "circular",
        sampling: str = "gumbel",
        test_sampling: str = "argmax",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, stride, filter, size, padding, groups, device, dtype)
        if select not in SELECTIONS:
            raise ValueError(f"select must be one of {', '.join(SELECTIONS)}, got {select!r}")
        for name, given in {"sampling": sampling, "test_sampling": test_sampling}.items():
            if given not in SAMPLINGS:
                raise ValueError(f"{name} must be one of {', '.join(SAMPLINGS)}, got {given!r}")
        if reduction < 1:
            raise ValueError(f"reduction must be a positive integer, got {reduction}")
        if extension not in EXTENSIONS:
            raise ValueError(f"extension must be one of {', '.join(EXTENSIONS)}, got {extension!r}")
        self.select, self.extension = select, extension
        self.sampling, self.test_sampling = sampling, test_sampling
        self.options: dict[str, Any] = {
            "filter": filter,
            "size": size,
            "padding": padding,
            "groups": groups,
            "extension": extension,
        }
        self.made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.scorer: nn.Module | None = None
        if scorer is not None:
            # with few units all ReLUs may be dead, and then all scores tie
            width = max(channels // reduction, min(channels, LEAST)) if hidden is None else hidden
            self.scorer = phase_scorer(
                scorer, channels=channels, hidden=width, padding=scorer_padding, device=device, dtype=dtype
            )
        self.chooses = self.scorer is not None
        self.register_buffer("tau", torch.ones((), device=device, dtype=dtype) if self.chooses else None)

    def forward(
        self,
        x: Tensor,
        grid: Grid | None = None,
        *,
        return_grid: bool = False,
        noise: Tensor | None = None,
    ):
        """The samples, or (samples, grid): a phase (B,) int64, or the `SoftGrid` of a soft sampling.

        `noise` (B, s * t) replaces the Gumbel noise.
        """
        filtered = self.filter(x)
        if grid is None:
            grid = self._grid(filtered if self.select == "after_blur" else x, noise)
        y = self._at(filtered, grid)
        return (y, grid) if return_grid else y

    def choose(self, x: Tensor) -> Grid | None:
        return self._grid(self._judged(x), None)

    def scores(self, x: Tensor) -> Tensor:
        if self.scorer is None:
            raise ValueError("a layer without a scorer has no scores")
        with without_autocast(x.device):
            return self.scorer(wide(extend(self._judged(x), self.stride, padding=self.extension)), self.stride)

    def sample(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        return self._at(self.filter(x), grid)

    def follower(self, channels: int) -> Downsample:
        """The layer for a shortcut: the same filter over its channels, without a scorer."""
        return type(self)(channels, self.stride, scorer=None, **self.options, **self.made)

    def _judged(self, x: Tensor) -> Tensor:
        return self.filter(x) if self.select == "after_blur" else x

    def _grid(self, x: Tensor, noise: Tensor | None) -> Grid | None:
        if self.scorer is None:
            return None
        x = extend(x, self.stride, padding=self.extension)
        sampling = self.sampling if self.training else self.test_sampling
        if sampling == "argmax":
            with torch.no_grad(), without_autocast(x.device):
                return self.scorer(wide(x), self.stride).argmax(1)
        scores = wide(self.scorer(x, self.stride))
        if sampling == "gumbel" and noise is None:
            noise = self._noise(scores)
        return SoftGrid(self._weights(scores, noise if sampling == "gumbel" else None), scores)

    def _at(self, x: Tensor, grid: Grid | None) -> Tensor:
        # a fixed grid never reads the extension
        x = x if grid is None else extend(x, self.stride, padding=self.extension)
        return sample_at(x, grid, stride=self.stride)

    def extra_repr(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{self.channels}, stride={self.stride}, {options}, select={self.select!r}, sampling={self.sampling!r}"


class LearnablePolyphaseUpsample2d(_Sampler):
    """Map (B, C, h, w) -> (B, C, s h, t w), on the grid of a `LearnablePolyphaseDownsample2d`, then filtered.

    Args:
        channels, stride, filter, size, padding, groups: as there. gain: factor of the filter; s * t for the authors.
        redraw: in training, draw new weights, by a Gumbel softmax of the scores, instead of using the given ones.
        soften_twice: in evaluation, use softmax(weights / tau) of the given weights, as the authors' code does.

    `forward(y, grid)`: at a phase (B,) everything else is zero; a `SoftGrid` fills all phases. Sides that the way down
    extended come back longer, as the authors have them; `size` (H, W) cuts them to what they were, before the filter.

    Raises:
        ValueError: an option outside its set, a grid that does not fit, or a size that nothing of (h, w) was made of.

    Law: with hard sampling and where both obey their laws, upsampling of the downsampling commutes with every
    circular shift. With a `size` and no filter it is the adjoint of sampling at the grid after an extension by zeros.

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
        self, y: Tensor, grid: Grid, *, size: tuple[int, int] | None = None, noise: Tensor | None = None
    ) -> Tensor:
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
