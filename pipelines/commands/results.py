"""Commands that gather what runs left behind: table, figures, and run, which does a paper's whole workflow."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from pipelines.commands.base import (
    Command,
    add_device,
    add_json,
    add_places,
    add_recipe,
    console,
    print_json,
    recipe_of,
)

if TYPE_CHECKING:
    from core.tables import Table


def _shared_options(form: ArgumentParser) -> None:
    form.add_argument("pipeline", help="a paper, such as aps")
    add_recipe(form)
    add_places(form)
    form.add_argument("--seeds", type=int, metavar="N", help="use seeds 0..N-1 (default: all that were evaluated)")


def _table_options(form: ArgumentParser) -> None:
    _shared_options(form)
    add_json(form)


def gather(paper: str, recipe: str, root: Path, seeds: int | None, pairs: list[str]) -> "Table":
    """The table of what was evaluated under a recipe, titled with the data set's own title and the recipe's."""
    import yaml

    from core import tables
    from pipelines import workflow

    config = workflow.recipe_config(paper, recipe, pairs)
    runs = tables.found_runs(paper, recipe, root, seeds)
    if not runs:
        raise UserError(
            f"nothing was evaluated under {root / paper / recipe} yet: run stillpoint run {paper} --recipe {recipe}, "
            "or stillpoint train and stillpoint evaluate"
        )
    path = workflow.published_path(paper)
    published = yaml.safe_load(path.read_text()) if path.is_file() else {}
    data = tables.dataset_title(tables.read_metrics(runs[0]))
    title = f"{data}: {config.title}" if config.title else data
    return tables.collect(runs, config.grid, published or {}, title=title)


def print_table(table: "Table") -> None:
    from rich.table import Table as Grid

    from core.tables import layout, remarks

    head, lines = layout(table)
    grid = Grid(title=table.title, title_justify="left", title_style="bold", header_style="bold", show_lines=False)
    for number, name in enumerate(head):
        grid.add_column(name, justify="left" if number < 2 else "right", overflow="fold")
    before = None
    for line in lines:
        network = line[0].removesuffix(" *")
        if before not in (None, network):
            grid.add_section()
        grid.add_row(*line, style="bold" if line[0].endswith("*") else None)
        before = network
    out = console()
    out.print(grid)
    for remark in remarks(table):
        out.print(remark, style="dim")


def _table(args: Namespace) -> int:
    from core import tables

    table = gather(args.pipeline, recipe_of(args), args.results, args.seeds, args.pairs)
    paths = tables.write(table, args.results)
    if args.json:
        print_json(tables.as_dict(table))
        return 0
    print_table(table)
    console().print("written: " + ", ".join(str(path) for path in paths))
    return 0


def _figures(args: Namespace) -> int:
    from core import figures, tables
    from core.runs import figure

    recipe = recipe_of(args)
    table = gather(args.pipeline, recipe, args.results, args.seeds, args.pairs)
    place = {name: figure(args.pipeline, recipe, name, args.results) for name in ("consistency_accuracy", "shift_maps")}
    written = [figures.consistency_accuracy(table, place["consistency_accuracy"])]
    runs = {row.model: [_run(table, row.model, seed, args.results) for seed in row.seeds] for row in table.rows}
    maps = {model: figures.read_shift_maps([run.maps for run in own]) for model, own in runs.items()}
    held = {model: found for model, found in maps.items() if found is not None}
    if held:
        counts = {
            (len(own), tables.read_metrics(own[0])["trained"]["all_shifts_images"])
            for model, own in runs.items()
            if model in held
        }
        told = " and ".join(f"{n} seeds of {int(images)} images each" for n, images in sorted(counts))
        written.append(
            figures.shift_maps(held, place["shift_maps"], title=f"{table.title}: every circular shift, {told}")
        )
    histories: dict[str, Any] = {
        model: [figures.read_history(run.history) for run in own if run.history.is_file()]
        for model, own in runs.items()
    }
    histories = {model: own for model, own in histories.items() if own}
    if histories:
        path = figure(args.pipeline, recipe, "learning_curves", args.results)
        written.append(figures.learning_curves(histories, path, title=table.title))
    console().print("written: " + ", ".join(str(path) for path in written))
    return 0


def _run(table: "Table", model: str, seed: int, root: Path) -> Any:
    from core.runs import Run

    return Run(table.pipeline, table.recipe, model, seed, root)


def _workflow_options(form: ArgumentParser) -> None:
    form.add_argument("pipeline", help="a paper, such as aps")
    form.add_argument("--dataset", default="digits", metavar="NAME", help="data set (default: digits)")
    form.add_argument(
        "--scale", default="demo", metavar="NAME", help="demo or paper: the recipe <dataset>_<scale> where there is one"
    )
    form.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0..N-1 of each network (default: 3)")
    form.add_argument("-j", "--jobs", type=int, metavar="N", help="jobs at once (default: one for each core)")
    add_places(form)
    add_device(form)


def _workflow(args: Namespace) -> int:
    from core.progress import follow
    from pipelines import workflow

    given = {
        "dataset": args.dataset,
        "scale": args.scale,
        "seeds": args.seeds,
        "results": str(args.results),
        "data": str(args.data or ""),
        "device": args.device,
        "threads": args.threads or 1,
        "settings": " ".join(args.pairs),
    }
    plan = workflow.plan(args.pipeline, given)
    for model in plan.config.grid:
        plan.resolved(model, 0)  # a wrong setting is told now, not by the first job
    code = follow(workflow.snakemake(plan, args.jobs), plan.runs, plan.config.train.epochs, plan.folder, console())
    if code:
        raise UserError(
            f"the workflow stopped (exit code {code}); its output is in {plan.folder / 'logs' / 'workflow.txt'}"
        )
    print_table(gather(args.pipeline, plan.recipe, args.results, args.seeds, plan.pairs))
    files = [*plan.tables().values(), *plan.figures().values()]
    console().print("written: " + ", ".join(files))
    return 0


COMMANDS = {
    "table": Command(
        "make the table of a paper from the runs that were evaluated",
        _table_options,
        _table,
        ("stillpoint table aps", "stillpoint table aps --dataset cifar10 --seeds 3", "stillpoint table aps --json"),
        takes_pairs=True,
    ),
    "figures": Command(
        "draw the figures of a paper from the runs that were evaluated",
        _shared_options,
        _figures,
        ("stillpoint figures aps", "stillpoint figures aps --dataset cifar10"),
        takes_pairs=True,
    ),
    "run": Command(
        "run a paper's workflow to its table and figures, showing what runs and how long it has left",
        _workflow_options,
        _workflow,
        ("stillpoint run aps", "stillpoint run aps --dataset cifar10 --scale paper --seeds 3 -j 1"),
        takes_pairs=True,
    ),
}
