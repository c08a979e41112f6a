"""A workflow killed with SIGKILL whose training, or measurement, goes on: each command typed beside it waits or is
refused in a sentence, and in the end the bytes are those of a workflow that was left alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stillpoint.core.runs.layout import Run
from tests.faults.children import Count
from tests.faults.replacing import ROOT, contents, ended_with, place, stillpoint
from tests.faults.workflow import children_of, command, result

MODEL = "resnet20"
#: enough for a training and a measurement to be met on the way
PAIRS = ["TRAIN.EPOCHS", "30", "DATA.LIMIT", "64", "MODEL.WIDTH", "0.25", "EVALUATE.REPEATS", "20"]
PAIRS += ["EVALUATE.LIMIT_ALL_SHIFTS", "1", "GRID", f"['{MODEL}']"]
TAKEN = "in use by another process"


def _holder(run: Run) -> int | None:
    """The process that the lock of a run names, where it lives."""
    with suppress(OSError, ValueError, IndexError):
        number = int(run.lock.read_text().split()[1])
        os.kill(number, 0)
        return number
    return None


def _trains(run: Run) -> bool:
    return run.state.is_file() and not run.training.is_file()


def _measures(run: Run) -> bool:
    number = _holder(run)
    with suppress(OSError):
        return run.training.is_file() and b"\0evaluate\0" in Path(f"/proc/{number}/cmdline").read_bytes()
    return False


@contextmanager
def _orphan(run: Run, words: list[str], when: Callable[[Run], bool], log: Path) -> Iterator[int]:
    """The process that is left, and stopped so that it waits for what is typed, of a workflow that was killed."""
    with log.open("w") as out, subprocess.Popen(words, cwd=ROOT, stdout=out, stderr=out) as workflow:
        while not when(run):
            if workflow.poll() is not None:
                raise RuntimeError(f"the workflow ended too early: {log.read_text()[-500:]}")
            time.sleep(0.02)
        number = _holder(run)
        assert number is not None
        os.kill(number, signal.SIGSTOP)
        for other in (workflow.pid, *children_of(workflow.pid)):
            os.kill(other, signal.SIGKILL)
    try:
        yield number
    finally:
        for kind in (signal.SIGKILL, signal.SIGCONT):
            with suppress(ProcessLookupError):
                os.kill(number, kind)


def _waits(words: list[str], number: int) -> str | None:
    """What is wrong with a workflow that is typed beside the process `number`, which then goes on."""
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(words, **options) as again:  # type: ignore[call-overload]
        said = ""
        for line in again.stdout:
            said += line
            if "waiting for it to end" in line:
                os.kill(number, signal.SIGCONT)
    if again.returncode:
        return f"it ended with {again.returncode}: {said[-400:]}"
    return None if TAKEN in said and said.count("waiting for it to end") == 1 else f"it did not wait: {said[-400:]}"


def orphans() -> Count:
    """Commands beside a training and a measurement whose workflow was killed."""
    count = Count("commands beside what a killed workflow left running")
    with place("orphans") as here:

        def workflow(root: Path, *more: str) -> list[str]:
            words = command(root, here / "data")
            return [*words[: words.index("GRID")], *more, *PAIRS]

        whole = subprocess.run(workflow(here / "whole"), cwd=ROOT, capture_output=True, text=True)
        if whole.returncode:
            raise RuntimeError(whole.stdout + whole.stderr)
        expected = result(here / "whole", (MODEL,))
        for what, when in (("training", _trains), ("measurement", _measures)):
            for more in ([], ["--anew"]):
                root = here / f"{what}{len(more)}"
                run = Run("aps", "digits", MODEL, 0, root)
                with _orphan(run, workflow(root), when, here / "log.txt") as number:
                    if not more:
                        _typed(count, what, run, here)
                    problem = _waits(workflow(root, *more), number)
                found = {} if problem else result(root, (MODEL,))
                differing = [name for name in found if found[name] != expected[name]]
                problem = problem or (f"{', '.join(differing)} differ" if differing else None)
                count.add(f"run {' '.join(more)} beside a {what}", problem)
    return count


def _typed(count: Count, what: str, run: Run, here: Path) -> None:
    """What is typed once beside the stopped process: a sentence each, and not a byte changed."""
    folder, places = str(run.folder), ["--results", str(run.root), "--data", str(here / "data")]
    train, settings = ["train", f"aps/{MODEL}", *places], PAIRS[: PAIRS.index("GRID")]
    none = "nothing was evaluated"
    typed: list[tuple[list[str], str]] = [
        ([*train, "--workflow", *settings], TAKEN),
        ([*train, *settings], TAKEN),
        ([*train, "--anew", *settings], TAKEN),
        (["evaluate", folder, *places[2:]], "holds no weights" if what == "training" else TAKEN),
        (["table", "aps", *places, *PAIRS], none),
        (["figures", "aps", *places, *PAIRS], none),
        (["release", folder, "--to", str(here / "kept"), *places[2:]], TAKEN),
        (["verify", folder, *places[2:]], "is unfinished" if what == "training" else TAKEN),
    ]
    before = contents(run)
    for words, said in typed:
        problem = ended_with(stillpoint(*words), 2, said)
        changed = contents(run) != before or any((here / "kept").glob("*/"))
        count.add(f"{words[0]} beside a {what}", problem or ("files were changed" if changed else None))
    # with the options that the killed workflow left for it
    asked = run.folder.parents[1] / "logs" / "workflow.json"
    words = [sys.executable, "-m", "snakemake", "pipelines/aps/all", "--cores", "1", "--nolock"]
    done = subprocess.run([*words, "--configfile", str(asked)], cwd=ROOT, capture_output=True, text=True)
    told = None if done.returncode and TAKEN in done.stdout + done.stderr else f"it said {done.stderr[-300:]}"
    count.add(f"snakemake beside a {what}", told or ("files were changed" if contents(run) != before else None))
