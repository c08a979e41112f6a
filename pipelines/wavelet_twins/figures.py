"""The picture of a first layer: every kernel, in the colours that it sees."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.files import atomic_path
from core.layers.wavelet_twin import WaveletTwin2d
from pipelines.wavelet_twins.models import resulting_kernel

#: kernels in a row, and grey pixels between them
COLUMNS, GAP = 16, 2
GREY = 0.5


def kernel_sheet(first: WaveletTwin2d, image_size: int = 224, *, framed: bool = False) -> Tensor:
    """All kernels of a first layer as one picture in [0, 1], (H, W, 3): free ones, then real and imaginary parts in
    turn.

    Zero is grey and each kernel has a contrast of its own. One channel is shown in grey; more than three as their mean.
    """
    kernels = resulting_kernel(first, image_size, framed=framed)  # (N, C, S, S)
    if kernels.shape[1] not in (1, 3):
        kernels = kernels.mean(1, keepdim=True)
    kernels = kernels.expand(-1, 3, -1, -1)
    largest = kernels.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(kernels.dtype).tiny)
    tiles = GREY + kernels / (2 * largest)
    count, _, side, _ = tiles.shape
    rows = -(-count // COLUMNS)
    step = side + GAP
    sheet = torch.full((3, rows * step + GAP, COLUMNS * step + GAP), GREY)
    for i, tile in enumerate(tiles):
        top, left = GAP + i // COLUMNS * step, GAP + i % COLUMNS * step
        sheet[:, top : top + side, left : left + side] = tile
    return sheet.permute(1, 2, 0)


def save_kernels(
    first: WaveletTwin2d, path: Path, image_size: int = 224, *, scale: int = 2, framed: bool = False
) -> Path:
    """`kernel_sheet` as a PNG, each number `scale` x `scale` pixels; the path."""
    from PIL import Image

    sheet = kernel_sheet(first, image_size, framed=framed).cpu().numpy()
    pixels = np.round(255 * sheet).astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary)
    return path
