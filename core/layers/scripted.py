"""TorchScript versions of the layers' functions: positional arguments, lists of integers, no kernels.

A layer's `forward` calls these when it is scripted. They return the same numbers as the functions of `padding`, `blur`
and `phases`, which define them. A stride is a list, phases are (B,) int64.
"""

# ruff: noqa: RUF005  (TorchScript unpacks no list within another)

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.layers.norms import exact_scale


def pad_axis(x: Tensor, before: int, after: int, axis: int, padding: str) -> Tensor:
    """`padding.pad` along one axis, counted from the first."""
    if before < 0 or after < 0:
        first = max(-before, 0)
        x = x.narrow(axis, first, x.shape[axis] - first - max(-after, 0))
        before, after = max(before, 0), max(after, 0)
    n = x.shape[axis]
    if before + after == 0:
        return x
    places = torch.arange(-before, n + after, device=x.device)
    if padding == "circular":
        return x.index_select(axis, places.remainder(n))
    if padding == "replicate":
        return x.index_select(axis, places.clamp(0, n - 1))
    if padding == "reflect":
        if max(before, after) >= n:
            raise ValueError("reflect padding needs a larger map; use replicate, zeros or circular padding")
        return x.index_select(axis, (n - 1) - ((n - 1) - places.abs()).abs())
    ends = [0, 0] * (x.dim() - 1 - axis) + [before, after]
    return F.pad(x, ends)


def subsampled(x: Tensor, stride: list[int]) -> Tensor:
    """Every stride-th pixel of (B, C, ...) along each axis, from the first one."""
    for i, step in enumerate(stride):
        if step > 1:
            x = x.index_select(i + 2, torch.arange(0, x.shape[i + 2], step, device=x.device))
    return x


def blurred(x: Tensor, kernel: Tensor, stride: list[int], padding: str, pad_off: int) -> Tensor:
    """`blur.blur_with` from the first pixel."""
    size, dims = kernel.shape[0], kernel.dim()
    for axis in range(2, 2 + dims):
        x = pad_axis(x, (size - 1) // 2 + pad_off, size // 2 + pad_off, axis, padding)
    if size == 1:
        return subsampled(x, stride)
    channels, weight = x.shape[1], kernel.to(x.dtype)[None, None]
    weight = weight.expand([channels] + [-1] * (dims + 1))
    if dims == 1:
        return F.conv1d(x, weight, None, stride, [0], [1], channels)
    if dims == 2:
        return F.conv2d(x, weight, None, stride, [0, 0], [1, 1], channels)
    return F.conv3d(x, weight, None, stride, [0, 0, 0], [1, 1, 1], channels)


def blurred_at(
    x: Tensor, phase: Tensor | None, kernel: Tensor, stride: list[int], padding: str, pad_off: int = 0
) -> Tensor:
    """`blur.blur_with` at each image's phase, or from the first pixel if None."""
    if phase is None:
        return blurred(x, kernel, stride, padding, pad_off)
    return taken(blurred(x, kernel, [1, 1], padding, pad_off), phase, stride)


def edge_blurred(x: Tensor, kernel: Tensor, stride: list[int], padding: str, pad_off: int) -> Tensor:
    """`blurred`, but with replicate padding where the map is too small for reflect padding."""
    least = min([x.shape[axis] for axis in range(2, x.dim())])
    small = padding == "reflect" and least <= kernel.shape[0] // 2 + pad_off
    return blurred(x, kernel, stride, "replicate" if small else padding, pad_off)


def sampled(x: Tensor, phase: Tensor | None, stride: list[int]) -> Tensor:
    """`downsample.sample_at` from the first pixel, or at a phase."""
    return subsampled(x, stride) if phase is None else taken(x, phase, stride)


def extended(x: Tensor, stride: list[int], padding: str = "circular") -> Tensor:
    """`phases.extend`."""
    for i, step in enumerate(stride):
        x = pad_axis(x, 0, -x.shape[i + 2] % step, i + 2, padding)
    return x


def cut_back(x: Tensor, size: tuple[int, int], stride: list[int]) -> Tensor:
    """`phases.shortened`."""
    height, width = size
    s, t = stride[0], stride[1]
    if (height + s - 1) // s * s != x.shape[2] or (width + t - 1) // t * t != x.shape[3]:
        raise ValueError("size must be one that the stride extends to the size of the map")
    return x[:, :, :height, :width]


def split(x: Tensor, stride: list[int]) -> Tensor:
    """The phases of an extended map: (B, C, h, s, w, t)."""
    s, t = stride[0], stride[1]
    return x.reshape(x.shape[0], x.shape[1], x.shape[2] // s, s, x.shape[3] // t, t)


def chosen_phase(x: Tensor, stride: list[int], criterion: str) -> Tensor:
    """`phases.choose_phase`."""
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    if stride[0] * stride[1] == 1:
        return torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    if criterion == "l_infty" or criterion == "max":
        pixels = x.amax(1) if criterion == "max" else x.abs().amax(1)
        scores = split(extended(pixels[:, None], stride), stride).amax([1, 2, 4])
    else:
        if x.shape[1] > 0:
            x = x * exact_scale(x.abs().amax([1, 2, 3], keepdim=True))
        pixels = (x.square() if criterion.startswith("l2") else x.abs()).sum(1)
        scores = split(extended(pixels[:, None].to(torch.float64), stride), stride).sum([1, 2, 4])
    scores = scores.transpose(1, 2).flatten(1)
    return scores.argmin(1) if criterion.endswith("_min") else scores.argmax(1)


def taken(x: Tensor, phase: Tensor, stride: list[int]) -> Tensor:
    """`phases.take_phase`."""
    s, t = stride[0], stride[1]
    if s * t == 1:
        return x
    grids = split(extended(x, stride), stride)  # (B, C, h, s, w, t)
    b, c, h, _, w, _ = grids.shape
    rows = phase.remainder(s).view(-1, 1, 1, 1, 1, 1).expand(b, c, h, 1, w, t)
    columns = torch.div(phase, s, rounding_mode="floor").view(-1, 1, 1, 1, 1).expand(b, c, h, w, 1)
    return grids.gather(3, rows).squeeze(3).gather(4, columns).squeeze(4)


def mixed(x: Tensor, weights: Tensor, stride: list[int]) -> Tensor:
    """`phases.mix_phases`, for weights (B, s * t) or (B, C, s * t)."""
    weights = weights.to(x.dtype).reshape(list(weights.shape[:-1]) + [stride[1], stride[0]])
    weights = weights[:, None] if weights.dim() == 3 else weights  # (B, 1 or C, t, s)
    grids = split(extended(x, stride), stride)
    return (grids * weights.transpose(-1, -2)[:, :, None, :, None, :]).sum([3, 5])


def spread(y: Tensor, weights: Tensor, stride: list[int]) -> Tensor:
    """`phases.spread_phases`."""
    weights = weights.to(y.dtype).reshape(list(weights.shape[:-1]) + [stride[1], stride[0]]).transpose(-1, -2)
    weights = weights[:, None] if weights.dim() == 3 else weights  # (B, 1 or C, s, t)
    grids = y[:, :, :, None, :, None] * weights[:, :, None, :, None, :]
    return grids.flatten(4, 5).flatten(2, 3)


def placed(y: Tensor, phase: Tensor, stride: list[int]) -> Tensor:
    """`phases.place_phase`."""
    kept = F.one_hot(phase, stride[0] * stride[1])
    return torch.where(spread(torch.ones_like(y), kept, stride) > 0, spread(y, kept, stride), 0.0)
