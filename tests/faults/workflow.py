"""``stillpoint run`` killed on the way, and the same command typed once more."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stillpoint.core.runs import layout
from stillpoint.core.runs.layout import Run
from tests.faults.children import Count

ROOT = Path(__file__).parent.parent.parent
GRID = ("resnet20", "resnet20_aps1")
SMALL = {"TRAIN.EPOCHS": 2, "DATA.LIMIT": 64, "EVALUATE.REPEATS": 1, "EVALUATE.LIMIT_ALL_SHIFTS": 1}
#: who is killed, in turn: what remains goes on without it
VICTIMS = ("snakemake", "stillpoint and snakemake", "every process")


def command(root: Path, data: Path) -> list[str]:
    words = [sys.executable, "-m", "stillpoint", "run", "aps", "--results", str(root), "--data", str(data)]
    return [
        *words,
        "--seeds",
        "1",
        "-j",
        "2",
        "--device",
        "cpu",
        "GRID",
        str(list(GRID)),
        *(str(w) for pair in SMALL.items() for w in pair),
    ]


def children_of(number: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
    except OSError:
        return []


def result(root: Path, models: Sequence[str] = GRID) -> dict[str, Any]:
    """Tables, and of each run its weights, history and metrics: what must be the same."""
    found: dict[str, Any] = {
        s: layout.table("aps", "digits", s, root).read_bytes() for s in ("csv", "json", "md", "tex")
    }
    for model in models:
        run = Run("aps", "digits", model, 0, root)
        metrics = json.loads(run.metrics.read_text())
        del metrics["provenance"]
        found[model] = run.weights.read_bytes(), run.history.read_bytes(), metrics
    return found


def workflow(times: int, *, seed: int = 0) -> Count:
    """Kills a workflow `times` times at a random moment and types its command again, which must end in its table."""
    place = Path(tempfile.mkdtemp(prefix="faults-workflow-"))
    count, draw = Count("workflow killed, the same command again"), random.Random(seed)
    options: dict[str, Any] = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    try:
        began = time.monotonic()
        done = subprocess.run(command(place / "whole", place / "data"), **options)
        seconds = time.monotonic() - began
        if done.returncode:
            raise RuntimeError(done.stdout)
        whole = result(place / "whole")
        for number in range(times):
            root, victim = place / f"killed{number}", VICTIMS[number % len(VICTIMS)]
            after = draw.uniform(0.2, 0.8) * seconds
            process = subprocess.Popen(command(root, place / "data"), start_new_session=True, **options)
            time.sleep(after)
            ended = process.poll() is not None
            if victim == "every process":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                for other in [*([process.pid] if "and" in victim else []), *children_of(process.pid)]:
                    os.kill(other, signal.SIGKILL)
            process.communicate()
            again = subprocess.run(command(root, place / "data"), **options)
            problem = again.stdout[-800:] if again.returncode else None
            if not problem and (different := [k for k, v in result(root).items() if v != whole[k]]):
                problem = f"{', '.join(different)} differ"
            count.add(f"{victim} killed after {after:.1f} s of {seconds:.1f} s", "it had ended" if ended else problem)
            print(f"{victim} killed after {after:.1f} s: {problem or 'the same table'}", flush=True)
    finally:
        shutil.rmtree(place)
    return count
