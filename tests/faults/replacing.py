"""What a workflow may replace, and what a folder's name may do: tried with the commands as one types them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from stillpoint.core.runs.layout import Run
from stillpoint.pipelines import workflow
from tests.faults.children import Count
from tests.faults.workflow import GRID, SMALL

ROOT = Path(__file__).parent.parent.parent
PAIRS = ("TRAIN.EPOCHS", "3", "DATA.LIMIT", "64", "MODEL.WIDTH", "0.25")
#: folders that a shell, Snakemake's formats or a careless join would do something with
NAMES = (
    "two words",
    "semi;touch SPRUNG;",
    "$(touch SPRUNG)",
    "`touch SPRUNG`",
    "it's",
    'say "so"',
    "ümlaut ☃",
    "a&b|c>d",
)
#: names that lead out of a folder or to nothing
RECIPES = ("../../aps/configs/digits", "/etc/passwd", "digits/../digits", "", "..")


def stillpoint(*words: object, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stillpoint", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def contents(run: Run) -> dict[str, bytes]:
    apart = (".lock", "log.txt")
    return {p.name: p.read_bytes() for p in run.folder.glob("*") if p.is_file() and p.name not in apart}


@contextmanager
def place(name: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"faults-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def ended_with(done: subprocess.CompletedProcess[str], code: int, *words: str) -> str | None:
    """What is wrong with how a command ended; None where it ended with `code` and said all of `words`."""
    told = done.stdout + done.stderr
    if done.returncode != code:
        return f"it ended with {done.returncode}, not {code}: {told[-300:]}"
    lacking = [word for word in words if word not in told]
    return f"it did not say {lacking[0]!r}: {told[-300:]}" if lacking else None


def paths(times: int) -> Count:
    """Whole workflows, pictures, weights and caches in folders of odd names; each name where only it may be written."""
    count = Count("odd names of folders")
    pairs = [str(word) for pair in (SMALL | {"TRAIN.EPOCHS": 1}).items() for word in pair]
    for name in NAMES[:times]:
        with place("paths") as here:
            inside = here / name
            inside.mkdir()
            own = ["--results", inside / "results", "--data", inside / "data"]
            more = {"STILLPOINT_CACHE": str(inside / "cache")}
            words = ["run", "aps", *own, "--seeds", 1, "-j", 2, "--device", "cpu", "GRID", list(GRID), *pairs]
            count.add(f"results, data, logs and cache in {name!r}", _inside(here, stillpoint(*words, cwd=here, **more)))
            weights = Run("aps", "digits", GRID[0], 0, inside / "results").weights
            Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(inside / "photo.png")
            words = ["measure", f"aps/{GRID[0]}", "--image", inside / "photo.png", "--max-shift", 1]
            words += ["--output", inside / "map.png"]
            count.add(f"a picture and a map in {name!r}", _inside(here, stillpoint(*words, cwd=here, **more)))
            words = ["weights", "convert", weights, inside / "other.safetensors"]
            count.add(f"weights in {name!r}", _inside(here, stillpoint(*words, cwd=here, **more)))
    for recipe in RECIPES:
        with place("recipes") as here:
            done = stillpoint("train", "aps/resnet20", "--recipe", recipe, "--results", here / "results", cwd=here)
            problem = ended_with(done, 2) or ("a folder was made" if (here / "results").exists() else None)
            count.add(f"a recipe called {recipe!r}", problem)
    return count


def _inside(here: Path, done: subprocess.CompletedProcess[str]) -> str | None:
    beside = sorted(path.name for path in here.iterdir() if path.name not in (".snakemake", "logs"))
    sprung = [path for folder in (here, ROOT) for path in folder.rglob("SPRUNG")] if len(beside) < 50 else []
    if sprung or len(beside) != 1:
        return f"beside the folder lie {beside}, {sprung}"
    return ended_with(done, 0)


def order() -> Count:
    """A workflow of other code comes while the training of a killed one goes on."""
    count = Count("a lock before every touch")
    with place("order") as here:
        run = Run("aps", "digits", "resnet20", 0, here)
        words = ["train", "aps/resnet20", "--results", str(here), "--data", str(here / "data"), "--workflow"]
        command = [sys.executable, "-m", "stillpoint", *words, *PAIRS[2:], "TRAIN.EPOCHS", "100000"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as orphan:
            while not run.state.is_file() and orphan.poll() is None:
                time.sleep(0.1)
            mark = run.code.read_text()
            run.code.write_text("what other code left")
            for more in (["--workflow"], ["--anew"], []):
                told = stillpoint(*words[:-1], *more, *PAIRS[2:], "TRAIN.EPOCHS", 100000)
                problem = ended_with(told, 2, "in use by another process")
                kept = run.state.is_file() and run.config.is_file() and run.code.read_text() == "what other code left"
                count.add(f"train {' '.join(more)} beside it", problem or (None if kept else "files were touched"))
            orphan.kill()
            orphan.wait()
        command = [*command[:-2], "TRAIN.EPOCHS", "100000"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as again:
            assert again.stdout is not None
            first = [again.stdout.readline() for _ in range(2)]
            again.send_signal(signal.SIGINT)
            again.communicate()
        problem = None if "made anew" in "".join(first) and run.code.read_text() == mark else "".join(first)
        count.add("the same command when it has ended", problem)
    return count


def images() -> Count:
    """The pictures change between two calls of a workflow."""
    count = Count("changed images")
    from stillpoint.core.data.cifar import CIFAR10_CLASSES

    def draw(root: Path, seed: int) -> None:
        shutil.rmtree(root / "cifar10", ignore_errors=True)
        random = np.random.default_rng(seed)
        for part, number in (("train", 6), ("test", 3)):
            for kind in CIFAR10_CLASSES:
                folder = root / "cifar10" / part / kind
                folder.mkdir(parents=True)
                for k in range(number):
                    Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{k}.png")

    few = ["TRAIN.EPOCHS", 1, "TRAIN.BATCH_SIZE", 16, "DATA.VALIDATION", 10, "EVALUATE.REPEATS", 1]
    few += ["EVALUATE.LIMIT_ALL_SHIFTS", 1, "GRID", ["resnet20"]]
    with place("images") as here:
        words = ["run", "aps", "--recipe", "cifar10_demo", "--results", here / "results", "--data", here / "data"]
        words += ["--device", "cpu", "-j", 2]

        def digests(seeds: int) -> set[tuple[str, str]]:
            found = set()
            for seed in range(seeds):
                run = Run("aps", "cifar10_demo", "resnet20", seed, here / "results")
                about = [json.loads(path.read_text()) for path in (run.training, run.metrics)]
                found.add((about[0]["data_digest"], about[1]["provenance"]["data_digest"]))
            return found

        draw(here / "data", 0)
        problem = ended_with(stillpoint(*words, "--seeds", 1, *few, cwd=here), 0)
        count.add("the first pictures", problem)
        before = digests(1)
        draw(here / "data", 1)
        problem = ended_with(stillpoint(*words, "--seeds", 2, *few, cwd=here), 0)
        after = digests(2) if not problem else set()
        mixed = None if len(after) == 1 and not after & before else f"two seeds saw {len(after)} sets of images"
        count.add("other pictures, and a second seed", problem or mixed)
        run = Run("aps", "cifar10_demo", "resnet20", 0, here / "results")
        run.code.unlink()
        draw(here / "data", 2)
        told = stillpoint(*words, "--seeds", 1, *few, cwd=here)
        refused = ended_with(told, 2) if told.returncode != 2 else None
        logged = (here / "results/aps/cifar10_demo/logs/workflow.txt").read_text()
        said = None if "trained by hand with other images" in logged else f"not told: {logged[-300:]}"
        count.add("other pictures, and a run by hand", refused or said)
    return count


def hands() -> Count:
    """Runs by hand, trials and kept runs meet a workflow."""
    count = Count("runs that are not a workflow's")
    with place("hands") as here:
        run = Run("aps", "digits", "resnet20", 0, here)
        train = ["train", "aps/resnet20", "--results", str(here), "--data", str(here / "data")]
        longer = [*PAIRS[2:], "TRAIN.EPOCHS", "40"]
        command = [sys.executable, "-m", "stillpoint", *train, *longer]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            while not run.state.is_file() and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            process.wait()
        done = stillpoint(*train, "--workflow", *longer)
        count.add("a training stopped by hand", ended_with(done, 0, "training resumes"))
        before = contents(run)

        def untouched(what: str, done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
            changed = None if contents(run) == before else "files were changed"
            count.add(what, ended_with(done, code, *words) or changed)

        trial = [*PAIRS[2:], "TRAIN.EPOCHS", "1"]
        again = "nothing is trained again"
        untouched("a finished run by hand", stillpoint(*train, "--workflow", *longer), 0, again)
        untouched("a trial over it", stillpoint(*train, "--workflow", *trial), 2, "trained by hand with other settings")
        workflows = ["run", "aps", "--results", here, "--data", here / "data", "GRID", ["resnet20"]]
        untouched("a workflow's trial over it", stillpoint(*workflows, *trial), 2, "other settings", "--anew")
        run.code.write_text("other code")
        before = contents(run)
        untouched("a trial over a workflow's", stillpoint(*train, "--workflow", *trial), 2, "made by a workflow")
        run.card.write_text("cited\n")
        before = contents(run)
        untouched("a kept run, made by other code", stillpoint(*train, "--workflow", *longer), 0, again)
        untouched("a trial over a kept run", stillpoint(*train, "--workflow", *trial), 2, "that was kept")
        run.card.unlink()
        done = stillpoint(*train, "--workflow", *longer)
        current = workflow.stage_code("train", "aps", "digits")
        problem = ended_with(done, 0, "made anew") or (None if run.code.read_text() == current else "its mark is old")
        count.add("a workflow's run, made by other code", problem)
    return count


KINDS: dict[str, Callable[[], Count]] = {"order": order, "images": images, "hands": hands}
