"""SIGKILL in the middle of a training, and whether going on ends in the same bits as never having been killed."""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stillpoint.core.runs.checkpoint import load_state
from stillpoint.core.training.train import Progress
from tests.faults.children import Count, child, last_line
from tests.faults.setting import Setting, bits, setting

KILLED = -signal.SIGKILL


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DieAfter(Progress):
    """The process's end after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def on_step(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            die()


class _CountSteps(Progress):
    def __init__(self, path: Path) -> None:
        self.path, self.steps = path, 0

    def on_step(self, *_: object) -> None:
        self.steps += 1
        self.path.write_text(str(self.steps))


def die_at_file_event(folder: Path, number: int, counter: Path | None = None) -> None:
    """From now on, dies before this process's event of that number (from 1) that opens, renames or removes in `folder`.

    With `counter`, never dies and writes there how many events there were.
    """
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in ("open", "os.rename", "os.remove") or not str(arguments[0]).startswith(str(folder)):
            return
        seen += 1
        if counter is not None:
            os.truncate(counter, seen)
        elif seen == number:
            die()

    sys.addaudithook(hook)


def die_within_a_state(number: int, share: float) -> None:
    """From now on, the writing of the state of that number (from 1) ends in death with `share` of its bytes written."""
    whole, seen = torch.save, 0

    def torn(state: object, path: Path) -> None:
        nonlocal seen
        seen += 1
        whole(state, path)
        if seen == number:
            os.truncate(path, int(share * path.stat().st_size))
            die()

    torch.save = torn


def result(one: Setting, root: Path) -> dict[str, Any]:
    """All that must be the same bit for bit: weights, state (with the optimiser's), history, metrics, maps."""
    run = one.run(root)
    metrics = json.loads(run.metrics.read_text())
    del metrics["provenance"]
    state = load_state(run.state)[0]
    assert state is not None
    found = {
        "weights": run.weights.read_bytes(),
        "history": run.history.read_bytes(),
        "model": bits(state.pop("model")),
        "optimizer": bits(state.pop("optimizer")),
        "state": bits(state),
        "metrics": metrics,
        "maps": run.maps.read_bytes(),
    }
    if run.test_history.exists():
        found["test_history"] = run.test_history.read_bytes()
    leftovers = [path.name for path in run.folder.rglob("*.tmp*")]
    return {**found, "leftovers": leftovers}


def differing(a: dict[str, Any], b: dict[str, Any]) -> str | None:
    different = [name for name in a | b if a.get(name) != b.get(name)]
    return f"{', '.join(different)} differ" if different else None


def kill(
    paper: str, times: int, *, seed: int = 0, model: str | None = None, say: Callable[[str], None] = print
) -> Count:
    """Kills `times` trainings of a paper, each in a folder of its own, and compares what they end in."""
    place = Path(tempfile.mkdtemp(prefix=f"faults-{paper}-"))
    one = setting(paper, place / "data", model)
    count = Count(f"{paper}/{one.config.model.name} ({one.config.recipe}): SIGKILL in training")
    log, steps, events = place / "log.txt", place / "steps", place / "events"
    events.touch()
    try:

        def uninterrupted() -> None:
            die_at_file_event(one.run(place / "whole").folder, 0, events)
            one.train(place / "whole", _CountSteps(steps))
            one.evaluate(place / "whole")

        if child(uninterrupted, log):
            count.add("the uninterrupted run", last_line(log))
            return count
        whole = result(one, place / "whole")
        last_step, last_event = int(steps.read_text()), events.stat().st_size
        draw = random.Random(seed)
        for number in range(times):
            root = place / f"killed{number}"
            folder = one.run(root).folder
            # in turn: after a step, between two operations on files, and with a part of a state written
            if number % 3 == 0:
                at = draw.randint(1, last_step)
                what = f"after step {at} of {last_step}"
                arrange, progress = (lambda: None), DieAfter(at)
            elif number % 3 == 1:
                at = draw.randint(1, last_event)
                what = f"before file operation {at} of {last_event}"
                arrange, progress = (lambda folder=folder, at=at: die_at_file_event(folder, at)), None
            else:
                at, share = draw.randint(1, one.config.train.epochs), draw.random()
                what = f"with {share:.0%} of state {at} written"
                arrange, progress = (lambda at=at, share=share: die_within_a_state(at, share)), None

            def fatal(arrange=arrange, progress=progress, root=root) -> None:
                arrange()
                one.train(root, progress)
                one.evaluate(root)

            def again(root=root) -> None:
                one.train(root)
                one.evaluate(root)

            code = child(fatal, log)
            if code != KILLED:
                problem: str | None = f"it was not killed but ended with {code} ({last_line(log)})"
            elif code := child(again, log):
                problem = f"going on ended with {code} ({last_line(log)})"
            else:
                problem = differing(whole, result(one, root))
            count.add(what, problem)
            say(f"{paper} {number + 1}/{times}: killed {what}: {problem or 'the same bits'}")
            shutil.rmtree(root)
    finally:
        if not count.failures:
            shutil.rmtree(place)
    return count
