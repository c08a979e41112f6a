"""Ideal low-pass filter in the Fourier domain: no frequency above what the next grid can hold survives."""

import torch
from torch import Tensor

from stillpoint.core.layers.downsample import Downsample, Grid, sample_at
from stillpoint.core.layers.phases import Stride, stride_pair

# torch.fx, which cannot follow their checks, takes each of these as one step
torch.fx.wrap("ideal_lowpass2d")
torch.fx.wrap("sample_at")


def ideal_lowpass2d(x: Tensor, *, factor: int = 2, stride: Stride = 1) -> Tensor:
    """Remove the frequencies at or above 1 / (2 * factor) cycles per pixel on each axis, then keep every stride-th
    pixel.

    Args:
        x: (B, C, H, W), any floating dtype; the map is taken as periodic. Computed in float32 or better.
        factor: the stride that the result can bear without aliasing. Of N Fourier bins on an axis, those from ceil(N /
            (2 * factor)) to N - ceil(N / (2 * factor)) inclusive are set to zero: ceil(N/4) at factor 2, as in the
            "sinc" networks that adaptive polyphase upsampling is compared with (Chaman and Dokmanic, 2021).
        stride: one integer or (rows, columns), from the first pixel.

    Returns:
        (B, C, ceil(H/s), ceil(W/s)) in the dtype of `x`.

    Raises:
        ValueError: a factor or stride below one, an input that is not four-dimensional and floating.

    Law: at stride 1 it commutes with every circular shift and is idempotent; at a stride up to `factor` that divides H
    and W, a shift by a multiple of the stride rolls the result.
    """
    s, t = stride_pair(stride)
    if not isinstance(factor, int) or factor < 1:
        raise ValueError(f"factor must be a positive integer, got {factor!r}")
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"a floating tensor (B, C, H, W) is needed, got {x.dtype} of shape {tuple(x.shape)}")
    height, width = x.shape[-2:]
    rows, columns = _kept(height, factor, x.device), _kept(width, factor, x.device)[: width // 2 + 1]
    spectrum = torch.fft.rfft2(x.to(torch.promote_types(x.dtype, torch.float32)))  # (B, C, H, W // 2 + 1)
    spectrum = spectrum * (rows[:, None] & columns)
    return torch.fft.irfft2(spectrum, s=(height, width)).to(x.dtype)[..., ::s, ::t]


class IdealLowPass2d(Downsample):
    """`ideal_lowpass2d` as a Module, a filling of the Downsample slot with a fixed grid.

    Given a grid, the filtered map is sampled there instead of at the first pixel. `device` and `dtype` are taken
    as by every filling of the slot; it holds no tensor.
    """

    def __init__(
        self,
        channels: int | None = None,
        stride: Stride = 2,
        *,
        factor: int = 2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.stride, self.factor = channels, stride_pair(stride), factor

    def sample(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        if grid is None:
            return ideal_lowpass2d(x, factor=self.factor, stride=self.stride)
        return sample_at(ideal_lowpass2d(x, factor=self.factor), grid, stride=self.stride)

    def follower(self, channels: int) -> Downsample:
        return IdealLowPass2d(channels, self.stride, factor=self.factor)

    def extra_repr(self) -> str:
        return f"{self.channels}, stride={self.stride}, factor={self.factor}"


def _kept(n: int, factor: int, device: torch.device) -> Tensor:
    cutoff = -(-n // (2 * factor))
    bins = torch.arange(n, device=device)
    return (bins < cutoff) | (bins > n - cutoff)
