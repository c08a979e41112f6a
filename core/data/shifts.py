"""Shifts batches of images: circularly by whole or fractional pixels, with zeros, and by a moving window.

A shift is (rows, columns): positive moves the content down and to the right, as `torch.roll` does. Each function takes
one shift for the whole batch, a pair or a tensor (2,), or one for each image, a tensor (B, 2). Shifts given as tensors
stay on their device: nothing here waits for a GPU.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Shifts = Tensor | Sequence[int] | Sequence[float] | Sequence[Sequence[int]] | Sequence[Sequence[float]]


def roll(x: Tensor, shifts: Shifts) -> Tensor:
    """Shift circularly by whole pixels.

    Args:
        x: (B, C, H, W), any dtype.
        shifts: integers (2,) or (B, 2), pixels, of any size.

    Returns:
        (B, C, H, W), the same values at other positions.

    Raises:
        ValueError: shifts that are not integers or have another shape.

    Law: roll(roll(x, a), b) is roll(x, a + b), and roll(x, (H, W)) is x.
    """
    moves = _moves(x, shifts)
    if moves.ndim == 1 and not isinstance(shifts, Tensor):
        return torch.roll(x, moves.tolist(), dims=(2, 3))
    rows, columns = _sources(x, moves)
    return _gather(x, rows % x.shape[2], columns % x.shape[3])


def shift_zeros(x: Tensor, shifts: Shifts) -> Tensor:
    """Shift by whole pixels; pixels that enter are zero, pixels that leave are lost.

    Args:
        x: (B, C, H, W), any dtype. Zero is the mean colour after normalisation.
        shifts: integers (2,) or (B, 2), pixels, of any size.

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: shifts that are not integers or have another shape.
    """
    height, width = x.shape[2:]
    rows, columns = _sources(x, _moves(x, shifts))
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    moved = _gather(x, rows.clamp(0, height - 1), columns.clamp(0, width - 1))
    return torch.where(inside[:, None], moved, x.new_zeros(()))


def crop_window(x: Tensor, offsets: Shifts, size: int | tuple[int, int]) -> Tensor:
    """Cut a window out of every image.

    Args:
        x: (B, C, H, W), any dtype.
        offsets: integers (2,) or (B, 2): the row and column of the window's top left pixel.
        size: side of the window in pixels, or (height, width).

    Returns:
        (B, C, height, width); one window for all is a view.

    Raises:
        ValueError: a window larger than the image or, unless `offsets` is a tensor on an accelerator, outside it.
    """
    height, width = (size, size) if isinstance(size, int) else size
    starts = _moves(x, offsets)
    free = (x.shape[2] - height, x.shape[3] - width)
    if height < 1 or width < 1 or min(free) < 0:
        raise ValueError(f"a window of {height}x{width} does not fit images of {x.shape[2]}x{x.shape[3]}")
    if starts.device.type == "cpu" and ((starts < 0) | (starts > torch.tensor(free))).any():
        raise ValueError(
            f"offsets of a {height}x{width} window in {x.shape[2]}x{x.shape[3]} images must be from (0, 0) to {free}, "
            f"got {starts.tolist()}"
        )
    if starts.ndim == 1 and not isinstance(offsets, Tensor):
        top, left = starts.tolist()
        return x[:, :, top : top + height, left : left + width]
    starts = starts.to(x.device).expand(x.shape[0], 2)
    rows = starts[:, :1] + torch.arange(height, device=x.device)  # (B, height)
    if x.requires_grad or not x.numel():
        # the backward pass of the faster way below would hold `width` copies of the batch
        return _gather(x, rows, starts[:, 1:] + torch.arange(width, device=x.device))
    # a window's row is a run of `width` values; copying whole runs is five times as fast as single values
    maps = x.shape[2] * x.shape[3] * torch.arange(x.shape[0] * x.shape[1], device=x.device)
    inside = rows * x.shape[3] + starts[:, 1:]  # (B, height)
    first = maps.view(x.shape[0], x.shape[1], 1) + inside[:, None]  # (B, C, height)
    return x.reshape(-1).unfold(0, width, 1).index_select(0, first.flatten()).unflatten(0, first.shape)


def fourier_shift(x: Tensor, shifts: Shifts) -> Tensor:
    """Shift circularly by any fraction of a pixel, by trigonometric interpolation.

    Args:
        x: (B, C, H, W), floating; computed in float32 or better.
        shifts: real numbers (2,) or (B, 2), pixels.

    Returns:
        (B, C, H, W), real, in the dtype of `x`. On an axis of even size the Nyquist frequency, half a cycle per pixel,
        has no phase in a real image: its amplitude is multiplied by cos(pi * shift).

    Raises:
        ValueError: an integer image, or shifts of another shape.

    Law: a whole shift is `roll`. Shifting by a and then by b is shifting by a + b, and the energy is kept, at odd sizes
    and for images without the Nyquist frequency.
    """
    if not x.is_floating_point():
        raise ValueError(f"a fractional shift needs a floating image, got {x.dtype}")
    real = torch.promote_types(x.dtype, torch.float32)
    moves = _moves(x, shifts, torch.float64).to(x.device).expand(x.shape[0], 2)
    height, width = x.shape[2:]
    rows = _ramp(torch.fft.fftfreq(height, device=x.device, dtype=torch.float64), moves[:, :1])  # (B, H)
    columns = _ramp(torch.fft.rfftfreq(width, device=x.device, dtype=torch.float64), moves[:, 1:])  # (B, W // 2 + 1)
    spectrum = torch.fft.rfft2(x.to(real))  # (B, C, H, W // 2 + 1)
    spectrum = spectrum * (rows[:, :, None] * columns[:, None, :])[:, None].to(spectrum.dtype)
    return torch.fft.irfft2(spectrum, s=(height, width)).to(x.dtype)


def crop_subpixel(x: Tensor, offsets: Shifts, size: int | tuple[int, int], *, factor: int = 2) -> Tensor:
    """Cut windows at fractions of a pixel from images of `factor` times the resolution, then reduce them.

    Args:
        x: (B, C, H, W), floating, at `factor` times the resolution of the result.
        offsets: integers (2,) or (B, 2): the window's top left pixel in `x`, so in units of 1/factor pixel of the
            result.
        size: side of the result in pixels, or (height, width).
        factor: 2 for half-pixel shifts.

    Returns:
        (B, C, height, width), reduced by the antialiased bilinear filter, in the dtype of `x`.

    Raises:
        ValueError: as in `crop_window`, for a window of factor * size.

    Law: raising an offset by `factor` shifts the result by a whole pixel, except at its edge.
    """
    height, width = (size, size) if isinstance(size, int) else size
    window = crop_window(x, offsets, (factor * height, factor * width))
    return F.interpolate(window, size=(height, width), mode="bilinear", antialias=True, align_corners=False)


def _moves(x: Tensor, shifts: Shifts, dtype: torch.dtype | None = None) -> Tensor:
    """The shifts as a tensor (2,) or (B, 2), int64 unless a dtype is given."""
    if x.ndim != 4:
        raise ValueError(f"a batch of images (B, C, H, W) has four axes, got shape {tuple(x.shape)}")
    moves = shifts if isinstance(shifts, Tensor) else torch.as_tensor(shifts, dtype=dtype)
    if dtype is None and (moves.is_floating_point() or moves.dtype == torch.bool):
        raise ValueError(f"shifts by whole pixels must be integers, got {moves.dtype}")
    if moves.shape not in ((2,), (x.shape[0], 2)):
        raise ValueError(f"shifts must have shape (2,) or ({x.shape[0]}, 2), got {tuple(moves.shape)}")
    return moves.to(dtype or torch.int64)


def _sources(x: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (B, H) and columns (B, W) that each pixel comes from, before any wrapping."""
    moves = moves.to(x.device).expand(x.shape[0], 2)
    rows = torch.arange(x.shape[2], device=x.device) - moves[:, :1]
    columns = torch.arange(x.shape[3], device=x.device) - moves[:, 1:]
    return rows, columns


def _gather(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels (rows[b, i], columns[b, j]) of every image b, in one gather: (B, C, h, w)."""
    batch, channels, _, width = x.shape
    pixels = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)  # (B, h * w)
    picked = x.flatten(2).gather(2, pixels[:, None].expand(batch, channels, -1))
    return picked.unflatten(2, (rows.shape[1], columns.shape[1]))


def _ramp(frequencies: Tensor, moves: Tensor) -> Tensor:
    """Fourier multiplier (B, bins) of a shift by moves (B, 1), in double precision, since large shifts have large
    phases."""
    angles = -2 * math.pi * frequencies * moves
    ramp = torch.polar(torch.ones_like(angles), angles)
    return torch.where(frequencies.abs() == 0.5, ramp.real.to(ramp.dtype), ramp)
