"""Commands that gather what runs left behind: table, figures, and run, which does a paper's whole workflow."""

import os
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import sweep
from stillpoint.core.base.interrupt import locked
from stillpoint.core.runs import layout
from stillpoint.pipelines.commands.base import (
    Command,
    add_device,
    add_json,
    add_places,
    add_recipe,
    console,
    print_json,
    recipe_of,
    tell,
)

if TYPE_CHECKING:
    from stillpoint.core.reporting.tables import Table
    from stillpoint.pipelines.results import Results


def _shared_options(form: ArgumentParser) -> None:
    form.add_argument("pipeline", help="a paper, such as aps")
    add_recipe(form)
    add_places(form)
    form.add_argument("--seeds", type=int, metavar="N", help="use seeds 0..N-1 (default: all that were evaluated)")


def _table_options(form: ArgumentParser) -> None:
    _shared_options(form)
    add_json(form)


def print_table(table: "Table") -> None:
    from rich.table import Table as Grid

    from stillpoint.core.reporting.tables import layout, remarks
    from stillpoint.core.reporting.writing import one_line

    head, lines = layout(table)
    grid = Grid(
        title=one_line(table.title),
        title_justify="left",
        title_style="bold",
        header_style="bold",
        show_lines=False,
    )
    for number, name in enumerate(head):
        grid.add_column(name, justify="left" if number < 2 else "right", overflow="fold", no_wrap=number == 1)
    before = None
    for line in lines:
        network = line[0].removesuffix(" *")
        if before not in (None, network):
            grid.add_section()
        grid.add_row(*map(one_line, line), style="bold" if line[0].endswith("*") else None)
        before = network
    out = console()
    out.print(grid)
    for remark in remarks(table):
        out.print(one_line(remark), style="dim", soft_wrap=True)


def _table(args: Namespace) -> int:
    from stillpoint.core.reporting import tables
    from stillpoint.pipelines import gathering

    with _writing(args):
        found = _gathered(args)
        paths = gathering.write_table(found, gathering.shown_by(found.paper, found.config))
    if args.json:
        print_json(tables.as_dict(found.table))
        return 0
    print_table(found.table)
    tell("written: " + ", ".join(str(path) for path in paths))
    return 0


def _figures(args: Namespace) -> int:
    from stillpoint.pipelines import gathering

    with _writing(args):
        found = _gathered(args)
        paths = gathering.draw_figures(found, gathering.shown_by(found.paper, found.config))
    tell("written: " + ", ".join(str(path) for path in paths))
    return 0


@contextmanager
def _writing(args: Namespace) -> Iterator[None]:
    """Holds the tables and figures of a recipe, and removes what a killed command was drawing."""
    import stillpoint.pipelines as pipelines

    pipelines.paper(args.pipeline).recipe_file(recipe_of(args))  # a wrong name makes no folder
    folder = layout.table(args.pipeline, recipe_of(args), "md", args.results).parent
    if not folder.is_dir():
        yield  # there is nothing to show, which is told
        return
    with locked(folder / ".tables.lock", wait=lambda sentence: print(sentence, file=sys.stderr)):
        sweep(folder, below=False)
        sweep(folder / "figures")
        yield


def _gathered(args: Namespace) -> "Results":
    # pydantic comes with it, which takes as long as all else that --help needs
    from stillpoint.pipelines.gathering import gather

    return gather(args.pipeline, recipe_of(args), args.results, args.seeds, args.pairs)


def _workflow_options(form: ArgumentParser) -> None:
    form.add_argument("pipeline", help="a paper, such as aps")
    add_recipe(form)
    form.add_argument(
        "--seeds", type=int, metavar="N", help="seeds 0..N-1 of each network (default: what the recipe says)"
    )
    form.add_argument("-j", "--jobs", type=int, metavar="N", help="jobs at once (default: one for each core)")
    form.add_argument(
        "--anew",
        action="store_true",
        help="remove the runs that are there and begin them all anew, however they were made and whether or not kept",
    )
    form.add_argument(
        "--dry-run",
        action="store_true",
        help="train nothing: time a few steps of each network, and say what the whole would take",
    )
    add_places(form)
    add_device(form)


def _workflow(args: Namespace) -> int:
    from stillpoint.core.reporting.progress import follow
    from stillpoint.core.runs.records import clear
    from stillpoint.pipelines import gathering, workflow

    given = {
        "recipe": recipe_of(args),
        "seeds": args.seeds,
        "results": str(args.results),
        "data": str(args.data or ""),
        "device": args.device,
        "threads": args.threads or 1,
        "settings": shlex.join(args.pairs),
    }
    plan = workflow.plan(args.pipeline, given)
    for model in plan.config.grid:
        plan.resolved(model, 0)  # a wrong setting is told now, not by the first job
    if args.dry_run:
        from stillpoint.pipelines.commands import dry_run

        dry_run.show(plan)
        return 0
    for run in () if args.anew else plan.runs:
        plan.refuse(run)
    # snakemake inherits the lock, which so is held until it has ended too, however either of them ends
    with locked(plan.folder / ".lock", wait=tell) as held:
        for run in plan.runs:
            # what a killed workflow was training or measuring goes on without it, and is then there to be used
            if run.lock.exists():
                with locked(run.lock, wait=tell):
                    if args.anew:
                        clear(run)
        command, epochs = workflow.snakemake(plan, args.jobs), plan.config.train.epochs
        os.environ[workflow.HOLDS] = str(plan.folder.resolve())
        try:
            code = follow(command, plan.runs, epochs, plan.folder, console(), keep=(held,))
        finally:
            del os.environ[workflow.HOLDS]
    if code:
        raise UserError(
            f"the workflow stopped (exit code {code}); its output is in {plan.folder / 'logs' / 'workflow.txt'}"
        )
    print_table(gathering.gather(args.pipeline, plan.recipe, args.results, args.seeds, plan.pairs).table)
    files = [*plan.tables().values(), *plan.pages().values(), *plan.figures().values()]
    tell("written: " + ", ".join(files))
    return 0


COMMANDS = {
    "table": Command(
        "make the table of a paper from the runs that were evaluated",
        _table_options,
        _table,
        ("stillpoint table aps", "stillpoint table aps --recipe cifar10 --seeds 3", "stillpoint table aps --json"),
        takes_pairs=True,
    ),
    "figures": Command(
        "draw the figures of a paper from the runs that were evaluated",
        _shared_options,
        _figures,
        ("stillpoint figures aps", "stillpoint figures aps --recipe cifar10"),
        takes_pairs=True,
    ),
    "run": Command(
        "run a paper's workflow to its table and figures, showing what runs and how long it has left",
        _workflow_options,
        _workflow,
        ("stillpoint run aps", "stillpoint run aps --recipe cifar10 --seeds 3 -j 1", "stillpoint run board --dry-run"),
        takes_pairs=True,
    ),
}
