"""How a paper presents its evaluated runs: the columns of its table, its figures, and further pages.

Snakemake reads the names of the files here, so nothing heavy is imported outside functions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from stillpoint.core.base.errors import UserError
from stillpoint.core.reporting.columns import AXES, COLUMNS, Column
from stillpoint.core.reporting.reading import read_metrics
from stillpoint.core.reporting.tables import Table
from stillpoint.core.runs.layout import Run

if TYPE_CHECKING:
    from stillpoint.core.config.schema import RunConfig
    from stillpoint.pipelines.paper import Paper


@dataclass(frozen=True)
class Results:
    """The evaluated runs of one recipe: their table, and each network's runs in the order of their seeds."""

    paper: "Paper"
    recipe: str
    root: Path
    config: "RunConfig"
    table: Table
    runs: Mapping[str, list[Run]]


@dataclass(frozen=True)
class Needs:
    """The requirements of a figure or page, which is made for recipes that meet them.

    evaluation  must be in the recipe's EVALUATE.METRICS; "": none
    networks    shell pattern of the networks that can have it; one must be in the recipe's GRID
    recipes     shell patterns of the recipes that can have it
    """

    evaluation: str = ""
    networks: str = "*"
    recipes: tuple[str, ...] = ("*",)

    def met_by(self, config: "RunConfig") -> bool:
        return (
            (not self.evaluation or self.evaluation in config.evaluate.metrics)
            and (self.networks == "*" or any(fnmatchcase(model, self.networks) for model in config.grid))
            and any(fnmatchcase(config.recipe, pattern) for pattern in self.recipes)
        )


@dataclass(frozen=True)
class Figure:
    """A figure ``figures/<name>.png``: `draw` writes it to the given path.

    `kept` says whether it can be drawn from kept runs, most of which lack weights and large arrays.
    """

    draw: Callable[[Results, Path], object]
    needs: Needs = Needs()
    kept: bool = True


@dataclass(frozen=True)
class Page:
    """A file beside the table: `text` returns its content.

    `reads` are further recipes whose evaluated runs it shows, and `files` other files that it reads; if either changes,
    the workflow writes the page again. It is written for recipes that meet `needs`.
    """

    text: Callable[[Results], str]
    needs: Needs = Needs()
    reads: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


def consistency_accuracy(results: Results, path: Path) -> None:
    from stillpoint.core.reporting import figures

    figures.consistency_accuracy(results.table, path)


def shift_maps(results: Results, path: Path) -> None:
    from stillpoint.core.reporting import figures

    maps = {model: figures.read_shift_maps([run.maps for run in own]) for model, own in results.runs.items()}
    held = {model: found for model, found in maps.items() if found is not None}
    if not held:
        raise UserError(f"{path.name} needs the evaluation all_shifts: add it to EVALUATE.METRICS")
    counts = {read_metrics(run)["trained"].get("all_shifts_images") for model in held for run in results.runs[model]}
    images = f" of {counts.pop():.0f} images" if len(counts) == 1 and None not in counts else ""
    figures.shift_maps(held, path, title=f"{results.table.title}: after every circular shift{images}, trained")


def learning_curves(results: Results, path: Path) -> None:
    from stillpoint.core.reporting import figures

    histories = {model: [figures.read_history(run.history) for run in own] for model, own in results.runs.items()}
    figures.learning_curves(histories, path, title=results.table.title)


#: the default figures of every paper
FIGURES: dict[str, Figure] = {
    "consistency_accuracy": Figure(consistency_accuracy),
    "shift_maps": Figure(shift_maps, Needs("all_shifts")),
    "learning_curves": Figure(learning_curves),
}


@dataclass(frozen=True)
class Shown:
    """How a paper shows the results of one recipe.

    columns  of the table: core's with the paper's own among them (`stillpoint.core.reporting.columns.arranged`)
    axes     keys of the two columns of the Pareto front
    figures  name -> figure
    pages    file name -> page
    notes    sentences below the table, such as what images were made of
    """

    columns: tuple[Column, ...] = COLUMNS
    axes: tuple[str, str] = AXES
    figures: Mapping[str, Figure] = field(default_factory=lambda: FIGURES)
    pages: Mapping[str, Page] = field(default_factory=dict)
    notes: Callable[[Results], Sequence[str]] = lambda results: ()


def shown_by(paper: "Paper", config: "RunConfig", *, kept: bool = False) -> Shown:
    """What a paper shows of a recipe: figures and pages whose needs it meets, with `kept` only figures of kept runs."""
    shown = paper.shown(config)
    figures = {name: figure for name, figure in shown.figures.items() if figure.needs.met_by(config)}
    return Shown(
        shown.columns,
        shown.axes,
        {name: figure for name, figure in figures.items() if figure.kept or not kept},
        {name: page for name, page in shown.pages.items() if page.needs.met_by(config)},
        shown.notes,
    )
