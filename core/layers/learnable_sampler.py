"""What learnable polyphase downsampling and upsampling share: the filter, the temperature and the noise."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stillpoint.core.layers.adaptive_blur import AdaptiveBlur2d
from stillpoint.core.layers.blur import BlurPool2d
from stillpoint.core.layers.gumbel import Tempered
from stillpoint.core.layers.phases import Stride, stride_pair

FILTERS = ("binomial", "adaptive")


class LearnableSampler(Tempered, nn.Module):
    """The base of `LearnablePolyphaseDownsample2d` and `LearnablePolyphaseUpsample2d`."""

    if TYPE_CHECKING:  # TorchScript reads attributes' annotations, and supports no modules in them
        filter: nn.Module

    def __init__(
        self,
        channels: int | None,
        stride: Stride,
        filter: str,
        size: int,
        padding: str,
        groups: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.register_buffer("noise_key", None, persistent=False)
        self.channels, self.stride = channels, stride_pair(stride)
        if filter not in FILTERS:
            raise ValueError(f"filter must be one of {', '.join(FILTERS)}, got {filter!r}")
        made: dict[str, Any] = {"size": size, "padding": padding, "device": device, "dtype": dtype}
        if filter == "binomial":
            self.filter = BlurPool2d(channels, 1, **made)
        elif channels is None:
            raise ValueError("an adaptive filter needs the number of channels")
        else:
            self.filter = AdaptiveBlur2d(channels, 1, groups=groups, **made)
