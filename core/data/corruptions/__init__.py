"""Common corruptions in five severities, for images of 32 (CIFAR-10-C), 64 and 224 pixels (ImageNet-C).

Source: Hendrycks and Dietterich (ICLR 2019); the formulas match the code that made the published sets byte for byte,
given the same draws (`apply_seeded`). The published files were drawn without a seed. Here every image of every
corruption and severity has its own random stream, so any part can be regenerated alone.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stillpoint.core.base.errors import UserError, nearest
from stillpoint.core.base.randomness import uniform_integers
from stillpoint.core.data.corruptions import blur, digital, frost, noise, weather
from stillpoint.core.data.corruptions.draws import Draws
from stillpoint.core.data.corruptions.severities import SIDE_32, SIDE_64, SIDE_224, Table

_FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": weather.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": weather.spatter,
    "saturate": weather.saturate,
}
#: all 19, in the order of the published set
NAMES = tuple(_FUNCTIONS)
#: the 15 of the benchmark; the other four are for validation
BENCHMARK = NAMES[:15]
SEVERITIES = (1, 2, 3, 4, 5)
#: side of the images -> constants
TABLES: dict[int, Table] = {32: SIDE_32, 64: SIDE_64, 224: SIDE_224}
_CHUNK_VALUES = 64 * 32 * 32 * 3  # values processed at once, so that they stay in a core's cache
_CHUNK_LEAST = 16  # images of any size that share the cost of Python's loops


def corrupt(
    images: np.ndarray,
    name: str,
    severity: int,
    *,
    indices: Sequence[int] | np.ndarray | None = None,
    seed: int = 0,
    frost_folder: Path | None = None,
) -> np.ndarray:
    """`images` uint8 (N, S, S, 3) under one corruption, same shape and type; S is 32, 64 or 224.

    `indices` (N,) are the images' numbers in their data set (default 0..N-1): an image's draws depend on (seed, name,
    severity, its number) alone, not on the batch. `frost_folder` has the photographs of the published frost; without it
    a computed texture replaces them. `UserError` for an unknown name or severity, and for other images.
    """
    numbers = np.arange(len(images)) if indices is None else np.asarray(indices)
    if numbers.shape != (len(images),):
        raise ValueError(f"each of {len(images)} images needs an index, got indices of shape {numbers.shape}")
    check(name, severity)
    seeds = uniform_integers(
        torch.from_numpy(numbers.astype(np.int64)), 0, 1 << 32, 1, "corruption", seed, name, severity
    )
    return apply_seeded(images, name, severity, seeds[:, 0].numpy(), frost_folder=frost_folder)


def apply_seeded(
    images: np.ndarray, name: str, severity: int, seeds: np.ndarray, *, frost_folder: Path | None = None, **options: Any
) -> np.ndarray:
    """`corrupt` with a 32-bit seed (N,) for each image's stream, and options of the corruption's function."""
    check(name, severity)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise UserError(f"corruptions take uint8 images (N, S, S, 3), not {images.dtype} {images.shape}")
    side = images.shape[1]
    if side not in TABLES or images.shape[2] != side:
        known = ", ".join(f"{s}x{s}" for s in TABLES)
        raise UserError(f"corruptions are defined for images of {known}, not {side}x{images.shape[2]}")
    if name == "frost":
        options["textures"] = frost.textures(frost_folder, side)
    constants = TABLES[side][name][severity - 1]
    arguments = constants if isinstance(constants, tuple) else (constants,)
    out = np.empty_like(images)
    step = max(_CHUNK_LEAST, _CHUNK_VALUES // (side * side * 3))
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        changed = _FUNCTIONS[name](images[part], Draws(seeds[part]), *arguments, **options)
        # the published sets were truncated to 8 bits, not rounded
        out[part] = changed if changed.dtype == np.uint8 else (changed.clip(0, 1) * 255).astype(np.uint8)
    return out


def check(name: str, severity: int) -> None:
    """`UserError` for an unknown corruption or severity."""
    if name not in _FUNCTIONS:
        raise UserError(f"unknown corruption {name!r}{nearest(name, list(NAMES))}; choose from {', '.join(NAMES)}")
    if severity not in SEVERITIES:
        raise UserError(f"unknown severity {severity!r} of {name}: choose from {', '.join(map(str, SEVERITIES))}")
