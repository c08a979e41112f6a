"""Tables of many runs' metrics: mean and spread over seeds, beside the paper's number and the difference.

Every number comes from a run's ``metrics.json`` or a paper's ``published.yaml``; other cells stay empty. The same
inputs give the same bytes.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import json_text
from stillpoint.core.reporting import comparable
from stillpoint.core.reporting.columns import AXES, COLUMNS, Column, show
from stillpoint.core.reporting.published import Published
from stillpoint.core.reporting.reading import STATES, read_metrics
from stillpoint.core.reporting.writing import csv_text, escaped, latex_table, markdown_page, markdown_table
from stillpoint.core.runs.layout import Run
from stillpoint.core.runs.layout import table as table_path


@dataclass(frozen=True)
class Cell:
    """One metric of one network over `n` seeds, in its unit; `spread` is the standard deviation, None for n = 1.

    For a bound (a metric without a unit), `mean` is the largest value.
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
    """One network: ``cells[state][metric]``, and whether it is on the Pareto front."""

    model: str
    seeds: tuple[int, ...]
    cells: dict[str, dict[str, Cell]]
    pareto: bool = False


@dataclass(frozen=True)
class Table:
    """The results of one recipe: rows in the order of its grid."""

    pipeline: str
    recipe: str
    title: str
    rows: tuple[Row, ...]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    columns: tuple[Column, ...] = COLUMNS
    axes: tuple[str, str] = AXES

    @property
    def held(self) -> list[Column]:
        """The columns with a number in at least one row, in their order."""
        keys = {key for row in self.rows for cells in row.cells.values() for key in cells}
        return [column for column in self.columns if column.key in keys]

    def column(self, key: str) -> Column:
        return next(column for column in self.columns if column.key == key)


def over_seeds(
    column: Column, found: Sequence[Mapping[str, Any]], published: tuple[float, str] | None = None
) -> Cell | None:
    """The cell of a metric from each seed's numbers; None if a seed lacks it, since `n` would be wrong."""
    if not found or not all(column.key in one for one in found):
        return None
    values = [float(one[column.key]) * column.scale for one in found]
    spread = statistics.stdev(values) if len(values) > 1 else None
    # a mean of equal numbers is that number: 100 % must not become 99.99999999999999
    same = len(set(values)) == 1
    middle = values[0] if same else max(values) if column.unit == "" else statistics.fmean(values)
    return Cell(middle, spread, len(values), *(published or (None, "")))


def collect(
    runs: Iterable[Run],
    grid: Iterable[str],
    published: Published = Published(),  # noqa: B008 (frozen)
    *,
    title: str = "",
    columns: tuple[Column, ...] = COLUMNS,
    axes: tuple[str, str] = AXES,
) -> Table:
    """The table of evaluated `runs`: a row per network, in the order of `grid` and then by name.

    `axes` are the keys of the two columns of the Pareto front. Raises `UserError` if there is no run, a run's metrics
    are damaged, or runs used different images or settings.
    """
    runs = list(runs)
    if not runs:
        raise UserError("there are no metrics for a table: evaluate a run first (stillpoint evaluate <folder>)")
    metrics = {run: read_metrics(run) for run in runs}
    shown = {json.dumps(found.get("dataset"), sort_keys=True) for found in metrics.values()}
    if len(shown) > 1:
        raise UserError(f"these runs used different data sets and cannot share a table: {', '.join(sorted(shown))}")
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
            for column in columns:
                if cell := over_seeds(column, values, published.cell(recipe, model, state, column.key)):
                    cells.setdefault(state, {})[column.key] = cell
        rows.append(Row(model, tuple(run.seed for run in own), cells))
    best = pareto_front([_axes(row, axes, columns) for row in rows])
    rows = [Row(row.model, row.seeds, row.cells, mark) for row, mark in zip(rows, best, strict=True)]
    used = {cell.source for row in rows for cells in row.cells.values() for cell in cells.values() if cell.source}
    notes = (*(f"Paper's numbers: {source}" for source in sorted(used)), *differing)
    missing = tuple(m for m in order if m not in models)
    return Table(pipeline, recipe, title, tuple(rows), missing, notes, columns, axes)


#: settings that decide which numbers exist, not their values
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
                f"EVALUATE.{key} is {first[1].get(key)} and {own.get(key)}; evaluate one of them again with the other's"
            )


def _axes(row: Row, axes: tuple[str, str], columns: tuple[Column, ...]) -> tuple[float, float] | None:
    """The row's point in the plane of `axes`, with signs such that larger is better in both."""
    cells = row.cells.get("trained", {})
    if any(key not in cells for key in axes):
        return None
    lower = {column.key for column in columns if column.better == "lower"}
    first, second = (-cells[key].mean if key in lower else cells[key].mean for key in axes)
    return first, second


def pareto_front(points: list[tuple[float, float] | None]) -> list[bool]:
    """Whether each point is on the Pareto front: no other is at least as good in both axes and better in one."""

    def beaten(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return b[0] >= a[0] and b[1] >= a[1] and b != a

    return [p is not None and not any(q is not None and beaten(p, q) for q in points) for p in points]


def layout(table: Table) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of the table for readers (md, tex and terminal): a line per network and state.

    A column for which the paper states numbers is followed by them and by the difference. Nothing is escaped.
    """
    columns: list[tuple[Column, str]] = []
    for column in table.held:
        own = [cells[column.key] for row in table.rows for cells in row.cells.values() if column.key in cells]
        columns.append((column, "ours"))
        if any(cell.published is not None for cell in own):
            columns += [(column, "paper"), (column, "difference")]
    head = ["network", "state", "n"]
    for column, what in columns:
        paper = f"paper ({column.unit})" if column.unit else "paper"
        head.append({"ours": column.heading, "paper": paper, "difference": "ours - paper"}[what])
    lines = []
    for row in table.rows:
        for state, cells in row.cells.items():
            line = [row.model + (" *" if row.pareto and state == "trained" else ""), state, str(len(row.seeds))]
            for column, what in columns:
                cell = cells.get(column.key)
                if what == "ours":
                    line.append(show_cell(column, cell))
                elif what == "paper":
                    line.append(show(column, cell.published if cell else None))
                else:
                    line.append(show(column, cell.difference if cell else None, signed=True))
            lines.append(line)
    return head, lines


def show_cell(column: Column, cell: Cell | None) -> str:
    """``95.31 ± 0.42``, without the spread for one seed or a bound; "" for None."""
    return "" if cell is None else show(column, cell.mean, cell.spread)


def remarks(table: Table) -> list[str]:
    """The notes below a table, one sentence each."""
    bounds = any(column.unit == "" for column in table.held)
    notes = [f"Mean ± standard deviation over n seeds{'; of the logit change, the largest over the seeds' * bounds}."]
    if any(row.pareto for row in table.rows):
        first, second = (table.column(key).title for key in table.axes)
        notes.append(f"Networks with a star are on the Pareto front of trained {first} and {second}.")
    if table.missing:
        notes.append(f"Not evaluated yet: {', '.join(table.missing)}.")
    return notes + [note if note.endswith(".") else note + "." for note in table.notes]


def to_markdown(table: Table) -> str:
    return markdown_page(table.title, markdown_table(*layout(table)), *map(escaped, remarks(table)))


def to_latex(table: Table) -> str:
    return latex_table(*layout(table), caption=f"{table.title}. {' '.join(remarks(table))}")


def to_csv(table: Table) -> str:
    """One line per network, state and metric; numbers in full precision."""
    head = ["pipeline", "recipe", "network", "pareto", "state", "metric", "unit", "n"]
    lines = []
    for row in table.rows:
        for state in STATES:
            for column in table.held:
                if cell := row.cells.get(state, {}).get(column.key):
                    start = [table.pipeline, table.recipe, row.model, int(row.pareto), state, column.key, column.unit]
                    lines.append([*start, cell.n, cell.mean, cell.spread, cell.published, cell.difference])
    return csv_text([*head, "mean", "spread", "paper", "difference"], lines)


def to_json(table: Table) -> str:
    """``{"title", "seeds", "mean": {network: {state: {metric: mean}}}}`` for ``dvc metrics show`` and others."""
    means = {
        row.model: {state: {k: c.mean for k, c in cells.items()} for state, cells in row.cells.items()}
        for row in table.rows
    }
    return json_text({"title": table.title, "seeds": {row.model: len(row.seeds) for row in table.rows}, "mean": means})


#: suffix of a table's file -> function that returns its content
WRITERS = {"csv": to_csv, "md": to_markdown, "tex": to_latex, "json": to_json}


def table_files(pipeline: str, recipe: str, root: Path) -> dict[str, Path]:
    """The files of a table by their suffixes."""
    return {suffix: table_path(pipeline, recipe, suffix, root) for suffix in WRITERS}


def contents(table: Table, root: Path) -> dict[Path, str]:
    """The contents of a table's files, to be written together (`stillpoint.core.base.files.write_together`)."""
    files = table_files(table.pipeline, table.recipe, root)
    return {path: WRITERS[suffix](table) for suffix, path in files.items()}


def as_dict(table: Table) -> dict[str, Any]:
    """Everything the table holds, for ``--json``."""
    found = asdict(table)
    return json.loads(json.dumps(found, default=lambda value: None if math.isnan(value) else value))
