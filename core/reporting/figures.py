"""Figures of results. The same inputs give the same bytes.

Colours suit colour-blind readers; markers distinguish networks as well, so that figures can be read in grey.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from stillpoint.core.base.documents import read_numbers
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import atomic_path
from stillpoint.core.metrics.logit_change import ROUNDING
from stillpoint.core.reporting.reading import read_maps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stillpoint.core.reporting.tables import Table

P = ParamSpec("P")

# Okabe and Ito's palette (jfly.uni-koeln.de/color), without its yellow, which is too pale for lines
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vP*X<>dp"
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
}


def styled(draw: Callable[P, Path]) -> Callable[P, Path]:
    """Runs a drawing function in the project's style, without changing the caller's matplotlib settings."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Path:
        import matplotlib

        matplotlib.use("Agg")
        with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
            return draw(*args, **kwargs)

    return drawn


def subplots(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple["Figure", Any]:
    """A figure of `size` inches and its axes, an array (rows, columns)."""
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=size, squeeze=False, **options)


def save(figure: "Figure", path: Path) -> Path:
    """Writes a figure atomically, closes it, and returns its path."""
    import matplotlib.pyplot as plt

    if path.suffix.lower() != ".png":
        plt.close(figure)
        raise UserError(f"figures are written as PNG: {path} must end in .png")
    with atomic_path(path) as temporary:
        # without Matplotlib's name and version, which would change the bytes
        figure.savefig(temporary, metadata={"Software": None})
    plt.close(figure)
    return path


def colours(models: Sequence[str]) -> dict[str, tuple[str, str]]:
    """(colour, marker) of each network, the same in every figure of a table; no two share both, up to 84 networks.

    Up to 12 networks have a marker each, and up to 7 a colour each. More share colours by family: a network and those
    named after it (``resnet18``, ``resnet18_lpf2``, ...), the first the darkest. Of more than 12, networks at the same
    place in their families share a marker.
    """
    own_marker = dict(zip(models, MARKERS, strict=False))
    if len(models) > len(PALETTE):
        families = _families(models)
        if len(families) <= len(PALETTE) and max(map(len, families)) <= len(MARKERS):
            return {
                model: (
                    _paler(colour, 0.55 * place / max(len(own) - 1, 1)),
                    own_marker[model] if len(models) <= len(MARKERS) else MARKERS[place],
                )
                for colour, own in zip(PALETTE, families, strict=False)
                for place, model in enumerate(own)
            }
    # 7 and 12 have no common factor, so pairs repeat only from the 85th network on
    return {model: (PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]) for i, model in enumerate(models)}


def _families(models: Sequence[str]) -> list[list[str]]:
    """Groups the networks: each base name with the names that extend it by ``_...``, in the given order."""
    found: dict[str, list[str]] = {}
    for model in models:
        bases = [other for other in models if other != model and model.startswith(f"{other}_")]
        found.setdefault(min(bases, key=len, default=model), []).append(model)
    return list(found.values())


def _paler(colour: str, share: float) -> str:
    """A colour ``#rrggbb`` mixed with a share of white."""
    parts = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (255 - part) * share):02X}" for part in parts)


def wrapped(title: str, width: int) -> str:
    """A title in lines of at most `width` characters, so that it fits the figure.

    Dollar signs are escaped, since Matplotlib reads the text between two as a formula.
    """
    return "\n".join(fill(line, width) for line in title.splitlines()).replace("$", r"\$")


def entitle(figure: "Figure", title: str) -> None:
    """Puts a title above a whole figure, from its left edge, wrapped to its width."""
    # about 14 characters of 9.5 points fit in an inch
    figure.suptitle(wrapped(title, int(14 * figure.get_figwidth())), x=0.01, ha="left", fontsize=9.5)


@styled
def consistency_accuracy(table: "Table", path: Path) -> Path:
    """Draws the table's second axis (consistency) against its first (accuracy): untrained hollow, trained filled.

    Bars are standard deviations over seeds, and the Pareto front is marked. If there are more networks than markers,
    each point has its network's number in the legend. A second axis of percentages shows the distance from 100 % on a
    logarithmic scale, where networks differ; one of decibels is linear.
    """
    many = len(table.rows) > len(MARKERS)
    figure, axes = subplots(1, 1, (6.2 if many else 5.6, max(3.8, 0.9 + 0.19 * len(table.rows))))
    axis: Axes = axes[0, 0]
    look = colours([row.model for row in table.rows])
    across, up = table.axes
    percent = table.column(up).unit == "%"
    gaps = [100 - cells[up].mean for row in table.rows for cells in row.cells.values() if up in cells]
    floor = min([gap for gap in gaps if gap > 0], default=1.0) / 4
    front = []
    said: set[str] = set()
    for number, row in enumerate(table.rows, start=1):
        colour, marker = look[row.model]
        for state in ("untrained", "trained"):
            cells = row.cells.get(state, {})
            if across not in cells or up not in cells:
                continue
            accuracy, consistency = cells[across], cells[up]
            # the gap of exactly 100 % has no logarithm: it gets its own tick
            gap = (100 - consistency.mean or floor) if percent else consistency.mean
            trained = state == "trained"
            said.add(state)
            axis.errorbar(
                accuracy.mean,
                gap,
                xerr=accuracy.spread,
                yerr=_reach(consistency.spread, gap, floor if percent else None),
                fmt=marker,
                color=colour,
                markerfacecolor=colour if trained else "white",
                capsize=2,
                elinewidth=1,
                label=(f"{number}  {row.model}" if many else row.model) if trained else None,
                zorder=3,
            )
            if many:
                beside(axis, str(number), (accuracy.mean, gap))
            if trained and row.pareto:
                front.append((accuracy.mean, gap))
    if front:
        front.sort()
        axis.plot(
            *zip(*front, strict=True), color="#555555", linewidth=1, linestyle="--", zorder=1, label="Pareto front"
        )
        axis.plot(*zip(*front, strict=True), "o", markersize=14, markerfacecolor="none", color="#555555", zorder=1)
    if percent:
        _towards_hundred(axis, gaps, floor)
    units = {key: f" ({table.column(key).unit})" for key in table.axes}
    axis.set_xlabel(f"{table.column(across).title} on test images{units[across]}")
    axis.set_ylabel(f"{table.column(up).title}{units[up]}")
    states = "filled: trained, hollow: untrained" if len(said) == 2 else f"{said.pop()} networks" if said else ""
    bars = "bars: standard deviation over seeds" if any(len(row.seeds) > 1 for row in table.rows) else ""
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    entitle(figure, f"{table.title}\n{'; '.join(filter(None, (states, bars)))}")
    return save(figure, path)


def beside(axis: "Axes", text: str, point: tuple[float, float]) -> None:
    """Small text beside a point of a figure."""
    axis.annotate(text, point, (4, 3), textcoords="offset points", fontsize=7, zorder=4)


def _reach(spread: float | None, gap: float, floor: float | None) -> list[list[float]] | None:
    """An error bar's two lengths around `gap`, cut off at `floor`."""
    if spread is None:
        return None
    return [[spread if floor is None else min(spread, max(gap - floor, 0.0))], [spread]]


def _towards_hundred(axis: "Axes", gaps: Sequence[float], floor: float) -> None:
    """Sets ticks for distances from 100 %, the smallest on top; `floor` stands for exactly 100 %."""
    axis.set_yscale("log")
    ticks = [tick for tick in (50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01) if tick > floor * 1.5]
    ticks = [tick for tick in ticks if tick <= max([*gaps, floor]) * 2]
    axis.set_yticks([*ticks, floor], [f"{100 - tick:g}" for tick in ticks] + ["exactly 100"])
    axis.minorticks_off()
    axis.invert_yaxis()


def _centred(grid: np.ndarray) -> np.ndarray:
    """Rolls a map over circular shifts 0..n-1 so that the shift (0, 0) is in the middle."""
    return np.roll(grid, (grid.shape[0] // 2, grid.shape[1] // 2), (0, 1))


@styled
def shift_maps(maps: Mapping[str, tuple[np.ndarray, np.ndarray]], path: Path, *, title: str) -> Path:
    """Draws accuracy (upper row) and largest relative logit change (lower row) at every circular shift, a column each.

    `maps` holds for each network two arrays (H, W), index = shift in rows and columns from 0: fractions of correctly
    classified images, and changes. A row has one colour scale; that of the changes is logarithmic.
    """
    from matplotlib.colors import LogNorm

    accuracy = {model: _centred(np.asarray(pair[0], dtype=float)) * 100 for model, pair in maps.items()}
    # the unshifted image has change 0, which a logarithm cannot show: it takes the lowest colour
    change = {model: _centred(np.asarray(pair[1], dtype=float)) for model, pair in maps.items()}
    positive = np.concatenate([grid[grid > 0] for grid in change.values()] or [np.ones(1)])
    floor, top = (float(positive.min()), float(positive.max())) if len(positive) else (1e-8, 1.0)
    low = min(float(grid.min()) for grid in accuracy.values())
    figure, axes = subplots(2, len(maps), (2.1 * len(maps) + 1.0, 5.4), sharex=True, sharey=True)
    # if all maps are perfect, the scale would have no width
    shades: dict[str, Any] = {"vmin": min(low, 99.0), "vmax": 100.0, "cmap": "viridis"}
    decades: dict[str, Any] = {"norm": LogNorm(floor, max(top, floor * 10)), "cmap": "magma"}
    rows = ((accuracy, shades, "accuracy (%)"), (change, decades, "largest relative logit change"))
    for line, (grids, options, label) in zip(axes, rows, strict=True):
        for axis, (model, grid) in zip(line, grids.items(), strict=True):
            up, left = grid.shape[0] // 2, grid.shape[1] // 2
            extent = (-left - 0.5, grid.shape[1] - left - 0.5, grid.shape[0] - up - 0.5, -up - 0.5)
            shown = grid if grids is accuracy else np.maximum(grid, floor)
            picture = axis.imshow(shown, extent=extent, interpolation="nearest", **options)
            axis.grid(False)
            if grids is accuracy:
                same = "the same everywhere" if grid.min() == grid.max() else f"{grid.min():.1f} to {grid.max():.1f} %"
                axis.set_title(f"{model}\n{same}")
            else:
                axis.set_title(f"at most {grid.max():.1e}")
                axis.set_xlabel("shift right (pixels)")
        line[0].set_ylabel("shift down (pixels)")
        figure.colorbar(picture, ax=line, label=label, shrink=0.85)
    entitle(figure, title)
    return save(figure, path)


def read_shift_maps(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray] | None:
    """(accuracy, largest logit change), (H, W) each, of a trained network at every circular shift, over its seeds.

    `paths` are the ``maps.safetensors`` of its runs: accuracies are averaged, and the largest change is taken. None if
    `paths` is empty or a run has not measured them.
    """
    found = [read_maps(path) for path in paths]
    names = ("trained/all_shifts_accuracy_map", "trained/all_shifts_logit_change_map")
    if not found or any(name not in maps for maps in found for name in names):
        return None
    accuracy, change = (np.stack([maps[name] for maps in found]) for name in names)
    return accuracy.mean(0), change.max(0)


def read_history(path: Path) -> dict[str, np.ndarray]:
    """Columns of a run's ``history.csv``, empty cells as NaN. `UserError` for a damaged file."""
    rows = read_numbers(path, ("epoch",), remedy="train the run again")
    names = rows[0].keys() if rows else []
    return {name: np.array([np.nan if row[name] is None else row[name] for row in rows]) for name in names}


@styled
def learning_curves(histories: Mapping[str, Sequence[Mapping[str, np.ndarray]]], path: Path, *, title: str) -> Path:
    """Draws loss and accuracy of training over the epochs: lines are means over seeds, bands minimum to maximum.

    `histories` holds for each network one mapping of columns per seed. Validation, where measured, is dashed.
    """
    classes = any(
        "train_accuracy" in h and not np.isnan(h["train_accuracy"]).all() for own in histories.values() for h in own
    )
    loss = "loss (cross entropy, nats)" if classes else "loss (mean squared error)"
    panels = (("loss", loss, 1.0), ("accuracy", "accuracy (%)", 100.0))[: 1 + classes]
    # the legend has a line for each network
    figure, axes = subplots(1, len(panels), (8.6, max(3.2, 0.7 + 0.19 * len(histories))))
    look = colours(list(histories))
    for axis, (what, label, scale) in zip(axes[0], panels, strict=True):
        for model, seeds in histories.items():
            colour, marker = look[model]
            for part, line in (("train", "-"), ("val", "--")):
                columns = [history[f"{part}_{what}"] for history in seeds if f"{part}_{what}" in history]
                length = min((len(column) for column in columns), default=0)
                if not length or np.isnan(np.stack([c[:length] for c in columns])).all():
                    continue
                values = np.stack([column[:length] for column in columns]) * scale
                epochs = np.arange(1, length + 1)
                shown = model if part == "train" and what == panels[-1][0] else None
                points: dict[str, Any] = {"marker": marker, "markersize": 4, "markevery": -(-length // 8)}
                axis.plot(epochs, values.mean(0), line, color=colour, linewidth=1.4, label=shown, **points)
                axis.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
        axis.set_xlabel("epoch")
        axis.locator_params(axis="x", integer=True)
        axis.set_ylabel(label)
    axes[0, 0].set_yscale("log")
    if axes[0, -1].get_legend_handles_labels()[1]:  # weights that were only measured have no curves
        axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    dashed = any(line.get_linestyle() == "--" for axis in axes[0] for line in axis.get_lines())
    said = f"{title}: training (solid) and validation (dashed)" if dashed else f"{title}: training"
    entitle(figure, said)
    return save(figure, path)


@styled
def shift_map(
    change: np.ndarray,
    same: np.ndarray,
    path: Path,
    *,
    title: str,
    picture: np.ndarray | None = None,
    prediction: str = "",
) -> Path:
    """Draws the relative logit change at every shift of one image, with crosses where the class changes.

    change   (2M+1, 2M+1), see `stillpoint.core.metrics.relative_logit_change`; index 0 is a shift by -M. Colours extend
             to the largest change, or to 1e-5 if all are smaller, which is rounding
    same     bool (2M+1, 2M+1): the class is that of the unshifted image
    picture  (H, W) or (H, W, 3) in [0, 1], drawn beside the map
    """
    panels = 1 if picture is None else 2
    figure, axes = subplots(1, panels, (3.3 * panels + 1.6, 3.4))
    if picture is not None:
        axes[0, 0].imshow(picture, cmap="gray", vmin=0, vmax=1)
        axes[0, 0].set_axis_off()
        axes[0, 0].set_title(prediction)
    axis = axes[0, -1]
    most = change.shape[0] // 2
    extent = (-most - 0.5, most + 0.5, most + 0.5, -most - 0.5)
    shades: dict[str, Any] = {"vmin": 0, "vmax": max(float(change.max()), ROUNDING)}
    image = axis.imshow(change, cmap="viridis", extent=extent, interpolation="nearest", **shades)
    rows, columns = np.nonzero(~np.asarray(same, dtype=bool))
    if len(rows):
        # white alone would be invisible on the brightest colours, where classes change
        for colour, width in (("black", 2.4), ("white", 1.0)):
            axis.scatter(columns - most, rows - most, marker="x", s=16, color=colour, linewidths=width)
    axis.grid(False)
    axis.set_xlabel("shift to the right (pixels)")
    axis.set_ylabel("shift down (pixels)")
    axis.locator_params(integer=True)
    figure.colorbar(image, ax=axis, label="relative change of the logits", shrink=0.85)
    entitle(figure, title)
    return save(figure, path)


@styled
def picture(image: np.ndarray, path: Path, *, title: str) -> Path:
    """Draws one image (H, W): zero is grey, positive values are lighter."""
    figure, axes = subplots(1, 1, (3.4, 3.4))
    most = float(np.abs(image).max()) or 1.0
    axes[0, 0].imshow(image, cmap="gray", vmin=-most, vmax=most, interpolation="nearest")
    axes[0, 0].set_axis_off()
    axes[0, 0].set_title(title)
    return save(figure, path)
