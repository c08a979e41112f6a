"""The picture of the kernels."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipelines.wavelet_twins.figures import COLUMNS, GAP, kernel_sheet, save_kernels
from pipelines.wavelet_twins.models import first_layer, resulting_kernel


def test_every_kernel_has_its_place_and_full_contrast() -> None:
    first = first_layer("dtcwpt_resnet18", "Ft40YEx_mod")
    kernels, sheet = resulting_kernel(first), kernel_sheet(first)
    step = 30 + GAP
    assert sheet.shape == (6 * step + GAP, COLUMNS * step + GAP, 3)  # 88 kernels in rows of 16
    for i in (0, 40, 87):
        top, left = GAP + i // COLUMNS * step, GAP + i % COLUMNS * step
        tile = (sheet[top : top + 30, left : left + 30] - 0.5).permute(2, 0, 1)
        torch.testing.assert_close(tile, kernels[i] / (2 * kernels[i].abs().max()), atol=1e-6, rtol=0)


def test_it_is_saved_as_a_picture(tmp_path: Path) -> None:
    first = first_layer("dtcwpt_resnet18", "Ft40YEx", in_channels=1)
    path = save_kernels(first, tmp_path / "kernels.png", scale=3)
    pixels = np.array(Image.open(path))
    assert pixels.shape == (3 * (4 * 32 + 2), 3 * (16 * 32 + 2), 3)
    assert (pixels[..., 0] == pixels[..., 2]).all()  # one channel is grey
