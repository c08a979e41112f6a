"""Phases, the s * s grids on which a stride of s can sample a map: split a map into them, choose, read or write one.

Phase k of a stride (s, t) holds the pixels whose row is r and column is c modulo the stride, with k = r + s * c: the
row moves first (Chaman and Dokmanic, "Truly shift-invariant convolutional neural networks", CVPR 2021; at stride
2 the phases are (0,0), (1,0), (0,1), (1,1)). A map whose size is not a multiple of the stride is first extended
circularly at the bottom and the right, so that every phase has ceil(H/s) x ceil(W/t) pixels.
"""

import torch
from torch import Tensor

from stillpoint.core import kernels
from stillpoint.core.base.modes import exporting
from stillpoint.core.kernels import mixture
from stillpoint.core.kernels.pool import plain_only
from stillpoint.core.layers.checks import check_device, check_map, strides
from stillpoint.core.layers.norms import exact_scale
from stillpoint.core.layers.padding import pad, wrapped

CRITERIA = ("l2", "l1", "l_infty", "max", "l2_min", "l1_min")

Stride = int | tuple[int, int]


def stride_pair(stride: Stride) -> tuple[int, int]:
    """(rows, columns) of an integer stride or a pair; ValueError unless both are integers from 1 to 4096."""
    if torch.jit.is_scripting():  # checked when the layer was built
        return (stride, stride) if isinstance(stride, int) else stride
    else:  # TorchScript does not compile this branch
        return _checked(stride)


def _checked(stride: Stride) -> tuple[int, int]:
    s, t = strides(stride, 2)
    return s, t


def extend(x: Tensor, stride: Stride, *, padding: str = "circular") -> Tensor:
    """Pad (B, C, H, W) at the bottom and the right until both sizes are multiples of the stride.

    "circular" repeats the first rows and columns; the other paddings of `pad` are available too.
    """
    s, t = stride_pair(stride)
    if exporting():  # sizes may be symbolic
        height, width = ((n + k - 1) // k * k for n, k in zip(x.shape[-2:], (s, t), strict=True))
        return wrapped(wrapped(x, x.ndim - 2, 0, height), x.ndim - 1, 0, width)
    down, right = -x.shape[-2] % s, -x.shape[-1] % t
    return pad(x, [(0, down), (0, right)], padding=padding) if down or right else x


def shortened(x: Tensor, size: tuple[int, int], stride: Stride) -> Tensor:
    """The map of `size` (H, W) that `extend` extended to (B, C, H', W'); ValueError for any other size."""
    if len(size) != 2:
        raise ValueError(f"size must be (H, W), got {tuple(size)}")
    pairs = list(zip(size, x.shape[-2:], stride_pair(stride), strict=True))
    if not exporting() and any(-(-n // k) * k != whole for n, whole, k in pairs):
        allowed = " x ".join(f"{whole - k + 1} to {whole}" for _, whole, k in pairs)
        raise ValueError(f"size must be {allowed}, to be extended to {tuple(x.shape[-2:])}, got {tuple(size)}")
    return x[..., : size[0], : size[1]]


def polyphase_components(x: Tensor, *, stride: Stride = 2) -> Tensor:
    """All phases of a map.

    Args:
        x: (B, C, H, W).
        stride: one integer s or (rows s, columns t).

    Returns:
        (B, s * t, C, ceil(H/s), ceil(W/t)), phase k at index k.

    Raises:
        ValueError: a bad stride, or a map without four axes.

    Law: a circular shift by one row moves phase (r, c) to phase (r + 1 mod s, c), if s divides H; columns likewise.

    Examples:
        >>> layers.polyphase_components(torch.arange(4.0).view(1, 1, 2, 2)).flatten()
        tensor([0., 2., 1., 3.])
    """
    s, t = stride_pair(stride)
    check_map(x, floating=False)
    grids = _split(extend(x, (s, t)), s, t)  # (B, C, h, s, w, t)
    return grids.permute(0, 5, 3, 1, 2, 4).flatten(1, 2)  # (B, s * t, C, h, w)


@torch.no_grad()
def choose_phase(x: Tensor, *, stride: Stride = 2, criterion: str = "l2") -> Tensor:
    """The phase of each image that adaptive polyphase sampling selects (Chaman and Dokmanic, CVPR 2021).

    Args:
        x: (B, C, H, W), any floating dtype; all channels and pixels of a phase count together.
        stride: one integer s or (rows, columns).
        criterion: the largest norm ("l2", "l1"), the largest magnitude ("l_infty"), the largest signed value ("max"),
            or the smallest norm ("l2_min", "l1_min"). Ties go to the lowest phase.

    Returns:
        (B,) int64. Gradients flow through the selected samples, never through the choice.

    Raises:
        ValueError: an unknown criterion, a bad stride, or an input without four axes or without pixels.

    Law: if the stride divides H and W, the grid chosen for a circularly shifted image is the shifted grid.

    The norms are accurate enough for the law to hold despite rounding. Two phases of a blurred map often differ by 1e-7
    of their norm, as much as single precision loses by summing in another order. So the channels of a pixel are summed
    in float32 or better, in an order that no shift changes, and the pixels of a phase in float64. Rounding still
    decides where the norms are equal by construction: "l1" and "l1_min" of a blurred map without negative values,
    because the even taps of a binomial filter add to what the odd ones do. An image whose squares would over- or
    underflow (in float32, magnitudes above 1e19 or below 1e-19) is first scaled by a power of two to its largest
    number; all others are summed unscaled.

    Examples:
        >>> layers.choose_phase(torch.tensor([[[[0.0, 0.0], [5.0, 0.0]]]]))  # rows move first
        tensor([1])
    """
    check_criterion(criterion)
    s, t = stride_pair(stride)
    check_map(x, floating=False)
    if not exporting() and 0 in x.shape[2:]:
        raise ValueError(f"a map without pixels has no phases, got shape {tuple(x.shape)}")
    if s * t == 1:
        return torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    if kernels.fused(x):
        return kernels.choose_phase(x, stride=(s, t), criterion=criterion)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if not x.shape[1]:  # all phases tie
        return torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    if criterion not in ("l_infty", "max"):
        x = x * exact_scale(x.abs().amax((1, 2, 3), keepdim=True))
    if criterion in ("l_infty", "max"):
        pixels = x.amax(1) if criterion == "max" else x.abs().amax(1)  # (B, H, W)
        scores = _split(extend(pixels[:, None], (s, t)), s, t).amax((1, 2, 4))  # (B, s, t)
    else:
        pixels = (x.square() if criterion.startswith("l2") else x.abs()).sum(1)  # (B, H, W)
        scores = _split(extend(pixels[:, None].double(), (s, t)), s, t).sum((1, 2, 4))  # (B, s, t)
    scores = scores.transpose(1, 2).flatten(1)  # (B, s * t)
    return scores.argmin(1) if criterion.endswith("_min") else scores.argmax(1)


def take_phase(x: Tensor, phase: Tensor, *, stride: Stride = 2) -> Tensor:
    """Sample every image of (B, C, H, W) on its own grid, phase (B,): (B, C, ceil(H/s), ceil(W/t)).

    ValueError for a phase of another shape, dtype or device, and on a CPU for one that is not in 0..s*t-1.

    Examples:
        >>> layers.take_phase(torch.arange(4.0).view(1, 1, 2, 2), torch.tensor([1])).item()
        2.0
    """
    s, t = stride_pair(stride)
    check_phase(x, phase)
    if s * t > 1 and kernels.fused(x):
        return kernels.blur_pool2d(x, size=1, stride=(s, t), padding="circular", phase=phase)
    _check_range(phase, s * t)
    if s * t == 1:
        return x
    images = torch.arange(x.shape[0], device=x.device)
    return _split(extend(x, (s, t)), s, t)[images, :, :, phase % s, :, phase // s]


def mix_phases(x: Tensor, weights: Tensor, *, stride: Stride = 2) -> Tensor:
    """Mix the grids of every image of (B, C, H, W), sum_k weights[k] * phase k: (B, C, ceil(H/s), ceil(W/t)).

    Args:
        weights: (B, s * t), or (B, C, s * t) for weights per channel, phase k at index k; any dtype, converted to that
            of `x`, which is floating.

    Raises:
        ValueError: weights of another shape or device, or a map that is not four-dimensional and floating.

    Law: with one-hot weights it equals `take_phase`.

    Examples:
        >>> layers.mix_phases(torch.arange(4.0).view(1, 1, 2, 2), torch.full((1, 4), 0.25)).item()
        1.5
    """
    s, t = _check_weights(x, weights, stride)
    x = extend(x, (s, t))
    if (s, t) == (2, 2) and mixture.fused(x):
        return mixture.mix(x, weights)
    weights = weights.to(x.dtype).unflatten(-1, (t, s))
    weights = weights[:, None] if weights.ndim == 3 else weights  # (B, 1 or C, t, s)
    y = None
    for r, c in ((r, c) for c in range(t) for r in range(s)):  # one grid at a time: no copy of all of them
        term, weight = x[..., r::s, c::t], weights[:, :, c, r, None, None]
        y = term * weight if y is None else torch.addcmul(y, term, weight)
    assert y is not None
    return y


def spread_phases(y: Tensor, weights: Tensor, *, stride: Stride = 2) -> Tensor:
    """Write (B, C, h, w), times each grid's weight, on every grid of a map (B, C, s * h, t * w).

    The adjoint of `mix_phases`, with the same errors.

    Examples:
        >>> layers.spread_phases(torch.ones(1, 1, 1, 1), torch.full((1, 4), 0.25)).flatten()
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    s, t = _check_weights(y, weights, stride)
    if (s, t) == (2, 2) and mixture.fused(y):
        return mixture.spread(y, weights)
    weights = weights.to(y.dtype).unflatten(-1, (t, s)).transpose(-1, -2)
    weights = weights[:, None] if weights.ndim == 3 else weights  # (B, 1 or C, s, t)
    grids = y[:, :, :, None, :, None] * weights[:, :, None, :, None, :]  # (B, C, h, s, w, t)
    return grids.flatten(4, 5).flatten(2, 3)


def place_phase(y: Tensor, phase: Tensor, *, stride: Stride = 2) -> Tensor:
    """Write (B, C, h, w) on the grid `phase` (B,) of a map of zeros (B, C, s * h, t * w).

    The adjoint of `take_phase`, with the same errors.

    Examples:
        >>> layers.place_phase(torch.ones(1, 1, 1, 1), torch.tensor([1])).flatten()
        tensor([0., 0., 1., 0.])
    """
    s, t = stride_pair(stride)
    check_phase(y, phase)
    if kernels.fused(y):
        shape = (s * y.shape[2], t * y.shape[3])
        return kernels.blur_pool2d_adjoint(y, shape, size=1, stride=(s, t), padding="circular", phase=phase)
    _check_range(phase, s * t)
    rows = (phase % s)[:, None] == torch.arange(s, device=y.device)  # (B, s)
    columns = (phase // s)[:, None] == torch.arange(t, device=y.device)  # (B, t)
    kept = rows[:, None, None, :, None, None] & columns[:, None, None, None, None, :]  # (B, 1, 1, s, 1, t)
    grids = torch.where(kept, y[:, :, :, None, :, None], y.new_zeros(()))  # (B, C, h, s, w, t)
    return grids.flatten(4, 5).flatten(2, 3)  # (B, C, s * h, t * w)


def _check_range(phase: Tensor, count: int) -> None:
    """Raises ValueError for a phase outside 0..count-1, as the CPU kernels do."""
    # reading values from a GPU would synchronise; tracing and transforms have no values
    if not phase.is_cpu or torch.compiler.is_compiling() or plain_only() or type(phase) is not Tensor:
        return
    if ((phase < 0) | (phase >= count)).any():
        raise ValueError(f"phase must lie between 0 and {count - 1}, got {phase.tolist()}")


def _check_weights(x: Tensor, weights: Tensor, stride: Stride) -> tuple[int, int]:
    """Returns the stride as a pair; ValueError unless `weights` has one entry for each phase of (B, C, H, W)."""
    s, t = stride_pair(stride)
    check_map(x)
    check_device(x, "weights", weights)
    if weights.shape not in ((x.shape[0], s * t), (*x.shape[:2], s * t)):
        raise ValueError(
            f"weights must be {(x.shape[0], s * t)} or {(*x.shape[:2], s * t)}, one for each phase, "
            f"got {tuple(weights.shape)}"
        )
    return s, t


def _split(x: Tensor, s: int, t: int) -> Tensor:
    return x.unflatten(3, (-1, t)).unflatten(2, (-1, s))


def check_criterion(criterion: str) -> str:
    """Return `criterion`, or raise ValueError unless it is one of `CRITERIA`."""
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
    return criterion


def check_phase(x: Tensor, phase: Tensor) -> None:
    """Raise ValueError unless `x` is (B, C, H, W) and `phase` is (B,) int64 on its device."""
    check_map(x, floating=False)
    if not isinstance(phase, Tensor):
        raise ValueError(f"phase must be a tensor (B,) int64, got {phase!r}")
    check_device(x, "phase", phase)
    if phase.dtype != torch.int64:
        raise ValueError(
            f"phase must be int64, as choose_phase returns it, got {str(phase.dtype).removeprefix('torch.')}"
        )
    if phase.shape != x.shape[:1]:
        raise ValueError(f"phase must have one entry for each of the {x.shape[0]} images, got {tuple(phase.shape)}")
