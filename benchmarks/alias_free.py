"""The layers of alias-free convnets beside their textbook forms, for `benchmarks.sampling`.

The textbook side is the paper's text as code: two Fourier transforms for every filter, and zeros between the pixels
before an interpolation.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fft, nn

from benchmarks.cases import LAYOUTS, Case
from stillpoint.core.layers import ChannelNorm2d, IdealLowPass2d, PolynomialActivation2d

BATCH, CHANNELS, SIDE = 8, 64, 32


def lowpass(x: Tensor, mask: Tensor) -> Tensor:
    """A mask (H, W // 2 + 1) times the Fourier series of a map."""
    return fft.irfft2(fft.rfft2(x) * mask.to(x.dtype), s=x.shape[-2:])


def masks(side: int, kept: int, edge: float = 0.0) -> Tensor:
    """1 at the bins up to `kept` - 1 of both axes, `edge` at `kept`."""
    whole = torch.fft.fftfreq(side, 1 / side).abs()
    rows = (whole < kept).double() + (whole == kept).double() * edge
    return rows[:, None] * rows[: side // 2 + 1]


def interpolated(x: Tensor, mask: Tensor) -> Tensor:
    """Zeros between the pixels, then a filter of gain 4."""
    fine = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    fine[:, :, ::2, ::2] = x
    return 4 * lowpass(fine, mask)


def cases(device: str) -> Iterator[Case]:
    """Every case, as `benchmarks.layers.measure` takes it."""
    half, up, down = masks(SIDE, SIDE // 4), masks(2 * SIDE, SIDE // 2, 0.5), masks(2 * SIDE, SIDE // 2)
    half, up, down = (mask.to(device) for mask in (half, up, down))
    filters, norm = IdealLowPass2d(CHANNELS), ChannelNorm2d(CHANNELS).to(device)
    polynomial = PolynomialActivation2d(CHANNELS).to(device)

    def subsampled(x: Tensor) -> Tensor:
        return lowpass(x, half)[:, :, ::2, ::2]

    def activated(x: Tensor) -> Tensor:
        a0, a1, a2 = polynomial.coefficients.to(x.dtype)[:, :, None, None].unbind(1)
        fine = interpolated(x, up)
        return lowpass(a0 + a1 * fine + a2 * fine**2, down)[:, :, ::2, ::2]

    def normed(x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / (centred.pow(2).mean((1, 2, 3), keepdim=True) + 1e-6).sqrt()
        return norm.weight[:, None, None].to(x.dtype) * scaled + norm.bias[:, None, None].to(x.dtype)

    jobs: dict[str, tuple[nn.Module, Any, int]] = {
        "Ideal low-pass, stride 2": (filters, subsampled, 4),
        "Polynomial activation": (polynomial, activated, 1),
        "Alias-free layer norm": (norm, normed, 1),
    }
    for job, (layer, textbook, shrinks) in jobs.items():
        for layout, backward in ((layout, backward) for layout in LAYOUTS for backward in (False, True)):
            torch.manual_seed(0)
            x = torch.randn(BATCH, CHANNELS, SIDE, SIDE, device=device).to(memory_format=LAYOUTS[layout])
            yield Case(
                job,
                {"layout": layout, "dtype": "float32"},
                x,
                textbook,
                {"stillpoint": layer, "textbook": textbook},
                output=x.numel() // shrinks,
                baseline="textbook",
                tolerance=1e-4,
                backward=backward,
            )
