"""Adaptive blur: a low-pass filter predicted for every pixel (Zou et al., "Delving deeper into anti-aliasing in
ConvNets", BMVC 2020)."""

from typing import Any

import torch
from torch import Tensor, nn

from stillpoint.core.kernels import local_filter
from stillpoint.core.layers import scripted
from stillpoint.core.layers.checks import check_device, check_map, check_sizes
from stillpoint.core.layers.downsample import Downsample, Grid, sample_at
from stillpoint.core.layers.padding import check_padding, pad
from stillpoint.core.layers.phases import Stride, stride_pair

NORMALISATIONS = ("joint", "group")

# torch.fx, which cannot follow their checks, takes each of these as one step
torch.fx.wrap("pad")
torch.fx.wrap("adaptive_blur2d")
torch.fx.wrap("sample_at")


def adaptive_blur2d(
    x: Tensor, logits: Tensor, *, size: int, stride: Stride = 1, padding: str = "reflect", normalise: str = "joint"
) -> Tensor:
    """Filter every pixel with its own k x k filter, shared by the channels of a group.

    Args:
        x: (B, C, H, W).
        logits: (B, G * k * k, ceil(H/s), ceil(W/s)) with G dividing C: channel g * k * k + i * k + j is tap (i, j) of
            the filter of group g, which serves the channels g * C/G to (g + 1) * C/G - 1.
        size: k, odd.
        stride: one integer or (rows, columns), from the first pixel.
        padding: as in `blur_pool2d`, (k - 1) / 2 on all sides.
        normalise: "joint" takes the softmax over all G * k * k logits, as the published networks do, so a group's
            filter sums to 1/G on average; "group" takes it over the k * k of each group, as the paper's formula says,
            so that every filter sums to one.

    Returns:
        (B, C, ceil(H/s), ceil(W/s)) in the dtype of `x`.

    Raises:
        ValueError: an even size, a bad stride, a map or logits of another shape, dtype or device, an unknown
            normalisation or padding.

    Law: with circular padding, a shift of x and logits together shifts the result; with "group" a constant map stays
    that constant.

    Examples:
        >>> logits = torch.zeros(1, 9, 4, 4)  # one group, equal taps: a box filter
        >>> layers.adaptive_blur2d(torch.ones(1, 2, 4, 4), logits, size=3).shape
        torch.Size([1, 2, 4, 4])
    """
    s, t = stride_pair(stride)
    _check(size, normalise)
    check_padding(padding)
    check_map(x)
    batch, channels, height, width = x.shape
    h, w = (height + s - 1) // s, (width + t - 1) // t
    planes = int(logits.shape[1]) if logits.ndim == 4 else 0  # a tensor when traced
    groups, rest = divmod(planes, size * size)
    if rest or not groups or not channels or channels % groups or logits.shape != (batch, groups * size * size, h, w):
        raise ValueError(
            f"logits must be (B, G * k * k, h, w) with G dividing C: {h}x{w} filters of {size}x{size} for an input of "
            f"shape {tuple(x.shape)}, got {tuple(logits.shape)}"
        )
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating, got {logits.dtype}")
    check_device(x, "logits", logits)
    if normalise == "joint":
        weights = logits.softmax(1)
    else:
        weights = logits.unflatten(1, (groups, size * size)).softmax(2).flatten(1, 2)
    weights = weights.to(x.dtype)
    if local_filter.fused(x, weights, size=size, padding=padding):
        return local_filter.local_filter2d(x, weights, size=size, stride=(s, t), padding=padding)
    weights = weights.unflatten(1, (groups, size * size))  # (B, G, k * k, h, w)
    x = pad(x, [(size // 2, size // 2)] * 2, padding=padding)
    x = x.unflatten(1, (groups, channels // groups))  # (B, G, C/G, H + k - 1, W + k - 1)
    y = None
    for tap in range(size * size):  # one product at a time: an unfolded map would take k * k times the memory
        i, j = divmod(tap, size)
        seen = x[..., i : i + (h - 1) * s + 1 : s, j : j + (w - 1) * t + 1 : t]  # (B, G, C/G, h, w)
        term = weights[:, :, tap, None]
        y = seen * term if y is None else torch.addcmul(y, seen, term)
    assert y is not None
    return y.flatten(1, 2)


class AdaptiveBlur2d(Downsample):
    """Predict the filters of `adaptive_blur2d` by a k x k convolution and batch normalisation, and apply them.

    (B, C, H, W) -> (B, C, ceil(H/s), ceil(W/s)). A filling of the Downsample slot with a fixed grid and with
    parameters: ``conv.weight`` (G * k * k, C, k, k) and ``bn``. Given a grid, the blurred map is sampled there; its
    follower on a shortcut predicts its own filters.

    Args:
        channels: C.
        stride: one integer or (rows, columns).
        size: k, odd.
        groups: G, dividing C; the published networks have 8.
        padding, normalise: as in `adaptive_blur2d`.

    Raises:
        ValueError: an even size, an unknown padding or normalisation, or groups that do not divide the channels.

    Examples:
        >>> layers.AdaptiveBlur2d(8, stride=2)(torch.randn(2, 8, 9, 9)).shape
        torch.Size([2, 8, 5, 5])
    """

    def __init__(
        self,
        channels: int,
        stride: Stride = 2,
        *,
        size: int = 3,
        groups: int = 8,
        padding: str = "reflect",
        normalise: str = "joint",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check(size, normalise)
        check_sizes(channels=channels)
        if not isinstance(groups, int) or groups < 1 or channels % groups:
            raise ValueError(f"groups must divide the {channels} channels, got {groups}")
        self.stride, self.padding = stride_pair(stride), check_padding(padding)
        self.size, self.groups, self.normalise = size, groups, normalise
        self.conv = nn.Conv2d(channels, groups * size * size, size, bias=False, device=device, dtype=dtype)
        self.bn = nn.BatchNorm2d(groups * size * size, device=device, dtype=dtype)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def sample(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        stride = self.stride if grid is None else (1, 1)
        padded = pad(x, [(self.size // 2, self.size // 2)] * 2, padding=self.padding)
        if self.bn.training:
            # The batch statistics include the pixels that the stride drops.
            logits = self.bn(self.conv(padded))[..., :: stride[0], :: stride[1]]
        else:
            logits = self.bn(nn.functional.conv2d(padded, self.conv.weight, stride=stride))
        y = adaptive_blur2d(
            x, logits, size=self.size, stride=stride, padding=self.padding, normalise=self.normalise
        )  # (B, C, h, w)
        return y if grid is None else sample_at(y, grid, stride=self.stride)

    def scripted_at(self, x: Tensor, phase: Tensor | None) -> Tensor:
        k, groups, reach = self.size, self.groups, self.size // 2
        stride = list(self.stride) if phase is None else [1, 1]
        padded = scripted.pad_axis(scripted.pad_axis(x, reach, reach, 2, self.padding), reach, reach, 3, self.padding)
        logits = scripted.subsampled(self.bn(self.conv(padded)), stride)
        if self.normalise == "joint":
            weights = logits.softmax(1).unflatten(1, [groups, k * k])  # (B, G, k * k, h, w)
        else:
            weights = logits.unflatten(1, [groups, k * k]).softmax(2)
        y = scripted.subsampled(torch.zeros_like(x), stride).unflatten(1, [groups, -1])  # (B, G, C/G, h, w)
        for tap in range(k * k):
            seen = padded[:, :, tap // k : tap // k + x.shape[2], tap % k : tap % k + x.shape[3]]
            seen = scripted.subsampled(seen, stride).unflatten(1, [groups, -1])
            y = y + seen * weights[:, :, tap, None].to(x.dtype)
        return y.flatten(1, 2) if phase is None else scripted.taken(y.flatten(1, 2), phase, list(self.stride))

    def follower(self, channels: int) -> Downsample:
        build: dict[str, Any] = {"device": self.conv.weight.device, "dtype": self.conv.weight.dtype}
        options: dict[str, Any] = {
            "size": self.size,
            "groups": self.groups,
            "padding": self.padding,
            "normalise": self.normalise,
        }
        return AdaptiveBlur2d(channels, self.stride, **options, **build)

    def extra_repr(self) -> str:
        return (
            f"stride={self.stride}, size={self.size}, groups={self.groups}, padding={self.padding!r}, "
            f"normalise={self.normalise!r}"
        )


def _check(size: int, normalise: str) -> None:
    if not isinstance(size, int) or size < 1 or size % 2 == 0:
        raise ValueError(f"size must be an odd positive integer, got {size!r}")
    if normalise not in NORMALISATIONS:
        raise ValueError(f"normalise must be one of {', '.join(NORMALISATIONS)}, got {normalise!r}")
