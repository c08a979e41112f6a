"""Ideal low-pass filter: removes every frequency that the subsampled grid cannot represent."""

from typing import Any

import torch
from torch import Tensor

from stillpoint.core.layers import scripted
from stillpoint.core.layers.checks import check_map
from stillpoint.core.layers.downsample import Downsample, Grid, sample_at
from stillpoint.core.layers.phases import Stride, stride_pair
from stillpoint.core.layers.resampling import apply_to_axes, check_factor, check_rule, filtering, highest_bin

# torch.fx, which cannot follow their checks, takes each of these as one step
torch.fx.wrap("ideal_lowpass2d")
torch.fx.wrap("sample_at")


def ideal_lowpass2d(
    x: Tensor, *, factor: int = 2, stride: Stride = 1, rule: str = "exact", keep_norm: bool = False
) -> Tensor:
    """Remove the frequencies at or above 1 / (2 * factor) cycles per pixel on each axis, then keep every stride-th
    pixel.

    Args:
        x: (B, C, H, W), any floating dtype, treated as periodic; computed in float32 or better.
        factor: the stride that the result allows without aliasing. Of N Fourier bins on an axis, those from ceil(N /
            (2 * factor)) to N - ceil(N / (2 * factor)) inclusive are set to zero: ceil(N/4) at factor 2, as in the
            "sinc" networks that adaptive polyphase upsampling is compared with (Chaman and Dokmanic, 2021), and as
            before each stride of alias-free convnets (Michaeli et al., CVPR 2023).
        stride: one integer or (rows, columns), from the first pixel.
        rule: of `band_limit2d`; "authors" differs at factor 4 where a size is 4 modulo 8.
        keep_norm: rescale each filtered map to the 2-norm of its input, before sampling. A fractional shift does not
            preserve the norm of sampled values, so the law below no longer holds.

    Returns:
        (B, C, ceil(H/s), ceil(W/s)) in the dtype of `x`.

    Raises:
        ValueError: a factor or stride below one, an unknown rule, an input that is not four-dimensional and floating.

    Law: at stride 1 it commutes with every circular shift, fractional ones included, and is idempotent; at a stride
    up to `factor` that divides H and W, a shift of `x` by d moves the result by d / stride.

    Examples:
        >>> x = torch.tensor([1.0, -1.0] * 4).expand(1, 1, 8, 8)  # the highest frequency alone
        >>> bool(layers.ideal_lowpass2d(x).abs().max() < 1e-6)
        True
    """
    s, t = stride_pair(stride)
    check_factor(factor)
    check_rule(rule)
    check_map(x)
    return _lowpass(x, factor, s, t, rule, keep_norm)


def _lowpass(x: Tensor, factor: int, s: int, t: int, rule: str, keep_norm: bool) -> Tensor:
    h, w, once = x.shape[-2], x.shape[-1], not keep_norm
    rows = filtering(h, _highest_bin(h, factor, rule), s if once else 1, x)
    y = apply_to_axes(x, rows, filtering(w, _highest_bin(w, factor, rule), t if once else 1, x))
    if once:
        return y
    before = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
    after = torch.linalg.vector_norm(y, dim=(2, 3), keepdim=True)
    return y[..., ::s, ::t] * (before / (after + 1e-6))


def _highest_bin(n: int, factor: int, rule: str) -> int:
    # at factor 1 the Nyquist frequency is removed too
    return highest_bin(n, 1 / factor, rule=rule) if factor > 1 else (n + 1) // 2 - 1


class IdealLowPass2d(Downsample):
    """`ideal_lowpass2d` as a Module, a filling of the Downsample slot with a fixed grid.

    `factor` defaults to the larger stride, at least 2. Given a grid, the filtered map is sampled there instead of from
    the first pixel. `device` and `dtype` are accepted as by every filling; the layer has no tensors.

    Examples:
        >>> layers.IdealLowPass2d(stride=2)(torch.randn(1, 3, 8, 8)).shape
        torch.Size([1, 3, 4, 4])
    """

    def __init__(
        self,
        channels: int | None = None,
        stride: Stride = 2,
        *,
        factor: int | None = None,
        rule: str = "exact",
        keep_norm: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_rule(rule)
        self.channels, self.stride, self.rule, self.keep_norm = channels, stride_pair(stride), rule, keep_norm
        self.factor = max(2, *self.stride) if factor is None else factor
        check_factor(self.factor)

    def sample(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        options: dict[str, Any] = {"factor": self.factor, "rule": self.rule, "keep_norm": self.keep_norm}
        if grid is None:
            return ideal_lowpass2d(x, stride=self.stride, **options)
        return sample_at(ideal_lowpass2d(x, **options), grid, stride=self.stride)

    def scripted_at(self, x: Tensor, phase: Tensor | None) -> Tensor:
        if phase is None:
            return _lowpass(x, self.factor, self.stride[0], self.stride[1], self.rule, self.keep_norm)
        return scripted.taken(_lowpass(x, self.factor, 1, 1, self.rule, self.keep_norm), phase, list(self.stride))

    def follower(self, channels: int) -> Downsample:
        return IdealLowPass2d(channels, self.stride, factor=self.factor, rule=self.rule, keep_norm=self.keep_norm)

    def extra_repr(self) -> str:
        return f"{self.channels}, stride={self.stride}, factor={self.factor}"
