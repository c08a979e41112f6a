"""From the metrics of many runs to one table: mean and spread over seeds, beside the paper's number and the difference.

Every number comes from a run's ``metrics.json`` or from a paper's ``published.yaml``; a cell without a file behind it
stays empty. The same inputs give the same bytes.
"""

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillpoint.core.base.documents import read_json
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import write_atomic, write_json
from stillpoint.core.reporting import comparable
from stillpoint.core.runs.layout import Run
from stillpoint.core.runs.layout import table as table_path

if TYPE_CHECKING:
    import numpy as np

STATES = ("untrained", "trained")
FORMATS = ("csv", "md", "tex", "json")


@dataclass(frozen=True)
class Metric:
    """How a metric of ``metrics.json`` is shown: heading, unit (percent: files hold fractions), which way is better.

    A metric that is not a percentage and has a unit, such as nats, is shown as it is stored."""

    key: str
    title: str
    unit: str = "%"
    better: str = "higher"


#: In the order of the columns; the names are those of `stillpoint.core.evaluation.registry`.
METRICS = (
    Metric("accuracy", "accuracy"),
    Metric("accuracy_top5", "accuracy, top 5"),
    Metric("circular_consistency", "circular consistency"),
    Metric("circular_max_logit_change", "largest relative logit change", unit="", better="lower"),
    Metric("crop_consistency", "crop consistency"),
    Metric("fractional_consistency", "sub-pixel consistency"),
    Metric("flips_consistency", "consistency on half-turned images"),
    *(Metric(f"erase{side}_consistency", f"consistency, {side}x{side} erased") for side in (3, 6, 9)),
)
#: What the Pareto front is drawn over.
AXES = ("accuracy", "circular_consistency")


@dataclass(frozen=True)
class Cell:
    """One metric of one network over its seeds, in its unit; `spread` is the standard deviation, none for n = 1.

    `mean` is the largest value instead for a metric that is a bound (``better == "lower"`` and no unit).
    """

    mean: float
    spread: float | None
    n: int
    published: float | None = None
    source: str = ""

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.published is None else self.mean - self.published


@dataclass(frozen=True)
class Row:
    """One network: ``cells[state][metric]``, and whether no other network of the table is better in both axes."""

    model: str
    seeds: tuple[int, ...]
    cells: dict[str, dict[str, Cell]]
    pareto: bool = False


@dataclass(frozen=True)
class Table:
    """The rows of one recipe in the order of its grid."""

    pipeline: str
    recipe: str
    title: str
    rows: tuple[Row, ...]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    columns: tuple[Metric, ...] = METRICS
    axes: tuple[str, str] = AXES

    @property
    def metrics(self) -> list[Metric]:
        """The metrics that at least one row holds, in the order of the columns."""
        held = {key for row in self.rows for cells in row.cells.values() for key in cells}
        return [metric for metric in self.columns if metric.key in held]

    def metric(self, key: str) -> Metric:
        """The column of that name."""
        return next(metric for metric in self.columns if metric.key == key)


def found_runs(pipeline: str, recipe: str, root: Path, seeds: int | None = None) -> list[Run]:
    """Runs that were evaluated, ordered by network and seed; with `seeds`, those of the seeds 0..seeds-1."""
    folder = root / pipeline / recipe
    runs = [Run.of(path.parent) for path in sorted(folder.glob("*/seed*/metrics.json"))]
    return sorted((r for r in runs if seeds is None or r.seed < seeds), key=lambda r: (r.model, r.seed))


def read_metrics(run: Run) -> dict[str, Any]:
    """A run's ``metrics.json``; a `UserError` when it is not one."""
    remedy = "evaluate the run again"
    found = read_json(run.metrics, remedy=remedy, of=dict)
    states = [found[state] for state in STATES if found.get(state) is not None]
    if not states or not all(isinstance(state, dict) for state in states):
        raise UserError(f"{run.metrics} is not a run's metrics: {remedy}")
    for key, value in (pair for state in states for pair in state.items()):
        if not isinstance(value, int | float):
            raise UserError(f"{run.metrics} is not a run's metrics ({key} is {value!r:.40}, no number): {remedy}")
    for key, kind in (("dataset", str | dict), ("evaluate", dict), ("provenance", dict), ("images", int)):
        if key in found and not isinstance(found[key], kind):
            raise UserError(f"{run.metrics} is not a run's metrics ({key} is {found[key]!r:.40}): {remedy}")
    return found


def read_maps(path: Path) -> dict[str, "np.ndarray"]:
    """The arrays of a run's ``maps.safetensors``, none where there is no such file; a `UserError` for a damaged one."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path) if path.is_file() else {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is truncated or damaged ({error}): evaluate the run again") from None


def read_training(run: Run) -> dict[str, Any]:
    """A run's ``train.json``; a `UserError` when it is not one."""
    remedy = "remove it, and give the command that trained the run once more"
    found = read_json(run.training, remedy=remedy, of=dict)
    if not isinstance(found.get("device"), str) or not isinstance(found.get("peak_memory_bytes"), int):
        raise UserError(f"{run.training} does not say how the run was trained: {remedy}")
    return found


def dataset_title(metrics: dict[str, Any]) -> str:
    """What a table says of the images, from a run's metrics."""
    found = metrics.get("dataset", "")
    return str(found.get("title", found.get("name", ""))) if isinstance(found, dict) else str(found)


def collect(
    runs: Iterable[Run],
    grid: Iterable[str],
    published: dict[str, Any],
    *,
    title: str = "",
    columns: tuple[Metric, ...] = METRICS,
    axes: tuple[str, str] = AXES,
) -> Table:
    """The table of evaluated `runs`: a row for each network, in the order of `grid` and then by name.

    `published` is a paper's ``published.yaml`` (see `published_cell`); `axes` are the keys of two columns. Raises
    `UserError` when there is no run, or when runs saw different images or were measured by different settings.
    """
    runs = list(runs)
    if not runs:
        raise UserError("there are no metrics to make a table of: evaluate a run first (stillpoint evaluate <folder>)")
    metrics = {run: read_metrics(run) for run in runs}
    shown = {json.dumps(found.get("dataset"), sort_keys=True) for found in metrics.values()}
    if len(shown) > 1:
        raise UserError(f"these runs saw different data sets and cannot share a table: {', '.join(sorted(shown))}")
    _check_settings(metrics)
    differing = comparable.check(metrics)
    order = list(grid)
    models = sorted({run.model for run in runs}, key=lambda m: (order.index(m) if m in order else len(order), m))
    pipeline, recipe = runs[0].pipeline, runs[0].recipe
    rows = []
    for model in models:
        own = [run for run in runs if run.model == model]
        cells: dict[str, dict[str, Cell]] = {}
        for state in STATES:
            values = [metrics[run].get(state) or {} for run in own]
            for metric in columns:
                # a network that lacks a metric for one seed would average over another set of seeds than it says
                if values and all(isinstance(v.get(metric.key), int | float) for v in values):
                    numbers = [float(v[metric.key]) for v in values]
                    paper = published_cell(published, recipe, model, state, metric.key)
                    cells.setdefault(state, {})[metric.key] = _cell(metric, numbers, paper)
        rows.append(Row(model, tuple(run.seed for run in own), cells))
    best = pareto_front([_axes(row, axes, columns) for row in rows])
    rows = [Row(row.model, row.seeds, row.cells, mark) for row, mark in zip(rows, best, strict=True)]
    used = {cell.source for row in rows for cells in row.cells.values() for cell in cells.values() if cell.source}
    notes = (*(f"Paper's numbers: {source}" for source in sorted(used)), *differing)
    missing = tuple(m for m in order if m not in models)
    return Table(pipeline, recipe, title, tuple(rows), missing, notes, columns, axes)


#: settings that decide which numbers there are, not what they are
_WHICH = ("METRICS", "UNTRAINED")


def _check_settings(metrics: dict[Run, dict[str, Any]]) -> None:
    first: tuple[Run, dict[str, Any]] | None = None
    for run, found in metrics.items():
        own = {key: value for key, value in (found.get("evaluate") or {}).items() if key not in _WHICH}
        if own.get("PROTOCOL") != "authors":
            own.pop("BATCH_SIZE", None)  # only the authors' numbers depend on it
        if first is None:
            first = run, own
        elif own != first[1]:
            key = next(k for k in sorted({*own, *first[1]}) if own.get(k) != first[1].get(k))
            raise UserError(
                f"{first[0].folder} and {run.folder} were measured differently and cannot share a table: "
                f"EVALUATE.{key} is {first[1].get(key)} and {own.get(key)}; evaluate one of them again as the other was"
            )


def _cell(metric: Metric, values: list[float], paper: tuple[float, str] | None) -> Cell:
    scale = 100.0 if metric.unit == "%" else 1.0
    scaled = [value * scale for value in values]
    spread = statistics.stdev(scaled) if len(scaled) > 1 else None
    # a mean of equal numbers is that number: 100 % must not become 99.99999999999999
    same = len(set(scaled)) == 1
    middle = scaled[0] if same else max(scaled) if metric.unit == "" else statistics.fmean(scaled)
    return Cell(middle, spread, len(scaled), *(paper or (None, "")))


def published_cell(
    published: dict[str, Any], recipe: str, model: str, state: str, metric: str
) -> tuple[float, str] | None:
    """(number, source) that a paper states for this cell, or None.

    ``published.yaml`` is a list `entries`; each names `source`, `recipes` and rows of `models` (shell patterns both), a
    `state` and numbers by metric in the table's units. The first entry that matches wins.
    """
    from fnmatch import fnmatchcase

    for entry in published.get("entries", []):
        if not any(fnmatchcase(recipe, pattern) for pattern in entry["recipes"]):
            continue
        for row in entry["rows"]:
            named = any(fnmatchcase(model, pattern) for pattern in row["models"])
            if named and row.get("state", "trained") == state and metric in row:
                return float(row[metric]), entry["source"]
    return None


def _axes(row: Row, axes: tuple[str, str], columns: tuple[Metric, ...]) -> tuple[float, float] | None:
    """The row's point in the plane of `axes`, turned so that more is better in both."""
    cells = row.cells.get("trained", {})
    if any(key not in cells for key in axes):
        return None
    lower = {metric.key for metric in columns if metric.better == "lower"}
    first, second = (-cells[key].mean if key in lower else cells[key].mean for key in axes)
    return first, second


def pareto_front(points: list[tuple[float, float] | None]) -> list[bool]:
    """Whether each point is on the Pareto front: no other is at least as good in both axes and better in one."""

    def beaten(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return b[0] >= a[0] and b[1] >= a[1] and b != a

    return [p is not None and not any(q is not None and beaten(p, q) for q in points) for p in points]


def described(key: str, columns: Iterable[Metric] = METRICS) -> Metric | None:
    """How a number of ``metrics.json`` is shown that may have no column: as a column of that name is, or in the unit of
    the one that its name holds (``accuracy_standard_error``, ``normalised_kl_vertical_pixel``); a consistency is a
    share too. None for a plain number: a count, a slope, a largest change.
    """
    units = {metric.key: metric for metric in columns}
    if key in units:
        return units[key]
    near = [m for m in units.values() if f"_{m.key}_" in f"_{key}_"]
    if near:
        closest = max(near, key=lambda metric: len(metric.key))
        return Metric(key, key.replace("_", " "), closest.unit, closest.better)
    share = bool({"consistency", "consistent"} & set(key.split("_")))
    return Metric(key, key.replace("_", " ")) if share else None


def show_plain(value: float) -> str:
    """A number that is no metric of a table: a count as it is, any other with four digits."""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def show(metric: Metric, value: float | None, *, signed: bool = False) -> str:
    """A number as a table shows it: two decimals of a percentage, but never 100 for what is below it.

    Exactly 100 is written ``100``; 99.998 gets as many decimals as tell it from 100. A bound, which has no unit, is
    written ``3.1e-07``, and a number in another unit (nats) with four decimals.
    """
    if value is None:
        return ""
    if metric.unit not in ("%", ""):
        return f"{value:{'+' if signed else ''}.4f}"
    if metric.unit == "":
        return "0" if value == 0 else f"{value:.1e}"
    return f"{value:+.2f}" if signed else percent(value)


def percent(value: float) -> str:
    """Two decimals of a percentage, but ``100`` for exactly that and as many as tell it from 100 for what is below."""
    if value == 100:
        return "100"
    digits = 2
    while digits < 12 and round(value, digits) >= 100:
        digits += 1
    return f"{value:.{digits}f}"


def show_cell(metric: Metric, cell: Cell | None) -> str:
    """``95.31 ± 0.42``; the spread is left out for one seed and for a bound."""
    if cell is None:
        return ""
    text = show(metric, cell.mean)
    if cell.spread is None or metric.unit == "":
        return text
    return f"{text} ± {cell.spread:.{2 if metric.unit == '%' else 4}f}"


def layout(table: Table) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of the table that people read (md, tex and the terminal): a line for each network and state.

    The paper's number and the difference from it follow a column for which the paper states any.
    """
    columns: list[tuple[Metric, str]] = []
    for metric in table.metrics:
        held = [cells[metric.key] for row in table.rows for cells in row.cells.values() if metric.key in cells]
        columns.append((metric, "ours"))
        if any(cell.published is not None for cell in held):
            columns += [(metric, "paper"), (metric, "difference")]
    heading = {"ours": "{title}{unit}", "paper": "paper{unit}", "difference": "ours - paper"}
    head = ["network", "state", "n"]
    head += [
        heading[what].format(title=metric.title, unit=f" ({metric.unit})" if metric.unit else "")
        for metric, what in columns
    ]
    lines = []
    for row in table.rows:
        for state, cells in row.cells.items():
            line = [row.model + (" *" if row.pareto and state == "trained" else ""), state, str(len(row.seeds))]
            for metric, what in columns:
                cell = cells.get(metric.key)
                if what == "ours":
                    line.append(show_cell(metric, cell))
                elif what == "paper":
                    line.append(show(metric, cell.published if cell else None))
                else:
                    line.append(show(metric, cell.difference if cell else None, signed=True))
            lines.append(line)
    return head, lines


def remarks(table: Table) -> list[str]:
    """What a reader of the numbers must know, one sentence each."""
    bounds = any(metric.unit == "" for metric in table.metrics)
    notes = [f"Mean ± standard deviation over n seeds{'; of the logit change, the largest over the seeds' * bounds}."]
    if any(row.pareto for row in table.rows):
        first, second = (table.metric(key).title for key in table.axes)
        notes.append(f"* on the Pareto front of trained {first} and {second}.")
    if table.missing:
        notes.append(f"Not there yet: {', '.join(table.missing)}.")
    return notes + [note if note.endswith(".") else note + "." for note in table.notes]


def to_markdown(table: Table) -> str:
    head, lines = layout(table)
    widths = [max(len(cell) for cell in column) for column in zip(head, *lines, strict=True)]

    def join(cells: list[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    body = "\n".join([join(head), rule, *map(join, lines)])
    return f"# {table.title}\n\n{body}\n\n" + "\n\n".join(remarks(table)) + "\n"


def to_latex(table: Table) -> str:
    head, lines = layout(table)

    def clean(text: str) -> str:
        for mark, written in (("_", r"\_"), ("%", r"\%"), ("±", r"$\pm$"), ("&", r"\&"), ("#", r"\#")):
            text = text.replace(mark, written)
        return text

    def join(cells: list[str]) -> str:
        return " & ".join(map(clean, cells)) + r" \\"

    body = "\n".join(map(join, lines))
    return (
        "% needs \\usepackage{booktabs}\n\\begin{table}\n\\centering\n"
        f"\\begin{{tabular}}{{ll{'r' * (len(head) - 2)}}}\n\\toprule\n{join(head)}\n\\midrule\n{body}\n\\bottomrule\n"
        f"\\end{{tabular}}\n\\caption{{{clean(table.title)}. {clean(' '.join(remarks(table)))}}}\n\\end{{table}}\n"
    )


def to_csv(table: Table) -> str:
    """One line for each network, state and metric; numbers in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "pipeline",
            "recipe",
            "network",
            "pareto",
            "state",
            "metric",
            "unit",
            "n",
            "mean",
            "spread",
            "paper",
            "difference",
        ]
    )
    for row in table.rows:
        for state in STATES:
            for metric in table.metrics:
                if cell := row.cells.get(state, {}).get(metric.key):
                    numbers = [cell.mean, cell.spread, cell.published, cell.difference]
                    shown = ["" if number is None else repr(number) for number in numbers]
                    start = [table.pipeline, table.recipe, row.model, int(row.pareto), state, metric.key, metric.unit]
                    writer.writerow([*start, cell.n, *shown])
    return text.getvalue()


def to_json(table: Table) -> dict[str, Any]:
    """``{network: {state: {metric: mean}}}`` and the particulars: what ``dvc metrics show`` and other programs read."""
    means = {
        row.model: {state: {k: c.mean for k, c in cells.items()} for state, cells in row.cells.items()}
        for row in table.rows
    }
    return {"title": table.title, "seeds": {row.model: len(row.seeds) for row in table.rows}, "mean": means}


def write(table: Table, root: Path) -> list[Path]:
    """Writes ``table.{csv,md,tex,json}`` and returns their paths."""
    texts = {"csv": to_csv(table), "md": to_markdown(table), "tex": to_latex(table)}
    paths = []
    for suffix in FORMATS:
        path = table_path(table.pipeline, table.recipe, suffix, root)
        if suffix == "json":
            write_json(path, to_json(table))
        else:
            write_atomic(path, texts[suffix])
        paths.append(path)
    return paths


def as_dict(table: Table) -> dict[str, Any]:
    """Everything the table holds, for ``--json``."""
    found = asdict(table)
    return json.loads(json.dumps(found, default=lambda value: None if math.isnan(value) else value))
