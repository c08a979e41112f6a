"""The lesson's pages: the notebook's test passes, and which architectures recover the accuracy."""

from typing import Any

from stillpoint.core.base.errors import UserError
from stillpoint.core.reporting.columns import Column, show
from stillpoint.core.reporting.reading import read_metrics
from stillpoint.core.reporting.tables import show_cell
from stillpoint.core.reporting.writing import csv_text, escaped, markdown_page, markdown_table
from stillpoint.pipelines.results import Results
from stillpoint.pipelines.translations.passes import (
    Pass,
    mean_passes,
    published_passes,
    run_passes,
    seconds_per_epoch,
)

#: metrics that the lesson compares
MEASURED = ("accuracy", "translated_consistency")


def passes_csv(results: Results) -> str:
    """A csv with a line for every test pass of every run, followed by the notebook's numbers."""
    lines = []
    for model, runs in results.runs.items():
        known = published_passes(results.paper.published, results.recipe, model)
        for run in runs:
            for one in run_passes(run):
                start = [model, run.seed, one.epoch, f"{one.elapsed:.3f}", one.loss, int(one.correct), one.images]
                there = known.get(one.epoch)
                own = [there.elapsed, there.loss, int(there.correct), f"{there.percent:.2f}"] if there else [""] * 4
                lines.append([*start, f"{one.percent:.2f}", *own])
    head = ["network", "seed", "epoch", "elapsed_seconds", "test_loss", "correct", "images", "percent"]
    return csv_text([*head, "notebook_seconds", "notebook_loss", "notebook_correct", "notebook_percent"], lines)


def passes_markdown(results: Results) -> str:
    """A page with the test passes, mean over seeds, a table per network, beside the notebook's if it has them."""
    parts, share = [], Column("percent", "%")
    for model, runs in results.runs.items():
        known, means = published_passes(results.paper.published, results.recipe, model), mean_passes(runs)
        head = ["epoch", "elapsed (s)", "test loss", f"correct of {means[0].images}", "%"]
        if known:
            head += ["notebook: elapsed (s)", "test loss", "correct", "%", "ours - notebook (points)"]
        lines = []
        for one in means:
            line = _pass_cells(one)
            if known:
                there = known.get(one.epoch)
                gap = "" if there is None else show(share, one.percent - there.percent, signed=True)
                line += [*_pass_cells(there)[1:], gap] if there else [""] * 5
            lines.append(line)
        parts += [f"## {escaped(model)}, mean of n = {len(runs)}", markdown_table(head, lines)]
    return markdown_page(f"{results.table.title}: test passes", *parts)


def _pass_cells(one: Pass) -> list[str]:
    return [str(one.epoch), f"{one.elapsed:.2f}", f"{one.loss:.4f}", f"{one.correct:.0f}", f"{one.percent:.2f}"]


def lesson_rows(results: Results) -> list[dict[str, Any]]:
    """A row per network: n, accuracy and consistency with spreads (percent), parameters, seconds per epoch."""
    rows = []
    for row in results.table.rows:
        runs, cells = results.runs[row.model], row.cells["trained"]
        own: dict[str, Any] = {"network": row.model, "n": len(runs)}
        for key in MEASURED:
            cell = cells.get(key)
            if cell is None:
                raise UserError(f"the lesson's table needs {key}: add its evaluation to EVALUATE.METRICS")
            own[key], own[f"{key}_spread"] = cell.mean, cell.spread
        own["parameters"] = read_metrics(runs[0])["parameters"]
        own["seconds_per_epoch"] = seconds_per_epoch(runs)
        own["pareto"] = int(row.pareto)
        rows.append(own)
    return rows


def lesson_csv(results: Results) -> str:
    rows = lesson_rows(results)
    return csv_text(list(rows[0]), [list(row.values()) for row in rows])


def lesson_markdown(results: Results) -> str:
    lines = []
    for row, own in zip(results.table.rows, lesson_rows(results), strict=True):
        shown = [show_cell(results.table.column(key), row.cells["trained"].get(key)) for key in MEASURED]
        seconds = own["seconds_per_epoch"]
        lines.append(
            [
                row.model + (" *" if row.pareto else ""),
                str(own["n"]),
                *shown,
                f"{own['parameters']:,}",
                "" if seconds is None else f"{seconds:.2f}",
            ]
        )
    headings = [results.table.column(key).heading for key in MEASURED]
    return markdown_page(
        f"{results.table.title}: which architectures get it back?",
        markdown_table(["network", "n", *headings, "parameters", "seconds an epoch"], lines),
        "Mean ± standard deviation over n seeds; * on the Pareto front of accuracy and consistency.",
    )
