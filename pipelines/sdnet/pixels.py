"""Converts between normalised images and pixels: 8-bit RGB for corruptions, [0, 1] for attacks and figures."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stillpoint.core.config.catalogue import info
from stillpoint.core.config.schema import RunConfig


@dataclass(frozen=True)
class Pixels:
    """The normalisation of a run's images, per channel, and its inverse."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, config: RunConfig) -> "Pixels":
        entry = info(config.data.name)
        return cls(config.data.mean or entry.mean, config.data.std or entry.std)

    def scaled(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) as pixels in [0, 1]."""
        return images * self._column(self.std, images) + self._column(self.mean, images)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels (B, C, H, W) in [0, 1], normalised."""
        return (pixels - self._column(self.mean, pixels)) / self._column(self.std, pixels)

    def stored(self, images: Tensor) -> np.ndarray:
        """Normalised images (B, C, H, W) as stored pixels, uint8 RGB (B, H, W, 3); grey is repeated."""
        pixels = (self.scaled(images) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        # a copy, because channels-last images would yield a read-only view
        return np.array(np.broadcast_to(pixels, (*pixels.shape[:3], 3)), order="C")

    def seen(self, pictures: np.ndarray, like: Tensor) -> Tensor:
        """uint8 RGB (B, H, W, 3) as normalised images (B, C, H, W) on the device of `like`.

        Grey images are the mean of the three channels, which weakens noise that is independent in each by sqrt(3).
        """
        pixels = torch.from_numpy(pictures).to(like.device).permute(0, 3, 1, 2)  # (B, 3, H, W)
        grey = len(self.mean) == 1
        return self.normalised((pixels.float().mean(1, keepdim=True) if grey else pixels.float()) / 255)

    @staticmethod
    def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)
