"""Turns a folder of evaluated runs into a paper's table for one recipe, and the files beside it."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import write_together
from stillpoint.core.config.catalogue import info
from stillpoint.core.config.schema import deciding, differences
from stillpoint.core.reporting import tables
from stillpoint.core.reporting.reading import dataset_title, found_runs, read_metrics
from stillpoint.core.runs import cards, layout
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.networks import departures, models, paper, recipe_config
from stillpoint.pipelines.results import Results, Shown, shown_by

#: data sets with at most this many classes have no column of top-5 accuracy
FEW_CLASSES = 10


def gather(
    name: str, recipe: str, root: Path, seeds: int | None, pairs: list[str], kept: Path | None = None
) -> Results:
    """The evaluated runs of a paper under a recipe, and their table, titled after the data set and the recipe.

    Folders that are not named after a network of the paper are left out, and the table says so. With `kept`, the folder
    of kept runs, these are used, and from `root` only runs that are not kept with these settings; the table is for
    `kept`. `UserError` if there is no run.
    """
    config, known = recipe_config(name, recipe, pairs), models(name)
    every = found_runs(name, recipe, root, seeds)
    if kept is not None:
        every, root = (
            _with_kept(found_runs(name, recipe, cards.settled(kept), seeds), every if root != kept else [], pairs),
            kept,
        )
    runs = [run for run in every if run.model in known]
    foreign = dict.fromkeys(run.model for run in every if run.model not in known)
    left_out = f"Left out, because {name} has no such network: {', '.join(map(repr, foreign))}." if foreign else ""
    if not runs:
        there = "nothing was evaluated" if kept is None else "no run is kept"
        others = sorted({run.seed for run in found_runs(name, recipe, root)})
        if seeds is not None and others:
            seen = ", ".join(f"seed{seed}" for seed in others)
            there += f" of seeds 0 to {seeds - 1} (there are {seen}, which --seeds {others[-1] + 1} would include)"
        then = ", or stillpoint train and stillpoint evaluate" if kept is None else ", then stillpoint release"
        raise UserError(
            f"{there} under {root / name / recipe} yet: stillpoint run {name} --recipe {recipe}{then}"
            f"{'. ' if left_out else ''}{left_out.removesuffix('.')}"
        )
    data = dataset_title(read_metrics(runs[0]))
    title = f"{data}: {config.title}" if config.title else data
    shown = shown_by(paper(name), config, kept=kept is not None)
    # top-5 accuracy says little about ten classes
    few = info(config.data.name).num_classes <= FEW_CLASSES
    columns = tuple(column for column in shown.columns if not (few and column.key.endswith("accuracy_top5")))
    published = paper(name).published
    table = tables.collect(runs, config.grid, published, title=title, columns=columns, axes=shown.axes)
    by_model = {row.model: [run for run in runs if run.model == row.model] for row in table.rows}
    found = Results(paper(name), recipe, root, config, table, by_model)
    changed = differences(deciding(recipe_config(name, recipe).dump()), deciding(config.dump())) if pairs else []
    asked = [f"Differs from the recipe: {', '.join(changed)}."] if changed else []
    fresh = [f"{run.model} seed {run.seed}" for run in runs if kept is not None and run.root != kept]
    asked += [f"Not kept: {', '.join(fresh)}."] if fresh else []
    notes = (*table.notes, *shown.notes(found), *asked, *_departures(runs, pairs), *filter(None, [left_out]))
    return replace(found, table=replace(table, notes=notes))


def _with_kept(kept: list[Run], others: list[Run], pairs: list[str]) -> list[Run]:
    """The kept runs, and others where a kept run is missing or has other settings; by network and seed."""
    for run in kept:
        cards.check(run)
    chosen = {(run.model, run.seed): run for run in kept}
    for run in others:
        held = chosen.get((run.model, run.seed))
        if held is None or departures(held, pairs):
            chosen[run.model, run.seed] = run
    return [chosen[key] for key in sorted(chosen)]


def _departures(runs: list[Run], pairs: list[str]) -> list[str]:
    """A sentence for each run trained with other settings than the table's."""
    found = []
    for run in runs:
        if changed := departures(run, pairs):
            more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
            found.append(
                f"{run.model}, seed {run.seed}, was trained with other settings than this table's: "
                f"{', '.join(changed[:4])}{more}"
            )
    return found


def write_table(found: Results, shown: Shown) -> list[Path]:
    """Writes the table's files and the pages beside it, all or none, and returns their paths."""
    made = contents(found, shown)
    write_together(made)
    return list(made)


def contents(found: Results, shown: Shown) -> dict[Path, str]:
    """The contents of the table's files and of the pages beside it."""
    made = tables.contents(found.table, found.root)
    for name, page in shown.pages.items() if complete(run for own in found.runs.values() for run in own) else ():
        made[layout.page(found.paper.name, found.recipe, name, found.root)] = page.text(found)
    return made


def complete(runs: Iterable[Run]) -> bool:
    """Whether a paper's figures and pages can be made of these runs; some were kept without their histories."""
    return all(run.history.is_file() or not run.card.is_file() for run in runs)


def draw_figures(found: Results, shown: Shown) -> list[Path]:
    """Draws the figures and returns their paths; none for runs that were kept without their histories."""
    paths: list[Path] = []
    for name, figure in shown.figures.items() if complete(run for own in found.runs.values() for run in own) else ():
        paths.append(layout.figure(found.paper.name, found.recipe, name, found.root))
        figure.draw(found, paths[-1])
    return paths
