"""A release that is killed: a table of the kept runs is the earlier one, the later one or refused, and the same command
ends as if nothing had been."""

import io
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

from stillpoint.core.runs import layout
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines import networks
from stillpoint.pipelines.cli import main
from tests.faults.children import REFUSED, Count, child, last_line
from tests.faults.full import PAIRS, tree
from tests.faults.kill import KILLED, die_at_file_event

METRICS = ["EVALUATE.METRICS", "['accuracy', 'circular']", "EVALUATE.REPEATS"]


def releases(times: int, *, seed: int = 0) -> Count:
    """Kills releases that replace a kept run and add another, each before some operation on files."""
    here = Path(tempfile.mkdtemp(prefix="faults-release-"))
    now, start, log, events = here / "now", here / "start", here / "log.txt", here / "events"
    count, draw = Count("a release killed, and the same command again"), random.Random(seed)
    runs = [Run("aps", "digits", "resnet20", number, here / "results") for number in (0, 1)]
    data = ["--data", str(here / "data"), "--device", "cpu"]
    both = ["release", *(str(run.folder) for run in runs), *data, "--anew"]
    show = ["table", "aps", "--kept", *PAIRS, "GRID", "['resnet20']"]
    table = layout.table("aps", "digits", "csv", now)

    def called(*commands: list[str], before: Callable[[], object] = lambda: None) -> int:
        def work() -> None:
            networks.KEPT = now
            before()
            for words in commands:
                with redirect_stdout(io.StringIO()):
                    code = main(words)
                if code:
                    os._exit(code)

        return child(work, log)

    def measured(repeats: int) -> list[list[str]]:
        return [["evaluate", str(run.folder), *data, *METRICS, str(repeats)] for run in runs]

    try:
        train = [["train", "aps/resnet20", "--results", str(here / "results"), *data, *PAIRS] for _ in runs]
        prepared = [[*words[:2], "--seed", str(run.seed), *words[2:]] for words, run in zip(train, runs, strict=True)]
        first = ["release", str(runs[0].folder), *data]
        if called(*prepared, *measured(1), first, show):
            raise RuntimeError(last_line(log))
        shutil.copytree(now, start)
        earlier = table.read_bytes()
        events.touch()
        if called(*measured(3), both, before=lambda: die_at_file_event(now, 0, events)) or called(show):
            raise RuntimeError(last_line(log))
        later, whole, last = table.read_bytes(), tree(now), events.stat().st_size
        # the moves are among the last of what it does
        late = min(times // 2, last // 2)
        early = draw.sample(range(1, last - late + 1), min(times - late, last - late))
        moments = [*early, *range(last - late + 1, last + 1)]
        for at in sorted(moments):
            shutil.rmtree(now)
            shutil.copytree(start, now)
            code = called(both, before=lambda at=at: die_at_file_event(now, at))
            problem = None if code == KILLED else f"it was not killed but ended with {code} ({last_line(log)})"
            code = called(show)
            if code == REFUSED and "a release is running in" not in last_line(log):
                problem = problem or f"the table was refused: {last_line(log)}"
            elif code not in (0, REFUSED) or (code == 0 and table.read_bytes() not in (earlier, later)):
                problem = problem or f"another table ({code}, {last_line(log)})"
            if not problem and ((code := called(both)) or called(show) or tree(now) != whole):
                problem = f"the same command ended with {code} ({last_line(log)}), or with other bytes"
            if left := [path.name for path in now.glob(".release.*")]:
                problem = problem or f"left: {', '.join(left)}"
            count.add(f"before file operation {at} of {last}", problem)
    finally:
        shutil.rmtree(here, ignore_errors=True)
    return count
