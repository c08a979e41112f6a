"""Learnable polyphase sampling: a small network scores the phases of a map, and the best is selected (Rojas-Gomez et
al., "Learnable polyphase sampling for shift invariant and equivariant convolutional networks", NeurIPS 2022).

In training the phases are mixed by a Gumbel softmax of their scores, whose temperature tau a schedule lowers; in
evaluation each image is sampled on its best phase, as in adaptive polyphase sampling.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stillpoint.core.layers import scripted
from stillpoint.core.layers.downsample import Downsample, Grid, SoftGrid, sample_at
from stillpoint.core.layers.learnable_sampler import LearnableSampler
from stillpoint.core.layers.phase_convolution import wide
from stillpoint.core.layers.phase_scorers import phase_scorer
from stillpoint.core.layers.phases import Stride, extend
from stillpoint.core.layers.polyphase import SELECTIONS
from stillpoint.core.layers.precision import without_autocast

# torch.fx, which cannot trace their checks, treats each of these as one operation
for _name in ("extend", "wide"):
    torch.fx.wrap(_name)

#: how sides that are not multiples of the stride are extended
EXTENSIONS = ("circular", "zeros")
#: minimum width of a scorer that is narrower than its map
LEAST = 8
#: how scores become a grid: the best phase; softmax(scores / tau); softmax((scores + Gumbel noise) / tau)
SAMPLINGS = ("argmax", "softmax", "gumbel")


class LearnablePolyphaseDownsample2d(LearnableSampler, Downsample):
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
        select: score the map "before_blur" or "after_blur"; the latter is the map that is sampled.
        extension: of sides that are not multiples of the stride, after the filter: "circular", or the authors' "zeros".
        sampling, test_sampling: in training and in evaluation: "argmax", the best phase; "softmax",
            softmax(scores / tau); "gumbel", softmax((scores + Gumbel noise) / tau).

    Raises:
        ValueError: an option outside its set, a width that the scorer does not allow, a map too small.

    Laws: with hard sampling, circular paddings, sides that are multiples of the stride and no two scores that tie,
    f(roll(x, any shift)) is a roll of f(x). Scores tie where a scorer's hidden units are all on or all off: it is then
    linear, and a low-pass filter gives all phases the same mean. Soft sampling mixes the grids and, up to its noise,
    commutes only with shifts by multiples of the stride. Neither law holds for other paddings or extended sides. Hard
    choices are made in float32 or better, also under autocast.

    The buffer `tau` starts at 1. Parameters of scorers, which have no weight decay, have ".scorer." in their names.

    Examples:
        >>> pool, x = layers.LearnablePolyphaseDownsample2d(8).eval(), torch.randn(2, 8, 6, 6)
        >>> torch.allclose(pool(x.roll(1, -1)).mean((2, 3)), pool(x).mean((2, 3)), atol=1e-6)
        True
    """

    if TYPE_CHECKING:  # TorchScript reads attributes' annotations, and supports no modules in them
        scorer: nn.Module | None

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
        if not isinstance(reduction, int) or reduction < 1:
            raise ValueError(f"reduction must be a positive integer, got {reduction!r}")
        if extension not in EXTENSIONS:
            raise ValueError(f"extension must be one of {', '.join(EXTENSIONS)}, got {extension!r}")
        self.select, self.extension = select, extension
        self.sampling, self.test_sampling = sampling, test_sampling
        self.options: dict[str, Any] = {"filter": filter, "size": size, "padding": padding, "groups": groups}
        self.options["extension"] = extension
        self.made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.scorer = None
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
        return_grid: bool = False,
        noise: Tensor | None = None,
    ):
        """The samples, or (samples, grid): a phase (B,) int64, or the `SoftGrid` of a soft sampling.

        `noise` (B, s * t) replaces the Gumbel noise. Under TorchScript `grid` is a phase, and no grid is returned.
        """
        if torch.jit.is_scripting():
            return self.scripted_at(x, grid if isinstance(grid, Tensor) else None)
        else:  # TorchScript does not compile this branch
            return self._judged_and_sampled(x, grid, return_grid, noise)

    def _judged_and_sampled(self, x: Tensor, grid: Grid | None, return_grid: bool, noise: Tensor | None):
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

    def scripted_at(self, x: Tensor, phase: Tensor | None) -> Tensor:
        filtered = self.filter(x)
        sampling = self.sampling if self.training else self.test_sampling
        if phase is None and self.scorer is None:
            return scripted.subsampled(filtered, list(self.stride))
        extended = scripted.extended(filtered, list(self.stride), self.extension)
        if phase is None and sampling != "argmax":
            return scripted.mixed(extended, self._scripted_weights(x, filtered, sampling), list(self.stride))
        if phase is None:
            phase = self.scripted_choice(x)
        return scripted.taken(extended, phase, list(self.stride))

    def scripted_choice(self, x: Tensor) -> Tensor:
        return self._scripted_scores(self.filter(x) if self.select == "after_blur" else x).argmax(1)

    def _scripted_scores(self, judged: Tensor) -> Tensor:
        if self.scorer is None:
            raise ValueError("a layer without a scorer has no scores")
        whole = scripted.extended(judged, list(self.stride), self.extension)
        return wide(self.scorer(wide(whole), self.stride))

    def _scripted_weights(self, x: Tensor, filtered: Tensor, sampling: str) -> Tensor:
        scores = self._scripted_scores(filtered if self.select == "after_blur" else x)
        if sampling == "gumbel":
            if self.noise_key is not None:
                raise RuntimeError("a scripted layer cannot draw noise from a key: do not call set_noise on it")
            scores = scores - torch.empty_like(scores).exponential_().log()
        tau = self.tau
        return scores.softmax(1) if tau is None else (scores / tau).softmax(1)

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
