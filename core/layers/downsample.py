"""The Downsample slot, which replaces a backbone's strides, and the base class of its fillings.

A filling maps (B, C, H, W) to (B, C, ceil(H/s), ceil(W/t)). It states whether it chooses its grid from the input, how
it samples on a grid, and which layer follows it on a shortcut. The grid is opaque to a backbone, which only passes it
to the shortcut and to the upsampling.
"""

import inspect
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from stillpoint.core.base.lookup import find
from stillpoint.core.config.slot import FILLINGS
from stillpoint.core.layers import scripted
from stillpoint.core.layers.phases import Stride, mix_phases, stride_pair, take_phase

# torch.fx, which cannot trace their checks, treats each of these as one operation
torch.fx.wrap("take_phase")
torch.fx.wrap("mix_phases")


class SoftGrid(NamedTuple):
    """A soft choice of the grid: each image becomes a mixture of its phases, as when a choice is trained.

    weights  (B, s * t), the mixture's weights, phase k = row + s * column at index k
    scores   (B, s * t), from which the weights were computed

    Examples:
        >>> half = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
        >>> layers.sample_at(torch.arange(4.0).view(1, 1, 2, 2), layers.SoftGrid(half, half)).item()
        1.0
    """

    weights: Tensor
    scores: Tensor


#: The grid that a choosing filling passes on: each image's phase (B,) int64, or a `SoftGrid`.
Grid = Tensor | SoftGrid


def sample_at(x: Tensor, grid: Grid | None, *, stride: Stride = 2) -> Tensor:
    """The pixels of (B, C, H, W) on a grid, (B, C, ceil(H/s), ceil(W/t)): from the first one if None, at each image's
    phase, or mixed by the weights of a `SoftGrid`. ValueError for a grid of another shape or dtype.

    Examples:
        >>> x = torch.arange(4.0).view(1, 1, 2, 2)
        >>> layers.sample_at(x, torch.tensor([3])).item()  # the last of the four grids
        3.0
    """
    s, t = stride_pair(stride)
    if grid is None:
        return x[..., ::s, ::t]
    if isinstance(grid, SoftGrid):
        return mix_phases(x, grid.weights, stride=(s, t))
    return take_phase(x, grid, stride=(s, t))


class Downsample(nn.Module):
    """The base of every filling of the slot.

    A filling is built as ``Filling(channels, stride=2, *, options, device=None, dtype=None)``, sets `stride`, and
    defines `sample` and `follower`; one that chooses defines `choose` and `scores` as well. For TorchScript it defines
    `scripted_at`, and `scripted_choice` where it chooses.

    chooses  whether it chooses a grid from its input, on which parallel branches must sample too. A filling whose
             choice cannot be shared (one for each channel, say) sets it to False, passes on None, and returns a
             complete filling as its follower.
    stride   (rows, columns)

    Examples:
        >>> issubclass(layers.BlurPool2d, layers.Downsample)
        True
    """

    chooses: bool = False
    stride: tuple[int, int]

    def forward(self, x: Tensor, grid: Grid | None = None, return_grid: bool = False):
        """The map sampled at `grid`, or at the filling's own choice if None; with `return_grid` also the grid, None for
        a fixed one. Under TorchScript `grid` is a phase (B,), and no grid is returned."""
        if torch.jit.is_scripting():
            return self.scripted_at(x, grid if isinstance(grid, Tensor) else None)
        else:  # TorchScript does not compile this branch
            return self._sampled(x, grid, return_grid)

    def _sampled(self, x: Tensor, grid: Grid | None, return_grid: bool):
        """`forward` in Python; overridden where one kernel can choose and sample."""
        if grid is None:
            grid = self.choose(x)
        y = self.sample(x, grid)
        return (y, grid) if return_grid else y

    def scripted_at(self, x: Tensor, phase: Tensor | None) -> Tensor:
        """`forward` for TorchScript, at each image's phase (B,) or the filling's own choice."""
        raise NotImplementedError("this filling cannot be scripted: it does not define scripted_at")

    def scripted_choice(self, x: Tensor) -> Tensor:
        """`choose` for TorchScript: each image's phase (B,)."""
        raise NotImplementedError("this filling cannot be scripted: it does not define scripted_choice")

    def choose(self, x: Tensor) -> Grid | None:
        """The grid on which (B, C, H, W) is sampled; None: the fixed one that starts at the first pixel."""
        return None

    def sample(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H/s), ceil(W/t)), filtered and sampled at `grid`, whichever layer chose it."""
        raise NotImplementedError(f"{type(self).__name__} does not define sample")

    def scores(self, x: Tensor) -> Tensor:
        """The scores (B, s * t) of which `choose` takes the largest; ValueError for a fixed grid."""
        raise ValueError(f"{type(self).__name__} has a fixed grid and no scores")

    def follower(self, channels: int) -> "Downsample":
        """The layer for a shortcut of `channels` channels on the same grid: same filter and stride, no choice, and no
        unused parameter."""
        raise NotImplementedError(f"{type(self).__name__} does not define follower, its layer on a shortcut")

    def upsampler(self, channels: int) -> nn.Module | None:
        """A module (y, grid) that puts maps of `channels` channels back on `grid`; None: the filling has none."""
        return None


class DownsampleFactory(Protocol):
    """Builds the filling for one place of a backbone.

    Examples:
        >>> make: layers.DownsampleFactory = layers.downsample_factory("polyphase")
        >>> make(16, 2).chooses
        True
    """

    def __call__(self, channels: int, stride: Stride = 2) -> Downsample: ...


class ByPlace:
    """A factory that depends on the place: the first pattern that matches the slot's path decides.

    Args:
        usual: the factory of all other places.
        places: shell pattern of a path, such as "maxpool.0" or "layer3.*" -> its factory.
    """

    def __init__(self, usual: DownsampleFactory, places: Mapping[str, DownsampleFactory]) -> None:
        self.usual, self.places = usual, dict(places)

    def __call__(self, channels: int, stride: Stride = 2) -> Downsample:
        return self.usual(channels, stride)

    def at(self, place: str) -> DownsampleFactory:
        return next((made for pattern, made in self.places.items() if fnmatchcase(place, pattern)), self.usual)


def at(factory: DownsampleFactory | None, place: str) -> DownsampleFactory | None:
    """The factory of the place with that path; every backbone calls it before it fills a slot."""
    return factory.at(place) if isinstance(factory, ByPlace) else factory


class Subsample(Downsample):
    """Keep every stride-th pixel without a filter, from the first one or on the given grid.

    `device` and `dtype` are accepted as by every filling; the layer has no tensors.

    Examples:
        >>> layers.Subsample(stride=2)(torch.arange(6.0).view(1, 1, 1, 6))
        tensor([[[[0., 2., 4.]]]])
    """

    def __init__(
        self,
        channels: int | None = None,
        stride: Stride = 2,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride_pair(stride)

    def sample(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        return sample_at(x, grid, stride=self.stride)

    def scripted_at(self, x: Tensor, phase: Tensor | None) -> Tensor:
        return scripted.sampled(x, phase, list(self.stride))

    def follower(self, channels: int) -> Downsample:
        return Subsample(channels, self.stride)

    def extra_repr(self) -> str:
        return f"{self.channels}, stride={self.stride}"


def filling(kind: str) -> type[Downsample]:
    """The class of a filling by its name in `FILLINGS`, or a user's own by MODULE:CLASS.

    ValueError for an unknown name (with the nearest), and for a class that is not derived from `Downsample`.
    """
    found = find("downsample", kind, {name: entry.where for name, entry in FILLINGS.items()})
    if not (isinstance(found, type) and issubclass(found, Downsample)):
        raise ValueError(f"downsample {kind} is not a filling: it must be a class derived from Downsample")
    return found


def downsample_factory(kind: str, **options: Any) -> DownsampleFactory:
    """The factory of one kind of filling, by name.

    Args:
        kind: as `filling` takes it: "subsample", "blur", "adaptive_blur", "polyphase", "ideal_lowpass", ....
        options: keyword options of that class, except `channels` and `stride`, which the backbone sets.

    Raises:
        ValueError: an unknown kind, or an option that the kind does not have. Invalid values raise when a layer is
            built.

    Examples:
        >>> make = layers.downsample_factory("blur", size=3)
        >>> make(16, 2)(torch.ones(1, 16, 8, 8)).shape
        torch.Size([1, 16, 4, 4])
    """
    made = filling(kind)
    allowed = [name for name in inspect.signature(made).parameters if name not in ("channels", "stride")]
    if unknown := [name for name in options if name not in allowed]:
        raise ValueError(f"{kind} has the options {', '.join(allowed) or '(none)'}, got {', '.join(unknown)}")
    return partial(made, **options)
