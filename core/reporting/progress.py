"""Shows a workflow's progress and remaining time, read from the files of its runs."""

import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from stillpoint.core.base.documents import read_json
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.interrupt import Interrupted, StopRequest
from stillpoint.core.runs.layout import Run

#: Work of one evaluation (two states of a network) and of one start of Python, as fractions of a run's training. The
#: first is a guess until a run is done, whose measured seconds replace it (`evaluation_share`).
EVALUATION, START = 0.5, 0.05


@dataclass(frozen=True)
class Status:
    """The status of a run: `stage` is waiting, training, to measure (perhaps in progress) or done."""

    stage: str
    epoch: int
    epochs: int

    def work(self, evaluation: float = EVALUATION) -> float:
        """Fraction of the run's work that is done, 0..1, if an evaluation takes `evaluation` of a training's time."""
        if self.stage == "done":
            return 1.0
        trained = self.epoch / self.epochs if self.epochs else float(self.stage == "to measure")
        return (START * (trained > 0) + trained) / (1 + START + evaluation)

    def __str__(self) -> str:
        return f"epoch {self.epoch}/{self.epochs}" if self.stage == "training" else self.stage


def status(run: Run, epochs: int) -> Status:
    """A run's status from its files: history grows by one line per epoch, then weights and metrics follow."""
    try:
        rows = max(0, len(run.history.read_bytes().splitlines()) - 1)
    except OSError:
        rows = 0
    if run.metrics.is_file():
        return Status("done", epochs, epochs)
    if run.weights.is_file() and rows >= epochs:
        return Status("to measure", epochs, epochs)
    started = rows or run.state.is_file() or run.config.is_file()
    return Status("training" if started else "waiting", min(rows, epochs), epochs)


def evaluation_share(runs: Iterable[Run]) -> float:
    """Seconds of evaluation over seconds of training of finished runs; `EVALUATION` if none is finished."""
    trained = measured = 0.0
    for run in runs:
        try:
            of_training = read_json(run.training, remedy="train the run again", of=dict)
            of_metrics = read_json(run.metrics, remedy="evaluate the run again", of=dict)
            trained += float(of_training["seconds"])
            measured += float(of_metrics["provenance"]["seconds"])
        except (OSError, UserError, KeyError, TypeError, ValueError):
            continue  # not one of our files, or one that is being replaced
    return measured / trained if trained > 0 else EVALUATION


def remaining(done: float, before: float, seconds: float) -> float | None:
    """Estimated seconds left when the done fraction grew from `before` to `done` in `seconds`; None while unknown."""
    return None if done <= before else seconds * (1 - done) / (done - before)


def left(seconds: float | None, since: float = 0.0) -> str:
    """``about 3:07 left`` for an estimate made `since` seconds ago; ``remaining time unknown`` once it has run out."""
    rest = None if seconds is None else seconds - since
    return "remaining time unknown" if rest is None or rest <= 0 else f"about {clock(rest)} left"


def clock(seconds: float) -> str:
    """``3:07`` below an hour, ``25:03:07`` from then on."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def overview(found: dict[Run, Status], most: int | None = None) -> Table:
    """A table with a line per network and a column per seed; of more networks than `most`, the active ones."""
    styles = {"waiting": "dim", "training": "cyan", "to measure": "magenta", "done": "green"}
    seeds = sorted({run.seed for run in found})
    grid = Table("network", *(f"seed {seed}" for seed in seeds), box=None, header_style="bold", padding=(0, 2, 0, 0))
    by_model: dict[str, dict[int, Status]] = {}
    for run, state in found.items():
        by_model.setdefault(run.model, {})[run.seed] = state
    shown = by_model
    if most is not None and len(by_model) > most:
        # a terminal would cut off the last lines, and the bar with them
        busy = sorted(by_model, key=lambda model: all(s.stage not in _BUSY for s in by_model[model].values()))
        kept = set(busy[: max(1, most - 1)])
        shown = {model: own for model, own in by_model.items() if model in kept}
    for model, own in shown.items():
        cells = [Text(str(own[s]), styles[own[s].stage]) if s in own else "" for s in seeds]
        grid.add_row(model, *cells)
    if rest := [s for model, own in by_model.items() if model not in shown for s in own.values()]:
        counts = Counter(s.stage for s in rest)
        told = ", ".join(f"{counts[stage]} {stage}" for stage in styles if counts[stage])
        grid.add_row(f"{len(by_model) - len(shown)} more", Text(told, "dim"))
    return grid


def follow(
    command: Sequence[str],
    runs: Sequence[Run],
    epochs: int,
    folder: Path,
    console: Console,
    *,
    interval: float = 0.5,
    keep: Sequence[int] = (),
) -> int:
    """Runs `command`, shows the progress of `runs`, and returns the exit code.

    The command's output goes to ``<folder>/logs/workflow.txt``; it inherits the descriptors `keep`. On a terminal the
    display is live; elsewhere a line is printed at every change. SIGINT and SIGTERM stop the command with its jobs, and
    raise `Interrupted`.
    """
    log = folder / "logs" / "workflow.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
    )
    task = bar.add_task("starting", total=1.0)
    start, told = time.monotonic(), ""
    began: dict[Run, Status] | None = None
    finished, share = 0, EVALUATION
    estimate, grown, at = None, 0.0, start
    first: tuple[float, float, float] | None = None
    # started inside StopRequest: otherwise a process in the background (`&`) passes on that SIGINT is ignored
    with log.open("w") as output, StopRequest() as stop:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, pass_fds=keep)
        live = Live(console=console, refresh_per_second=4, transient=False) if console.is_terminal else None
        try:
            with live or nullcontext():
                while not stop.number:
                    code = process.poll()
                    found = {run: status(run, epochs) for run in runs}
                    began = found if began is None else began
                    ended = [run for run, state in found.items() if state.stage == "done"]
                    if len(ended) != finished:
                        finished, share = len(ended), evaluation_share(ended)
                    # work done before the start took none of this time
                    before, done = (sum(s.work(share) for s in x.values()) / max(1, len(x)) for x in (began, found))
                    now = time.monotonic()
                    if done - before != grown:
                        grown, at = done - before, now
                        # counted from the first epoch's end, before which libraries were loaded and kernels compiled,
                        # once a run has ended another: runs begin together, so that their first epochs end together
                        most = max(found[run].work(share) - began[run].work(share) for run in runs)
                        first = first or (grown, now, most)
                        if most > first[2]:
                            estimate = remaining(done, before + first[0], now - first[1])
                    what = f"{finished} of {len(found)} runs measured, {left(estimate, now - at)}"
                    if done >= 1:
                        what = "table and figures" if code is None else "all is done"
                    if code:
                        what = f"{finished} of {len(found)} runs measured, and the workflow stopped"
                    bar.update(task, completed=done, description=what)
                    if live:
                        # three lines are for the heading, the bar and the cursor
                        live.update(Group(overview(found, max(2, console.height - 3)), bar))
                    else:
                        busy = ", ".join(
                            f"{run.model}/seed{run.seed} {s}" for run, s in found.items() if s.stage in _BUSY
                        )
                        if (line := f"{what}; {busy}" if busy else what).split(",")[0] + busy != told:
                            told = line.split(",")[0] + busy
                            console.print(f"[{clock(time.monotonic() - start)}] {line}", markup=False)
                    if code is not None:
                        return code
                    time.sleep(interval)
            console.print("stopping: the same command resumes from the last saved state")
            _stop(process, stop.number)
        finally:
            if process.poll() is None:
                process.terminate()
    raise Interrupted("interrupted", stop.number)


def _stop(process: subprocess.Popen[bytes], number: int) -> None:
    """Waits until snakemake has stopped its jobs and ended; a second signal ends the wait."""
    if number == signal.SIGINT:
        # a terminal sends it to snakemake as well
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
            return
    # the signal reached only this process, as from `kill`; on SIGTERM snakemake would finish its jobs first
    process.send_signal(signal.SIGINT)
    process.wait()


_BUSY = ("training", "to measure")
#: seconds for snakemake to end by itself after Ctrl-C: a training writes its state first
PATIENCE = 8.0
