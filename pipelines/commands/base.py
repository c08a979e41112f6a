"""Shared by commands: the `Command` type, common options, and the choice of a recipe."""

import json
import os
import sys
import time
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from stillpoint.core.base.errors import UserError, checked
from stillpoint.core.base.progress import OnProgress
from stillpoint.core.runs.layout import RESULTS, Run, seeds_there

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn
    from torch import nn

    from stillpoint.core.config.schema import RunConfig


@dataclass(frozen=True)
class Command:
    """One command: a summary in one sentence, its options, the function to run, and examples that work as typed."""

    summary: str
    options: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int | None]
    examples: tuple[str, ...]
    takes_pairs: bool = False
    pairs: str = "TRAIN.LR 0.05"  # an example of KEY VALUE pairs


def add_recipe(parser: ArgumentParser) -> None:
    """Adds ``--recipe``, and its former spellings, which `recipe_of` refuses."""
    parser.add_argument(
        "--recipe", default="digits", metavar="NAME", help="recipe of data and training (default: digits)"
    )
    for word in ("--dataset", "--scale"):
        parser.add_argument(word, help=SUPPRESS)


def add_places(parser: ArgumentParser) -> None:
    """Adds ``--results`` and ``--data``."""
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIR", help="folder of all results (default: results)"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder of the data (default: $STILLPOINT_DATA, or data)"
    )


def positive(text: str) -> int:
    """The type of an option that takes a positive integer."""
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise ArgumentTypeError(f"must be a positive integer of at most nine digits, not {text[:40]!r}")
    return int(text)


def thread_count(text: str) -> int:
    """The type of an option that takes a number of threads; too many would end in a library's message."""
    count, most = positive(text), 16 * (os.cpu_count() or 1)
    if count > most:
        raise ArgumentTypeError(f"must be at most {most} on this machine, sixteen threads per core, not {count}")
    return count


def png(text: str) -> Path:
    """The type of an option that takes the file of a figure."""
    if Path(text).suffix.lower() != ".png":
        raise ArgumentTypeError(f"figures are written as PNG: {text} must end in .png")
    return Path(text)


def add_device(parser: ArgumentParser) -> None:
    """Adds ``--device`` and ``--threads``."""
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1 or auto (default: auto, a GPU if there is one)"
    )
    parser.add_argument("--threads", type=thread_count, metavar="N", help="CPU threads (default: torch's choice)")


def add_json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def recipe_of(args: Namespace) -> str:
    """The requested recipe; `UserError` with the new spelling for ``--dataset`` and ``--scale``."""
    old = [f"--{word} {getattr(args, word)}" for word in ("dataset", "scale") if getattr(args, word) is not None]
    if old:
        from stillpoint.pipelines.workflow import recipe_for

        # only workflows had the default scale demo; other commands used the data set's name as the recipe
        scale = args.scale or ("demo" if args.command == "run" else "")
        raise UserError(f"{' '.join(old)} is now --recipe {recipe_for(args.dataset or 'digits', scale)}")
    return args.recipe


def leave_output(stream: TextIO | None = None) -> None:
    """Discards the rest of the output (or of `stream`), which the interpreter would fail to flush at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())


@cache
def _lasting() -> "type[Console]":
    from rich.console import Console

    class Lasting(Console):
        """A console that falls silent when its reader (head, tee) has exited, so that a training continues."""

        def on_broken_pipe(self) -> None:
            self.quiet = True
            leave_output()

    return Lasting


def console() -> "Console":
    """The console of tables and messages; of unlimited width if the output is not a terminal.

    Text is printed verbatim: names and titles are never parsed as markup.
    """
    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    out = _lasting()(**plain)
    return out if out.is_terminal else _lasting()(**plain, width=200)


def tell(sentence: str) -> None:
    """Prints a message without wrapping it, so that paths can be copied from the terminal."""
    console().print(sentence, soft_wrap=True)


def tell_of_precision(config: "RunConfig", device: str, threads: int | None) -> None:
    """Tells before a training in bfloat16 if float32 is faster on this processor, which is measured."""
    if config.train.precision == "bfloat16":
        from stillpoint.core.base.bfloat16 import advice
        from stillpoint.core.base.device import pick, settings

        where = pick(device)
        with settings(where, threads):
            sentence = advice(config.train.precision, where)
        if sentence:
            tell(sentence)


def bars(*more: "ProgressColumn", shown: bool = True) -> "Progress":
    """Progress bars that vanish when done; `more` columns follow the usual ones."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, *more, console=console(), transient=True, disable=not shown)


#: seconds between two lines on the progress of long work, where the output is not a terminal
LINES = 30.0


@contextmanager
def reported(begins: str = "", *, quiet: bool = False) -> Iterator[OnProgress]:
    """The progress of long work, as a callback: bars on a terminal, elsewhere a line every half minute.

    `begins` is printed first, since libraries and data take seconds to load; with `quiet` (--json) nothing is printed.
    """
    if begins and not quiet:
        tell(begins)
    terminal, told = console().is_terminal, time.monotonic()
    with bars(shown=terminal and not quiet) as shown:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, total: int) -> None:
            nonlocal told
            if terminal:
                if what not in tasks:
                    tasks[what] = shown.add_task(what)
                shown.update(tasks[what], completed=done, total=total or None)
            elif not quiet and time.monotonic() - told >= LINES:
                told = time.monotonic()
                tell(f"{what}: {done:,} of {total:,}" if total else f"{what}: {done:,}")

        yield progress


#: seconds without a change after which a temporary file counts as abandoned
LEFT = 24 * 3600


def remove_left(*folders: Path) -> None:
    """Removes temporary files that killed commands left in `folders`, which have no lock."""
    for part in (path for folder in folders for path in folder.glob(".*.????????.tmp*")):
        with suppress(OSError):  # another user's, or just renamed
            if time.time() - part.stat().st_mtime > LEFT:
                part.unlink()


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


def build(config: "RunConfig") -> "nn.Module":
    """The network of a user's configuration; `UserError` for values that its layers refuse."""
    from stillpoint import pipelines

    with checked():
        return pipelines.build(config)


def configured(name: str, args: Namespace, seed: int = 0) -> "RunConfig":
    """The resolved configuration of the network `name` under the options of a command."""
    from stillpoint import pipelines

    return pipelines.configure(name, recipe_of(args), args.pairs, seed)


def run_config(run: Run, pairs: list[str]) -> "RunConfig":
    """The configuration of a run, overridden by `pairs`; `UserError` if there is none."""
    from stillpoint import pipelines
    from stillpoint.core.config.merge import merge, read_recipe

    if not run.config.is_file():
        raise UserError(
            f"{run.folder} does not exist or has no config.yaml{seeds_there(run.folder)}: train the run first"
        )
    schema = pipelines.paper(run.pipeline).schema()
    return merge(schema, [read_recipe(run.config, schema)], pairs)
