"""The picture of the kernels, and flips against accuracy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stillpoint.core.reporting.tables import Cell, Row, Table
from stillpoint.pipelines.wavelet_twins import figures
from stillpoint.pipelines.wavelet_twins.figures import COLUMNS, GAP, kernel_sheet, save_kernels
from stillpoint.pipelines.wavelet_twins.models import first_layer, resulting_kernel
from stillpoint.pipelines.wavelet_twins.results import AXES
from stillpoint.pipelines.wavelet_twins.results import COLUMNS as TABLE_COLUMNS


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


def table(count: int, published: float | None) -> Table:
    cells = [
        {
            "accuracy": Cell(50.0 + k, None, 1, published),
            "mfr_diagonal": Cell(10.0 + k, None, 1, published),
            "normalised_mfr_diagonal": Cell(20.0 + k, None, 1),
        }
        for k in range(count)
    ]
    rows = tuple(Row(f"net{k}", (0,), {"trained": own}, pareto=k == 0) for k, own in enumerate(cells))
    return Table("wavelet_twins", "cifar10", "t", rows, columns=TABLE_COLUMNS, axes=AXES)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr(figures, "save", lambda figure, path: (found.append(figure), path)[1])
    return found


def test_stored_scores_have_a_panel_of_their_own_and_their_network_s_marker_hollow(
    tmp_path: Path, kept: list[Any]
) -> None:
    figures.accuracy_flips(table(6, 30.0), tmp_path / "a.png")
    figures.accuracy_flips(table(6, None), tmp_path / "b.png")
    with_stored, without = kept
    assert [axis.get_title() for axis in with_stored.axes] == ["ours", "ours", "the authors' stored scores"]
    assert len(without.axes) == 2
    drawn = [[line.get_marker() for line in axis.get_lines()] for axis in with_stored.axes]
    ours, theirs = ([marker for marker in drawn[k] if marker in "osD^vP"] for k in (0, 2))
    assert theirs == ours and len(set(theirs)) == 6
    assert {line.get_markerfacecolor() for line in with_stored.axes[2].get_lines()} == {"none"}


def test_more_classifiers_than_markers_have_numbers(tmp_path: Path, kept: list[Any]) -> None:
    figures.accuracy_flips(table(18, 30.0), tmp_path / "a.png")
    numbers = [str(k) for k in range(1, 19)]
    assert all([text.get_text() for text in axis.texts] == numbers for axis in kept[0].axes)
    assert kept[0].legends[0].get_texts()[17].get_text() == "18  net17"
