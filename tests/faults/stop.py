"""Signals that ask a training to stop, two processes in one folder, and a loader whose worker is killed."""

import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from stillpoint.core.base.interrupt import locked
from stillpoint.core.evaluation.engine import Predictor
from stillpoint.core.training.train import Progress
from tests.faults.children import BROKEN, REFUSED, STOPPED, Count, child, last_line, start, wait
from tests.faults.kill import differing, result
from tests.faults.setting import Setting, setting

#: seconds within which a training that is asked to stop has stopped
LIMIT = 5.0


class _Slow(Progress):
    """Gives time for something to happen between two steps, and shows that the first is done."""

    def __init__(self, sign: Path, seconds: float) -> None:
        self.sign, self.seconds = sign, seconds

    def on_step(self, *_: object) -> None:
        self.sign.touch()
        time.sleep(self.seconds)


def until(path: Path, number: int) -> None:
    """Waits for a file, at most a minute and not beyond the life of the process that is to make it."""
    for _ in range(6000):
        if path.exists():
            return
        os.kill(number, 0)
        time.sleep(0.01)
    raise TimeoutError(f"{path} did not appear")


def _whole(paper: str, model: str | None, *, streaming: bool = False) -> tuple[Path, Setting, Path]:
    place = Path(tempfile.mkdtemp(prefix=f"faults-{paper}-"))
    one, log = setting(paper, place / "data", model, streaming=streaming), place / "log.txt"
    if child(lambda: (one.train(place / "whole"), one.evaluate(place / "whole")), log):
        raise RuntimeError(last_line(log))
    return place, one, log


def _ended(one: Setting, place: Path, root: Path, log: Path) -> str | None:
    """Goes on in `root`; nothing if that ends as the training did that was left alone."""
    code = child(lambda: (one.train(root), one.evaluate(root)), log)
    if code:
        return f"going on ended with {code} ({last_line(log)})"
    return differing(result(one, place / "whole"), result(one, root))


def stop(paper: str, times: int, *, seed: int = 0, model: str | None = None) -> Count:
    """SIGINT and SIGTERM in turn, at a random moment: a state within 5 seconds, and the same bits in the end."""
    place, one, log = _whole(paper, model)
    count, draw = Count(f"{paper}: SIGINT and SIGTERM in training"), random.Random(seed)
    slowest = 0.0
    try:
        for number in range(times):
            root, sign = place / f"stopped{number}", place / f"begun{number}"
            process = start(lambda root=root, sign=sign: one.train(root, _Slow(sign, 0.02)), log)
            until(sign, process)
            time.sleep(draw.uniform(0, 0.3))
            kind = signal.SIGTERM if number % 2 else signal.SIGINT
            os.kill(process, kind)
            began = time.monotonic()
            code = wait(process)
            seconds = time.monotonic() - began
            slowest = max(slowest, seconds)
            # it may have been done just before
            problem = None if code in (STOPPED, 0) else f"ended with {code} ({last_line(log)})"
            if seconds > LIMIT:
                problem = f"took {seconds:.1f} s"
            elif code == STOPPED and not one.run(root).state.exists():
                problem = "no state"
            count.add(kind.name, problem or _ended(one, place, root, log))
            shutil.rmtree(root)
    finally:
        shutil.rmtree(place)
    count.what += f" (the slowest stopped after {slowest:.2f} s)"
    return count


def measuring(paper: str, times: int, *, seed: int = 0, model: str | None = None) -> Count:
    """SIGINT and SIGTERM in turn while a run is measured: ended within 5 seconds, no half of a result, then the same.

    Training's files are as they were; metrics.json is either not there or whole; measuring again gives its bits.
    """
    place, one, log = _whole(paper, model)
    count, draw = Count(f"{paper}: SIGINT and SIGTERM while a run is measured"), random.Random(seed)
    slowest = 0.0
    try:
        whole = result(one, place / "whole")
        for number in range(times):
            root, sign = place / f"stopped{number}", place / f"begun{number}"
            shutil.copytree(place / "whole", root)
            for path in (one.run(root).metrics, one.run(root).maps):
                path.unlink()
            at = draw.randint(1, 6)
            work = lambda root=root, sign=sign, at=at: (_slowly(at, sign), one.evaluate(root))  # noqa: E731
            process = start(work, log)
            until(sign, process)
            kind = signal.SIGTERM if number % 2 else signal.SIGINT
            os.kill(process, kind)
            began = time.monotonic()
            code = wait(process)
            seconds = time.monotonic() - began
            slowest = max(slowest, seconds)
            problem = None
            if code not in (-kind, BROKEN) or (code == BROKEN and "KeyboardInterrupt" not in log.read_text()):
                problem = f"ended with {code} ({last_line(log)})"
            elif seconds > LIMIT:
                problem = f"took {seconds:.1f} s"
            elif one.run(root).metrics.exists():
                problem = "metrics.json was there before the end"
            count.add(f"{kind.name} at batch {at}", problem or _measured(one, whole, root, log))
            shutil.rmtree(root)
    finally:
        shutil.rmtree(place)
    count.what += f" (the slowest ended after {slowest:.2f} s)"
    return count


def _slowly(at: int, sign: Path) -> None:
    """From now on, `sign` tells of the prediction of that number (from 1), which then takes a minute."""
    ordinary, seen = Predictor.__call__, 0

    def told(self: Predictor, images: Tensor) -> Tensor:
        nonlocal seen
        seen += 1
        if seen == at:
            sign.touch()
            time.sleep(60)
        return ordinary(self, images)

    Predictor.__call__ = told  # type: ignore[method-assign]


def _measured(one: Setting, whole: dict[str, Any], root: Path, log: Path) -> str | None:
    code = child(lambda: one.evaluate(root), log)
    if code:
        return f"measuring again ended with {code} ({last_line(log)})"
    return differing(whole, result(one, root))


def together(paper: str, times: int, *, model: str | None = None) -> Count:
    """Two processes train in one folder: the second is refused, the first ends as if it had been alone."""
    place, one, log = _whole(paper, model)
    count = Count(f"{paper}: two processes in one folder")
    try:
        for number in range(times):
            root, sign, second = place / f"both{number}", place / f"begun{number}", place / f"second{number}.txt"
            # in turn the second comes later, or at the same moment
            first = start(lambda root=root, sign=sign: one.train(root, _Slow(sign, 0.05)), log)
            if number % 2 == 0:
                until(sign, first)
            other = child(lambda root=root: one.train(root), second)
            codes = sorted([wait(first), other])
            refused = REFUSED if number % 2 == 0 else codes[1]
            problem = None
            if codes != [0, REFUSED] or refused != REFUSED or (number % 2 == 0 and other != REFUSED):
                problem = f"ended with {codes} ({last_line(second)})"
            elif number % 2 == 0 and "in use by another process" not in last_line(second):
                problem = f"said: {last_line(second)}"
            count.add("later" if number % 2 == 0 else "at once", problem or _ended(one, place, root, log))
        # measuring refuses as well
        with locked(one.run(root).lock):
            code = child(lambda: one.evaluate(root), second)
        count.add("measuring meanwhile", None if code == REFUSED else f"ended with {code}")
    finally:
        shutil.rmtree(place)
    return count


def worker(paper: str, times: int, *, seed: int = 0, model: str | None = None) -> Count:
    """A process that reads images is killed: a sentence, and the training goes on later to the same bits."""
    place, one, log = _whole(paper, model, streaming=True)
    count, draw = Count(f"{paper}: a process that reads images is killed"), random.Random(seed)
    try:
        for number in range(times):
            root, sign = place / f"worker{number}", place / f"begun{number}"
            said = place / f"said{number}.txt"
            work = lambda root=root, sign=sign: one.train(root, _Slow(sign, 0.1), workers=2)  # noqa: E731
            process = start(work, said)
            until(sign, process)
            children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
            time.sleep(draw.uniform(0, 0.3))
            os.kill(int(children[0]), signal.SIGKILL)
            code = wait(process)
            problem = None
            if code == BROKEN or (code == REFUSED and "a process that reads images has ended" not in said.read_text()):
                problem = f"ended with {code} ({last_line(said)})"
            count.add(f"a worker of {len(children)}", problem or _ended(one, place, root, log))
    finally:
        shutil.rmtree(place)
    return count
