"""A disk without room: a sentence says so, nothing that was there is lost, and with room again the work is finished."""

import io
import random
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np

from stillpoint.core.base.errors import UserError
from stillpoint.core.data.corruptions.prepare import prepare_cifar10_c
from stillpoint.core.runs import layout
from stillpoint.pipelines.cli import main
from tests.faults.children import REFUSED, Count, child, last_line
from tests.faults.kill import differing, result
from tests.faults.setting import Setting, setting

SAID = ("the disk is full", "the file is larger than allowed")


@contextmanager
def tmpfs(place: Path) -> Iterator[Callable[[int], None]]:
    """A file system in memory at `place`; what it yields sets its size in bytes. Needs root."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], check=True)
    try:
        yield lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True) and None
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _limited(size: int, work: Callable[[], object]) -> Callable[[], object]:
    """`work` in a process none of whose files may grow beyond `size` bytes: what a user without root can try."""

    def limited() -> object:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            return work()
        finally:
            # what is told of the fault needs room as well
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    return limited


def _refused(code: int, log: Path) -> str | None:
    said = last_line(log)
    if code == REFUSED and any(sentence in said for sentence in SAID):
        return None
    return f"ended with {code} and said: {said}"


class _Room:
    """Little room and much, by either way; `used` is what is on the disk already."""

    def __init__(self, place: Path, resize: Callable[[int], None] | None) -> None:
        self.place, self.resize = place, resize

    def little(self, size: int, work: Callable[[], object], log: Path) -> int:
        """The exit code of `work` with room for `size` bytes more (a tmpfs gives whole pages)."""
        if self.resize is None:
            return child(_limited(size, work), log)
        used = int(subprocess.run(["du", "-s", "-B1", self.place], capture_output=True, text=True).stdout.split()[0])
        self.resize(used + size)
        try:
            return child(work, log)
        finally:
            self.resize(1 << 26)


def _training(one: Setting, room: _Room, whole: Path, times: int, draw: random.Random, log: Path) -> Count:
    count, expected = Count("disk full in training and evaluation"), result(one, whole)
    run = one.run(whole)
    largest = run.state.stat().st_size
    # what is written at most: two states and one that is being written (a limit is of one file alone)
    most = 3 * largest if room.resize else largest
    for number in range(times):
        root = room.place / f"run{number}"
        size = int(draw.uniform(0, 0.95) * most)

        def work(root=root) -> None:
            one.train(root)
            one.evaluate(root)

        problem = _refused(room.little(size, work, log), log)
        if not problem and (code := child(work, log)):
            problem = f"with room again, ended with {code} ({last_line(log)})"
        count.add(f"room for {size} bytes", problem or differing(expected, result(one, root)))
        shutil.rmtree(root, ignore_errors=True)
    return count


def _table(one: Setting, room: _Room, whole: Path, times: int, draw: random.Random, log: Path) -> Count:
    count, config = Count("disk full while the table is written"), one.config
    root = room.place / "table"
    shutil.copytree(whole, root)
    words = ["table", config.pipeline, "--recipe", config.recipe, "--results", str(root)]

    def make() -> None:
        said = io.StringIO()
        with redirect_stdout(io.StringIO()), redirect_stderr(said):
            code = main(words)
        if code:
            raise UserError(said.getvalue().strip())

    tables = [layout.table(config.pipeline, config.recipe, suffix, root) for suffix in ("csv", "json", "md", "tex")]
    if code := child(make, log):
        count.add("a table with room", f"ended with {code} ({last_line(log)})")
        return count
    before = [path.read_bytes() for path in tables]
    for _ in range(times):
        size = int(draw.uniform(0, 0.9) * max(map(len, before))) if room.resize is None else 0
        for path in tables:
            path.write_bytes(b"an earlier table\n" * 300)
        problem = _refused(room.little(size, make, log), log)
        kept = [path.read_bytes() for path in tables]
        if not problem and any(a not in (b, b"an earlier table\n" * 300) for a, b in zip(kept, before, strict=True)):
            problem = "a table is torn"
        if not problem and ((code := child(make, log)) or [path.read_bytes() for path in tables] != before):
            problem = f"with room again, another table ({code}, {last_line(log)})"
        count.add(f"room for {size} bytes", problem)
    return count


def _corruptions(room: _Room, times: int, draw: random.Random, log: Path) -> Count:
    count, names = Count("disk full while corrupted images are made"), ["brightness", "contrast"]
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    made = lambda folder: prepare_cifar10_c(images, np.arange(20) % 10, folder, names, (1, 2))  # noqa: E731
    folder = room.place / "expected"
    child(lambda: made(folder), log)
    expected = {path.name: path.read_bytes() for path in folder.iterdir()}
    for number in range(times):
        folder, size = room.place / f"corrupted{number}", int(draw.uniform(0, 0.9) * 2 * images.nbytes)
        problem = _refused(room.little(size, lambda folder=folder: made(folder), log), log)
        if not problem and child(lambda folder=folder: made(folder), log):
            problem = f"with room again: {last_line(log)}"
        if not problem and {path.name: path.read_bytes() for path in folder.iterdir()} != expected:
            problem = "other images than with room"
        count.add(f"room for {size} bytes", problem)
    return count


def disk(paper: str, times: int, *, full: bool, seed: int = 0, model: str | None = None) -> list[Count]:
    """`times` full disks for each of training, table and corrupted images; `full`: a real one, which needs root."""
    place = Path(tempfile.mkdtemp(prefix=f"faults-{paper}-"))
    one, log, draw = setting(paper, place / "data", model), place / "log.txt", random.Random(seed)
    try:
        if child(lambda: (one.train(place / "whole"), one.evaluate(place / "whole")), log):
            raise RuntimeError(last_line(log))
        if full:
            with tmpfs(place / "disk") as resize:
                return _all(one, _Room(place / "disk", resize), place, times, draw, log)
        return _all(one, _Room(place / "disk", None), place, times, draw, log)
    finally:
        shutil.rmtree(place)


def _all(one: Setting, room: _Room, place: Path, times: int, draw: random.Random, log: Path) -> list[Count]:
    return [
        _training(one, room, place / "whole", times, draw, log),
        _table(one, room, place / "whole", times, draw, log),
        _corruptions(room, times, draw, log),
    ]
