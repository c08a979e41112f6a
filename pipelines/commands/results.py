"""The commands table, figures and run, which executes a paper's whole workflow."""

import os
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import sweep
from stillpoint.core.base.interrupt import locked
from stillpoint.core.runs import layout
from stillpoint.pipelines import networks
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
    tell_of_precision,
)

if TYPE_CHECKING:
    from stillpoint.core.reporting.tables import Table
    from stillpoint.pipelines.results import Results


def _shared_options(parser: ArgumentParser) -> None:
    parser.add_argument("pipeline", help="a paper, such as aps")
    add_recipe(parser)
    add_places(parser)
    parser.set_defaults(results=None)
    parser.add_argument("--seeds", type=int, metavar="N", help="use seeds 0..N-1 (default: all that were evaluated)")
    parser.add_argument(
        "--kept",
        action="store_true",
        help="use the kept runs and write to runs/; with --results, also runs from there that are not kept",
    )


def _table_options(parser: ArgumentParser) -> None:
    _shared_options(parser)
    add_json(parser)


def print_table(table: "Table") -> None:
    from rich.table import Table as Grid

    from stillpoint.core.reporting.tables import layout, remarks
    from stillpoint.core.reporting.writing import one_line

    head, lines = layout(table)
    out = console()
    widths = _widths(head, lines, out.width)
    grid = Grid(
        title=one_line(table.title),
        title_justify="left",
        title_style="bold",
        header_style="bold",
        show_lines=False,
    )
    for number, name in enumerate(head):
        justify: Literal["left", "right"] = "left" if number < 2 else "right"
        grid.add_column(name, justify=justify, overflow="fold", no_wrap=number == 1, width=widths[number])
    before = None
    for line in lines:
        network = line[0].removesuffix(" *")
        if before not in (None, network):
            grid.add_section()
        grid.add_row(*map(one_line, line), style="bold" if line[0].endswith("*") else None)
        before = network
    out.print(grid)
    for remark in remarks(table):
        out.print(one_line(remark), style="dim", soft_wrap=True)


def _widths(head: Sequence[str], lines: Sequence[Sequence[str]], room: int) -> list[int | None]:
    """Column widths at which names and numbers stay whole, and headings break first; None: the natural width."""
    rows = [len(line[0]) for line in lines]
    cells = [[len(word) for line in lines for word in line[number].split()] for number in range(1, len(head))]
    least = [max(sizes, default=1) for sizes in (rows, *cells)]
    whole = (
        [max(len(name), *(len(line[number]) for line in lines)) for number, name in enumerate(head)] if lines else []
    )
    spare = room - sum(least) - 3 * len(head) - 1
    if spare < 0 or sum(whole) + 3 * len(head) + 1 <= room:
        return [None] * len(head)
    for number, name in enumerate(head):
        more = min(spare, max(0, max(map(len, name.split())) - least[number]))
        least[number], spare = least[number] + more, spare - more
    return [*least]


def _table(args: Namespace) -> int:
    from stillpoint.core.reporting import tables
    from stillpoint.pipelines import gathering

    with _writing(args):
        found = _gathered(args)
        paths = gathering.write_table(found, gathering.shown_by(found.paper, found.config, kept=args.kept))
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
        paths = gathering.draw_figures(found, gathering.shown_by(found.paper, found.config, kept=args.kept))
    tell("written: " + ", ".join(str(path) for path in paths))
    return 0


@contextmanager
def _writing(args: Namespace) -> Iterator[None]:
    """Holds the lock of a recipe's tables and figures, and removes the temporary files of a killed command."""
    import stillpoint.pipelines as pipelines

    pipelines.paper(args.pipeline).recipe_file(recipe_of(args))  # a wrong name makes no folder
    place = networks.kept_root() if args.kept else args.results or layout.RESULTS
    folder = layout.table(args.pipeline, recipe_of(args), "md", place).parent
    if not folder.is_dir():
        yield  # there is nothing to show, which the caller reports
        return
    with locked(folder / ".tables.lock", wait=lambda sentence: print(sentence, file=sys.stderr)):
        sweep(folder, below=False)
        sweep(folder / "figures")
        yield


def _gathered(args: Namespace) -> "Results":
    # imported here because pydantic takes as long as everything else that --help needs
    from stillpoint.pipelines.gathering import gather

    kept = networks.kept_root() if args.kept else None
    root = args.results or kept or layout.RESULTS
    return gather(args.pipeline, recipe_of(args), root, args.seeds, args.pairs, kept)


def _workflow_options(parser: ArgumentParser) -> None:
    parser.add_argument("pipeline", help="a paper, such as aps")
    add_recipe(parser)
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0..N-1 of each network (default: the recipe's)")
    parser.add_argument(
        "-j", "--jobs", type=int, metavar="N", help="number of parallel jobs (default: one for each core)"
    )
    parser.add_argument(
        "--anew",
        action="store_true",
        help="remove existing runs, also those made by hand, and start from scratch",
    )
    parser.add_argument(
        "--kept",
        action="store_true",
        help="use kept runs with these settings and train only the others; the table goes to runs/",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="train nothing: time a few steps of each network and estimate the total",
    )
    add_places(parser)
    add_device(parser)


def _workflow(args: Namespace) -> int:
    from stillpoint.core.reporting.progress import follow
    from stillpoint.core.runs.records import clear
    from stillpoint.pipelines import gathering, workflow

    if args.anew and args.kept:
        raise UserError("--kept uses runs as they are and --anew replaces them: leave one out")
    given = {
        "recipe": recipe_of(args),
        "seeds": args.seeds,
        "results": str(args.results),
        "data": str(args.data or ""),
        "device": args.device,
        "threads": args.threads or 1,
        "settings": shlex.join(args.pairs),
        "kept": args.kept,
    }
    plan = workflow.plan(args.pipeline, given)
    for model in plan.config.grid:
        plan.resolved(model, 0)  # a wrong setting is reported now, not by the first job
    if args.dry_run:
        from stillpoint.pipelines.commands import dry_run

        dry_run.show(plan)
        return 0
    for run in () if args.anew else plan.runs:
        plan.refuse(run)
    if args.anew or not all(run.weights.is_file() for run in plan.runs):
        # the jobs tell it to their logs
        tell_of_precision(plan.config, args.device, plan.settings.threads)
    # snakemake inherits the lock, which is thus held until both have ended, even after SIGKILL of one
    with locked(plan.folder / ".lock", wait=tell) as held:
        for run in plan.runs:
            # jobs of a killed workflow continue without it, so wait until they end and their results can be used;
            # results that were copied or fetched have no lock file
            if run.lock.exists() or (args.anew and run.folder.is_dir()):
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
    found = gathering.gather(args.pipeline, plan.recipe, args.results, plan.seeds, plan.pairs, plan.kept)
    made = gathering.contents(found, plan.shown)
    if any(not path.is_file() or path.read_bytes() != text.encode() for path, text in made.items()):
        # numbers older than their table by time stamp, after a clock change or a copy that keeps times
        with _writing(args):
            gathering.write_table(found, plan.shown)
            gathering.draw_figures(found, plan.shown)
    print_table(found.table)
    files = [*plan.tables().values(), *plan.pages().values(), *plan.figures().values()]
    tell("written: " + ", ".join(files))
    return 0


COMMANDS = {
    "table": Command(
        "make a paper's table from evaluated runs",
        _table_options,
        _table,
        ("stillpoint table aps", "stillpoint table aps --recipe cifar10 --seeds 3", "stillpoint table aps --kept"),
        takes_pairs=True,
    ),
    "figures": Command(
        "draw a paper's figures from evaluated runs",
        _shared_options,
        _figures,
        ("stillpoint figures aps", "stillpoint figures aps --kept"),
        takes_pairs=True,
    ),
    "run": Command(
        "run a paper's whole workflow, to table and figures",
        _workflow_options,
        _workflow,
        ("stillpoint run aps", "stillpoint run aps --recipe cifar10 --seeds 3 -j 1", "stillpoint run board --dry-run"),
        takes_pairs=True,
    ),
}
