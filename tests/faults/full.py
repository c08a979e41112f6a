"""No room from the n-th file on that a command makes: a sentence, nothing torn, and with room again the same bytes."""

import errno
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import stillpoint.core.evaluation.run
import stillpoint.core.reporting.figures
import stillpoint.core.training.train
import stillpoint.pipelines.released  # noqa: F401  once, and not by each process
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.cli import main
from tests.faults.children import REFUSED, Count, child, last_line

PAIRS = ["TRAIN.EPOCHS", "2", "DATA.LIMIT", "64", "MODEL.WIDTH", "0.25"]
FEW = [
    "EVALUATE.METRICS",
    "['accuracy', 'all_shifts']",
    "EVALUATE.LIMIT_ALL_SHIFTS",
    "1",
    "EVALUATE.UNTRAINED",
    "False",
]
#: told of when and where, and no result
APART = ("log.txt", "timing.csv", ".lock", ".tables.lock", "state.pt", "state.previous.pt", "card.json", "card.md")
#: what a file system without room refuses
_MAKES = os.O_CREAT | os.O_TRUNC


def no_room(below: Path, number: int, counter: Path | None = None) -> None:
    """From this process's file of that number (from 1) on, no file or folder can be made or emptied `below`.

    With `counter`, all can, and that file gets as many bytes as there were.
    """
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        made = event == "os.mkdir" or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _MAKES)
        if not made or not str(arguments[0]).startswith(str(below)):
            return
        if Path(arguments[0]).exists() and (event == "os.mkdir" or not arguments[2] & os.O_TRUNC):
            return
        seen += 1
        if counter is not None:
            os.truncate(counter, seen)
        elif seen >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    sys.addaudithook(hook)


def tree(root: Path) -> dict[str, Any]:
    """The results below a folder, without what differs between two repetitions."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.name not in APART):
        content: Any = path.read_bytes()
        if path.name in ("metrics.json", "train.json"):
            content = json.loads(content)
            content = {k: v for k, v in content.items() if k in ("trained", "model", "epochs", "first_epoch")}
        found[str(path.relative_to(root))] = content
    return found


def full(times: int) -> list[Count]:
    """`times` disks without room for each of six commands, at files spread over those that it makes."""
    here = Path(tempfile.mkdtemp(prefix="faults-full-"))
    now, log, events = here / "now", here / "log.txt", here / "events"
    run = Run("aps", "digits", "resnet20", 0, now / "results")
    data = ["--data", str(now / "data")]
    places = ["--results", str(run.root)]
    shown = ["aps", *places, *PAIRS, "GRID", "['resnet20']"]
    commands: dict[str, list[str]] = {
        "prepare": ["prepare", "digits", "--root", str(now / "data")],
        "train": ["train", "aps/resnet20", *places, *data, "--device", "cpu", *PAIRS],
        "evaluate": ["evaluate", str(run.folder), *data, "--device", "cpu", *FEW],
        "table": ["table", *shown],
        "figures": ["figures", *shown],
        "release": ["release", str(run.folder), *data, "--device", "cpu", "--to", str(now / "kept")],
    }

    def called(words: list[str], before: Callable[[], object]) -> int:
        def work() -> None:
            before()
            with redirect_stdout(io.StringIO()):
                code = main(words)
            if code:
                os._exit(code)

        return child(work, log)

    counts = []
    try:
        now.mkdir()
        for name, words in commands.items():
            count, start = Count(f"no room while {name} is at work"), here / f"before {name}"
            shutil.copytree(now, start)
            events.write_bytes(b"")
            if called(words, lambda: no_room(now, 0, events)):
                count.add("with room", last_line(log))
                return [*counts, count]
            before, whole, last = tree(start), tree(now), events.stat().st_size
            for at in sorted({1 + round(number * (last - 1) / max(times - 1, 1)) for number in range(times)}):
                shutil.rmtree(now)
                shutil.copytree(start, now)
                code = called(words, lambda at=at: no_room(now, at))
                problem = _refused(code, last_line(log)) or _torn(name, before, tree(now), whole)
                if not problem and ((code := called(words, lambda: None)) or tree(now) != whole):
                    problem = f"with room again it ended with {code} ({last_line(log)}), or with other bytes"
                count.add(f"from file {at} of {last} on", problem)
            counts.append(count)
            # what the next command starts from
            shutil.rmtree(now)
            shutil.copytree(start, now)
            called(words, lambda: None)
    finally:
        shutil.rmtree(here, ignore_errors=True)
    return counts


def _refused(code: int, said: str) -> str | None:
    told = "the disk is full" in said or os.strerror(errno.ENOSPC) in said
    return None if code == REFUSED and told else f"ended with {code} and said: {said}"


def _torn(name: str, before: dict[str, Any], after: dict[str, Any], whole: dict[str, Any]) -> str | None:
    """What is neither as before nor as it will be; a table and a release are made all or none."""
    # a history grows with the epochs
    wrong = [path for path in after if not path.endswith("history.csv") and path not in (before | whole)]
    for path in before | whole:
        allowed = [one[path] for one in (before, whole) if path in one]
        if path in after and after[path] not in allowed and not path.endswith("history.csv"):
            wrong.append(path)
    if name in ("table", "release") and after != before:
        wrong.append("not all or none")
    return f"torn or left: {', '.join(wrong)}" if wrong else None
