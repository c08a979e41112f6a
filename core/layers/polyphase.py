"""Adaptive polyphase sampling: each image is sampled on the grid of the largest norm (Chaman and Dokmanic, CVPR
2021).
"""

from typing import Any

import torch
from torch import Tensor, nn

from stillpoint.core import kernels
from stillpoint.core.layers import scripted
from stillpoint.core.layers.blur import BlurPool2d, binomial_kernel, blur_with
from stillpoint.core.layers.constants import ConstantBuffers
from stillpoint.core.layers.downsample import Downsample, Grid, SoftGrid, sample_at
from stillpoint.core.layers.padding import check_padding
from stillpoint.core.layers.phases import (
    CRITERIA,
    Stride,
    check_criterion,
    choose_phase,
    polyphase_components,
    stride_pair,
    take_phase,
)
from stillpoint.core.layers.polyphase_upsample import PolyphaseUpsample2d

__all__ = [
    "CRITERIA",
    "SELECTIONS",
    "PolyphaseDownsample2d",
    "choose_phase",
    "polyphase_components",
    "polyphase_downsample2d",
]

SELECTIONS = ("before_blur", "after_blur")

# torch.fx, which cannot follow its checks, takes this as one step
torch.fx.wrap("_downsample")


def polyphase_downsample2d(
    x: Tensor,
    *,
    stride: Stride = 2,
    size: int = 1,
    padding: str = "circular",
    criterion: str = "l2",
    select: str = "before_blur",
    phase: Tensor | None = None,
    return_phase: bool = False,
):
    """Blur every channel, then sample each image on the phase with the largest norm.

    Args:
        x: (B, C, H, W), any floating dtype.
        stride: pixels from one sample to the next, or (rows, columns). At 1 the result is the blurred map, with phase
            0.
        size: taps of the binomial filter, 1 to 7; with 1 there is no filter.
        padding: of the filter, as in `blur_pool2d`.
        criterion: of `choose_phase`.
        select: take the norms "before_blur", as the authors' CIFAR-10 networks do, or "after_blur", of the values that
            are sampled, as their ImageNet networks and U-Nets do; with size 1 both are the same.
        phase: (B,) int64, each image's phase row + s * column; None: choose it.
        return_phase: also return the phase, for a shortcut or a `polyphase_upsample2d`.

    Returns:
        (B, C, ceil(H/s), ceil(W/t)), or that and the phase (B,) int64.

    Raises:
        ValueError: an unknown criterion, selection, size or padding, a bad stride, input shape or phase shape.

    A size that is not a multiple of the stride is extended circularly, at the bottom and the right, after the blur.

    Law: with circular padding and sizes that are multiples of the stride, f(roll(x, any shift)) is a roll of f(x), and
    its global average changes only by rounding. It does not hold for other paddings, other sizes, fractional shifts, or
    ties between phases. In bfloat16 it is unreliable: the norms are computed in float32 and float64, even under
    autocast, but the map itself was rounded to 8 bits, so near ties of phases, which are common, may be broken
    differently after a shift.

    Examples:
        >>> y, phase = layers.polyphase_downsample2d(torch.randn(2, 8, 6, 6), return_phase=True)
        >>> y.shape, phase.shape
        (torch.Size([2, 8, 3, 3]), torch.Size([2]))
    """
    kernel = binomial_kernel(size, 2, device=x.device, dtype=torch.float32)
    y, phase = _downsample(x, kernel, stride, padding, criterion, _check_select(select), phase)
    return (y, phase) if return_phase else y


class PolyphaseDownsample2d(ConstantBuffers, Downsample):
    """`polyphase_downsample2d` as a Module, a filling of the Downsample slot that chooses its grid and passes it on.

    `channels` is informative only: any number of channels is accepted. Its follower on a shortcut is only the filter,
    a `BlurPool2d`.

    Examples:
        >>> pool, x = layers.PolyphaseDownsample2d(), torch.randn(2, 8, 6, 6)
        >>> torch.allclose(pool(x.roll(1, -1)).mean((2, 3)), pool(x).mean((2, 3)), atol=1e-6)
        True
    """

    chooses = True
    kernel: Tensor

    def __init__(
        self,
        channels: int | None = None,
        stride: Stride = 2,
        *,
        size: int = 1,
        padding: str = "circular",
        criterion: str = "l2",
        select: str = "before_blur",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.size, self.criterion = channels, size, check_criterion(criterion)
        self.stride, self.padding, self.select = stride_pair(stride), check_padding(padding), _check_select(select)
        kernel = binomial_kernel(size, 2, device="cpu", dtype=torch.float64)
        self.register_constant("kernel", kernel, device=device, dtype=dtype)

    def _sampled(self, x: Tensor, grid: Grid | None, return_grid: bool):
        if isinstance(grid, SoftGrid):
            y: Tensor = self.sample(x, grid)
        else:  # choose and sample in one kernel if there is one
            y, grid = self._at(x, grid)
        return (y, grid) if return_grid else y

    def choose(self, x: Tensor) -> Grid:
        return self._at(x, None)[1]

    def sample(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        if isinstance(grid, SoftGrid):
            return sample_at(blur_with(x, self.kernel, padding=self.padding), grid, stride=self.stride)
        return self._at(x, grid)[0]

    def scripted_at(self, x: Tensor, phase: Tensor | None) -> Tensor:
        if phase is None:
            phase = self.scripted_choice(x)
        return scripted.blurred_at(x, phase, self.kernel, list(self.stride), self.padding)

    def scripted_choice(self, x: Tensor) -> Tensor:
        if self.select == "after_blur":
            x = scripted.blurred(x, self.kernel, [1, 1], self.padding, 0)
        return scripted.chosen_phase(x, list(self.stride), self.criterion)

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        """(B, s * t) float64: the norm (or largest value) of every phase, negated for criteria that choose the
        smallest."""
        if self.select == "after_blur":
            x = blur_with(x, self.kernel, padding=self.padding)
        phases = polyphase_components(x.double(), stride=self.stride).flatten(2)  # (B, s * t, C * h * w)
        if self.criterion == "max":
            return phases.amax(2)
        order = {"l1": 1, "l1_min": 1, "l_infty": torch.inf}.get(self.criterion, 2)
        norms = torch.linalg.vector_norm(phases, order, dim=2)
        return -norms if self.criterion.endswith("_min") else norms

    def follower(self, channels: int) -> Downsample:
        build: dict[str, Any] = {"device": self.kernel.device, "dtype": self.kernel.dtype}
        return BlurPool2d(channels, self.stride, size=self.size, padding=self.padding, **build)

    def upsampler(self, channels: int) -> nn.Module:
        build: dict[str, Any] = {"device": self.kernel.device, "dtype": self.kernel.dtype}
        return PolyphaseUpsample2d(channels, self.stride, size=self.size, padding=self.padding, **build)

    def _at(self, x: Tensor, phase: Tensor | None) -> tuple[Tensor, Tensor]:
        return _downsample(x, self.kernel, self.stride, self.padding, self.criterion, self.select, phase)

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, stride={self.stride}, size={self.size}, padding={self.padding!r}, "
            f"criterion={self.criterion!r}, select={self.select!r}"
        )


def _downsample(
    x: Tensor, kernel: Tensor, stride: Stride, padding: str, criterion: str, select: str, phase: Tensor | None
) -> tuple[Tensor, Tensor]:
    strides, size, after_blur = stride_pair(stride), kernel.shape[0], select == "after_blur"
    check_criterion(criterion)
    if phase is None and strides != (1, 1) and kernels.fused(x, size=size, padding=padding):
        return kernels.polyphase_pool2d(
            x, size=size, stride=strides, padding=padding, criterion=criterion, after_blur=after_blur
        )
    if phase is None and after_blur:
        blurred = blur_with(x, kernel, padding=padding)
        phase = choose_phase(blurred, stride=strides, criterion=criterion)
        return take_phase(blurred, phase, stride=strides), phase
    if phase is None:
        phase = choose_phase(x, stride=strides, criterion=criterion)
    return blur_with(x, kernel, stride=strides, padding=padding, phase=phase), phase


def _check_select(select: str) -> str:
    if select not in SELECTIONS:
        raise ValueError(f"select must be one of {', '.join(SELECTIONS)}, got {select!r}")
    return select
