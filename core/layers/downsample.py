"""The Downsample slot: what a backbone puts where it would otherwise stride.

A Downsample maps (B, C, H, W) to (B, C, ceil(H/s), ceil(W/s)) by ``forward(x, phase=None, *, return_phase=False)``.
With `return_phase` it returns the result and the phase (B,) int64 it sampled each image at, or None for a fixed grid
that starts at the first pixel. Given a phase, it samples there instead of choosing, so that a shortcut stays in
register with its main branch.
"""

import inspect
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stillpoint.core.layers.adaptive_blur import AdaptiveBlur2d
from stillpoint.core.layers.blur import BlurPool2d
from stillpoint.core.layers.lowpass import IdealLowPass2d
from stillpoint.core.layers.phases import Stride, stride_pair, take_phase
from stillpoint.core.layers.polyphase import PolyphaseDownsample2d

# torch.fx, which cannot follow its checks, takes this as one step
torch.fx.wrap("take_phase")


class DownsampleFactory(Protocol):
    """Builds the Downsample for one place of a backbone."""

    def __call__(self, channels: int, stride: Stride = 2) -> nn.Module: ...


class Subsample(nn.Module):
    """Keep every stride-th pixel with no filter, from the first one or from the given phase.

    `device` and `dtype` are taken as by every filling of the slot; it holds no tensor.
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

    def forward(self, x: Tensor, phase: Tensor | None = None, *, return_phase: bool = False):
        s, t = self.stride
        y = x[..., ::s, ::t] if phase is None else take_phase(x, phase, stride=self.stride)
        return (y, phase) if return_phase else y

    def extra_repr(self) -> str:
        return f"{self.channels}, stride={self.stride}"


FILLINGS: dict[str, type[nn.Module]] = {
    "subsample": Subsample,
    "blur": BlurPool2d,
    "adaptive_blur": AdaptiveBlur2d,
    "polyphase": PolyphaseDownsample2d,
    "ideal_lowpass": IdealLowPass2d,
}


def downsample_factory(kind: str, **options: Any) -> DownsampleFactory:
    """The factory of one kind of Downsample, by name.

    Args:
        kind: a name of `FILLINGS`: "subsample", "blur", "adaptive_blur", "polyphase", "ideal_lowpass".
        options: keyword options of that class, except `channels` and `stride`, which the backbone gives.

    Raises:
        ValueError: an unknown kind, or an option that it does not have. Bad values are refused when a layer is built.
    """
    if kind not in FILLINGS:
        raise ValueError(f"downsample must be one of {', '.join(FILLINGS)}, got {kind!r}")
    allowed = [name for name in inspect.signature(FILLINGS[kind]).parameters if name not in ("channels", "stride")]
    if unknown := [name for name in options if name not in allowed]:
        raise ValueError(f"{kind} has the options {', '.join(allowed) or '(none)'}, got {', '.join(unknown)}")
    return partial(FILLINGS[kind], **options)
