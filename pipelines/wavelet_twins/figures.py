"""The paper's figures: kernels of the first layer in colour, curves over shifts, accuracy against flip rate."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import atomic_path
from stillpoint.core.layers.wavelet_twin import WaveletTwin2d
from stillpoint.core.reporting.figures import MARKERS, beside, colours, entitle, save, styled, subplots
from stillpoint.pipelines.wavelet_twins.models import resulting_kernel

if TYPE_CHECKING:
    from stillpoint.core.reporting.tables import Table

#: kernels per row, and grey pixels between them
COLUMNS, GAP = 16, 2
GREY = 0.5


def kernel_sheet(first: WaveletTwin2d, image_size: int = 224, *, framed: bool = False) -> Tensor:
    """All kernels of a first layer as one image (H, W, 3) in [0, 1]: free ones, then real and imaginary parts in turn.

    Zero is grey, and each kernel has its own contrast. Kernels with three input channels are shown in colour, with
    another number as the grey of their mean.
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
    """Writes `kernel_sheet` as a PNG with `scale` x `scale` pixels for each number, and returns its path."""
    from PIL import Image

    sheet = kernel_sheet(first, image_size, framed=framed).cpu().numpy()
    pixels = np.round(255 * sheet).astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary)
    return path


@styled
def curves(
    panels: Mapping[tuple[str, str], Mapping[str, Sequence[np.ndarray]]],
    path: Path,
    *,
    title: str,
    across: str,
    up: str,
    step: float = 1.0,
    scale: float = 1.0,
    start: int = 0,
    name: Callable[[str], str] = str,
) -> Path:
    """Draws curves over shifts: lines are means over seeds, bands from the lowest to the highest.

    `panels` holds for each (row, column) the curves of each network, one for each seed; point k is at
    ``(start + k) * step``, times `scale` upwards.
    """
    if not panels:
        raise UserError(f"{path.name} needs the evaluation shifts: add it to EVALUATE.METRICS")
    rows, columns = (list(dict.fromkeys(place[k] for place in panels)) for k in (0, 1))
    figure, axes = subplots(len(rows), len(columns), (3.0 * len(columns) + 2.2, 2.7 * len(rows)), sharey="row")
    look = colours(list(dict.fromkeys(model for held in panels.values() for model in held)))
    for (row, column), held in panels.items():
        axis = axes[rows.index(row), columns.index(column)]
        for model, own in held.items():
            values = np.stack(own) * scale
            places = (start + np.arange(values.shape[1])) * step
            colour, marker = look[model]
            shown = {"color": colour, "marker": marker, "markersize": 3, "linewidth": 1.3, "label": name(model)}
            axis.plot(places, values.mean(0), **shown)
            axis.fill_between(places, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
        axis.set_title(f"{column}, {row}")
        axis.locator_params(axis="x", integer=True)
        if column == columns[0]:
            axis.set_ylabel(up)
        if row == rows[-1]:
            axis.set_xlabel(across)
    for axis in axes[:, 0]:
        # after all curves of a row are drawn: setting a limit ends autoscaling
        axis.set_ylim(bottom=0)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    entitle(figure, title)
    return save(figure, path)


@styled
def accuracy_flips(table: "Table", path: Path, *, name: Callable[[str], str] = str) -> Path:
    """Draws flip rate under diagonal shifts against accuracy, without and with normalisation.

    The authors' stored classifiers are hollow, in their own panel. Bars are standard deviations over seeds; a ring
    marks the Pareto front of `table.axes`. If there are more networks than markers, each point has its network's
    number in the legend.
    """
    across = table.axes[0]
    held = {key for row in table.rows for key in row.cells.get("trained", {})}
    shown = [key for key in ("mfr_diagonal", "normalised_mfr_diagonal") if key in held]
    if not shown or across not in held:
        raise UserError(f"{path.name} needs the evaluations accuracy and shifts: add them to EVALUATE.METRICS")
    stored = {up: _published(table, across, up) for up in shown}
    panels = [(up, False) for up in shown] + [(up, True) for up in shown if stored[up]]
    figure, axes = subplots(1, len(panels), (3.6 * len(panels) + 2.2, max(3.6, 0.7 + 0.19 * len(table.rows))))
    look = colours([row.model for row in table.rows])
    many = len(table.rows) > len(MARKERS)
    handles: dict[str, Any] = {}
    for axis, (up, theirs) in zip(axes[0], panels, strict=True):
        for number, row in enumerate(table.rows, start=1):
            colour, marker = look[row.model]
            cells = row.cells.get("trained", {})
            if theirs and row.model in stored[up]:
                x, y = stored[up][row.model]
                axis.plot(x, y, marker, color=colour, markerfacecolor="none", zorder=3)
            elif not theirs and across in cells and up in cells:
                x, y = cells[across].mean, cells[up].mean
                bars = {"xerr": cells[across].spread, "yerr": cells[up].spread, "capsize": 2, "elinewidth": 1}
                point = axis.errorbar(x, y, fmt=marker, color=colour, zorder=3, **bars)
                handles.setdefault(f"{number}  {name(row.model)}" if many else name(row.model), point)
                if row.pareto and up == table.axes[1]:
                    axis.plot(x, y, "o", markersize=14, markerfacecolor="none", color="#555555", zorder=1)
            else:
                continue
            if many:
                beside(axis, str(number), (x, y))
        axis.set_title("the authors' stored scores" if theirs else "ours")
        axis.set_xlabel(f"{table.column(across).title} (%)")
        axis.set_ylabel(f"{table.column(up).title} (%)".replace(", ", ",\n", 1))
    figure.legend(handles.values(), handles.keys(), loc="outside right center")
    entitle(figure, table.title + "; rings: Pareto front")
    return save(figure, path)


def _published(table: "Table", across: str, up: str) -> dict[str, tuple[float, float]]:
    """{network: the authors' values of both metrics}, for networks with both."""
    found = {}
    for row in table.rows:
        x, y = (row.cells.get("trained", {}).get(key) for key in (across, up))
        if x and y and x.published is not None and y.published is not None:
            found[row.model] = (x.published, y.published)
    return found


@styled
def kernels(sheets: Mapping[str, np.ndarray], path: Path, *, title: str) -> Path:
    """Draws images of `kernel_sheet` one below the other."""
    if not sheets:
        raise UserError(f"{path.name} needs a network with wavelets: this grid has none")
    heights = [sheet.shape[0] / sheet.shape[1] for sheet in sheets.values()]
    options = {"gridspec_kw": {"height_ratios": heights}}
    figure, axes = subplots(len(sheets), 1, (7.2, 7.0 * sum(heights) + 0.4 * len(sheets) + 0.3), **options)
    for axis, (name, sheet) in zip(axes[:, 0], sheets.items(), strict=True):
        axis.imshow(sheet, interpolation="nearest")
        axis.set_axis_off()
        axis.set_title(f"{name}: free kernels, then those made of wavelet packets", loc="left")
    entitle(figure, f"{title}: kernels of the first layer; zero is grey, each kernel has a contrast of its own")
    return save(figure, path)
