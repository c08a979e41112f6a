"""From a folder of evaluated runs to a paper's table under one recipe, and the files beside it."""

from dataclasses import replace
from pathlib import Path

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import write_together
from stillpoint.core.config.catalogue import info
from stillpoint.core.config.schema import deciding, differences
from stillpoint.core.reporting import tables
from stillpoint.core.reporting.reading import dataset_title, found_runs, read_metrics
from stillpoint.core.runs import layout
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.networks import departures, models, paper, recipe_config
from stillpoint.pipelines.results import Results, Shown, shown_by

#: no column of top-5 accuracy for data sets of so many classes or fewer
FEW_CLASSES = 10


def gather(name: str, recipe: str, root: Path, seeds: int | None, pairs: list[str]) -> Results:
    """What was evaluated of a paper under a recipe; its table is titled with the data set's own title and the recipe's.

    A folder that is named after no network of the paper is left out, and the table says so.
    """
    config, known = recipe_config(name, recipe, pairs), models(name)
    every = found_runs(name, recipe, root, seeds)
    runs = [run for run in every if run.model in known]
    foreign = dict.fromkeys(run.model for run in every if run.model not in known)
    left_out = f"Left out, because {name} has no such network: {', '.join(map(repr, foreign))}." if foreign else ""
    if not runs:
        raise UserError(
            f"nothing was evaluated under {root / name / recipe} yet: stillpoint run {name} --recipe {recipe}, "
            f"or stillpoint train and stillpoint evaluate{'. ' if left_out else ''}{left_out.removesuffix('.')}"
        )
    data = dataset_title(read_metrics(runs[0]))
    title = f"{data}: {config.title}" if config.title else data
    shown = shown_by(paper(name), config)
    # of ten classes, being among the first five says little
    few = info(config.data.name).num_classes <= FEW_CLASSES
    columns = tuple(column for column in shown.columns if not (few and column.key.endswith("accuracy_top5")))
    published = paper(name).published
    table = tables.collect(runs, config.grid, published, title=title, columns=columns, axes=shown.axes)
    by_model = {row.model: [Run(name, recipe, row.model, seed, root) for seed in row.seeds] for row in table.rows}
    found = Results(paper(name), recipe, root, config, table, by_model)
    changed = differences(deciding(recipe_config(name, recipe).dump()), deciding(config.dump())) if pairs else []
    asked = [f"Not the recipe as it stands: {', '.join(changed)}."] if changed else []
    notes = (*table.notes, *shown.notes(found), *asked, *_departures(runs, pairs), *filter(None, [left_out]))
    return replace(found, table=replace(table, notes=notes))


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


def write_table(found: Results, shown: Shown) -> list[Path]:
    """Writes the table's files and the pages beside it, all or none, and returns their paths."""
    contents = tables.contents(found.table, found.root)
    for name, page in shown.pages.items():
        contents[layout.page(found.paper.name, found.recipe, name, found.root)] = page.text(found)
    write_together(contents)
    return list(contents)


def draw_figures(found: Results, shown: Shown) -> list[Path]:
    """Draws the figures, and returns their paths."""
    paths = []
    for name, figure in shown.figures.items():
        paths.append(layout.figure(found.paper.name, found.recipe, name, found.root))
        figure.draw(found, paths[-1])
    return paths
