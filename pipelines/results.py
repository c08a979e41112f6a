"""What a paper shows of its evaluated runs: the columns of its table, its figures, and pages of its own.

A paper that shows more than the common table and figures has a ``results.py`` beside its Snakefile with any of

    METRICS   columns of the table, in order (default: `stillpoint.core.reporting.tables.METRICS`)
    AXES      the two metrics that the Pareto front is drawn over (default: `stillpoint.core.reporting.tables.AXES`)
    FIGURES   name -> function (results, path) that draws ``figures/<name>.png`` (default: `FIGURES` below)
    NEEDS     figure -> (evaluation that it shows, pattern of the networks that have it): no such figure without both
    PAGES     file name -> function (results, path) that writes ``<file name>`` beside the table (default: none)
    NOTES     function (results) -> sentences below the table, such as what images were made of (default: none)

or, where its recipes are of several kinds, a function ``form(config) -> Form`` that says all of them but NEEDS.

Snakemake reads it to know which files there will be, so nothing heavy is imported outside its functions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any

from stillpoint import pipelines
from stillpoint.core.base.documents import read_yaml
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.catalogue import info
from stillpoint.core.config.schema import RunConfig, deciding, differences
from stillpoint.core.reporting import tables
from stillpoint.core.runs import claim
from stillpoint.core.runs.layout import Run

#: no column of top-5 accuracy for data sets of so many classes or fewer
FEW_CLASSES = 10


@dataclass(frozen=True)
class Results:
    """The evaluated runs of one recipe: their table, and the runs of each network in the order of their seeds."""

    paper: str
    recipe: str
    root: Path
    config: RunConfig
    table: tables.Table
    runs: Mapping[str, list[Run]]


Make = Callable[[Results, Path], object]


def consistency_accuracy(results: Results, path: Path) -> None:
    from stillpoint.core.reporting import figures

    figures.consistency_accuracy(results.table, path)


def shift_maps(results: Results, path: Path) -> None:
    from stillpoint.core.reporting import figures

    maps = {model: figures.read_shift_maps([run.maps for run in own]) for model, own in results.runs.items()}
    held = {model: found for model, found in maps.items() if found is not None}
    if not held:
        raise UserError(f"{path.name} needs the evaluation all_shifts: add it to EVALUATE.METRICS")
    counts = {
        tables.read_metrics(run)["trained"].get("all_shifts_images") for model in held for run in results.runs[model]
    }
    images = f" of {counts.pop():.0f} images" if len(counts) == 1 and None not in counts else ""
    figures.shift_maps(held, path, title=f"{results.table.title}: after every circular shift{images}, trained")


def learning_curves(results: Results, path: Path) -> None:
    from stillpoint.core.reporting import figures

    histories = {model: [figures.read_history(run.history) for run in own] for model, own in results.runs.items()}
    figures.learning_curves(histories, path, title=results.table.title)


FIGURES: dict[str, Make] = {
    "consistency_accuracy": consistency_accuracy,
    "shift_maps": shift_maps,
    "learning_curves": learning_curves,
}
Needs = Mapping[str, tuple[str, str]]
NEEDS: Needs = {"shift_maps": ("all_shifts", "*")}


@dataclass(frozen=True)
class Form:
    """How one paper shows its results."""

    metrics: tuple[tables.Metric, ...] = tables.METRICS
    axes: tuple[str, str] = tables.AXES
    figures: Mapping[str, Make] = field(default_factory=lambda: FIGURES)
    pages: Mapping[str, Make] = field(default_factory=dict)
    notes: Callable[[Results], Sequence[str]] = lambda results: ()


def form(paper: str, config: RunConfig) -> Form:
    """The form of a paper's results under a recipe; the common one where the paper has no ``results.py``.

    A figure that no network of the recipe's GRID can have, by its EVALUATE.METRICS, is not among its figures.
    """
    shown, needs = Form(), NEEDS
    if (pipelines.HERE / paper / "results.py").is_file():
        own = import_module(f"stillpoint.pipelines.{paper}.results")
        needs = {**NEEDS, **getattr(own, "NEEDS", {})}
        if hasattr(own, "form"):
            shown = own.form(config)
        else:
            names = ("metrics", "axes", "figures", "pages", "notes")
            shown = Form(**{name: getattr(own, name.upper()) for name in names if hasattr(own, name.upper())})
    return replace(shown, figures={name: make for name, make in shown.figures.items() if _can(name, needs, config)})


def _can(figure: str, needs: Needs, config: RunConfig) -> bool:
    if figure not in needs:
        return True
    evaluation, networks = needs[figure]
    return evaluation in config.evaluate.metrics and any(fnmatchcase(model, networks) for model in config.grid)


def gather(paper: str, recipe: str, root: Path, seeds: int | None, pairs: list[str]) -> Results:
    """What was evaluated under a recipe; its table is titled with the data set's own title and the recipe's."""
    from stillpoint.pipelines import workflow

    config = workflow.recipe_config(paper, recipe, pairs)
    runs = tables.found_runs(paper, recipe, root, seeds)
    if not runs:
        raise UserError(
            f"nothing was evaluated under {root / paper / recipe} yet: stillpoint run {paper} --dataset {recipe}, "
            "or stillpoint train and stillpoint evaluate"
        )
    path = workflow.published_path(paper)
    published: dict[str, Any] = (read_yaml(path) if path.is_file() else {}) or {}
    data = tables.dataset_title(tables.read_metrics(runs[0]))
    title = f"{data}: {config.title}" if config.title else data
    shown = form(paper, config)
    # of ten classes, being among the first five says little
    few = info(config.data.name).num_classes <= FEW_CLASSES
    columns = tuple(metric for metric in shown.metrics if not (few and metric.key.endswith("accuracy_top5")))
    table = tables.collect(runs, config.grid, published, title=title, columns=columns, axes=shown.axes)
    by_model = {row.model: [Run(paper, recipe, row.model, seed, root) for seed in row.seeds] for row in table.rows}
    found = Results(paper, recipe, root, config, table, by_model)
    changed = differences(deciding(workflow.recipe_config(paper, recipe).dump()), deciding(config.dump()))
    asked = [f"Not the recipe as it stands: {', '.join(changed)}."] if changed else []
    notes = (*table.notes, *shown.notes(found), *asked, *_departures(runs, pairs))
    return replace(found, table=replace(table, notes=notes))


def departures(run: Run, pairs: list[str]) -> list[str]:
    """What in a run's folder was trained otherwise than its recipe and `pairs` say, as ``KEY: there -> asked``."""
    if not run.config.is_file() or run.model not in pipelines.models(run.pipeline):
        return []
    return claim.departures(run, pipelines.configure(f"{run.pipeline}/{run.model}", run.recipe, pairs, run.seed))


def _departures(runs: list[Run], pairs: list[str]) -> list[str]:
    """A sentence for each run that was trained by other settings than those the table is of."""
    found = []
    for run in runs:
        if changed := departures(run, pairs):
            more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
            found.append(
                f"{run.model}, seed {run.seed}, was trained by other settings than this table's: "
                f"{', '.join(changed[:4])}{more}"
            )
    return found
