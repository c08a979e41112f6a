"""How long commands take before they do anything: ``python -m benchmarks.start``.

Each command runs in its own process, timed from start to end: `--help`, `list`, `import torch`, a PyTorch optimiser
(which imports the compiler) as the lower bound of any training, and a whole training of one step, on images that need
no file. Wall-clock seconds, and CPU seconds, which other load disturbs less. A first round, not counted, fills the file
cache.
"""

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Clock, job_form, pin, run_jobs, spread

ROOT = Path(__file__).parents[1]
STILLPOINT = [sys.executable, "-m", "stillpoint"]
OPTIMISER = "import torch; torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)"
STEP = ["TRAIN.EPOCHS", "1", "DATA.LIMIT", "64", "TRAIN.BATCH_SIZE", "64"]


def commands(folder: str) -> dict[str, list[str]]:
    """Name -> words of the command; a training writes to `folder`."""
    train = [*STILLPOINT, "train", "aps/resnet20_aps1", "--recipe", "digits", "--threads", "1", "--results", folder]
    return {
        "--help": [*STILLPOINT, "--help"],
        "list": [*STILLPOINT, "list"],
        "import torch": [sys.executable, "-c", "import torch"],
        "an optimiser": [sys.executable, "-c", OPTIMISER],
        "train, one step": [*train, "--anew", *STEP],
    }


def once(words: list[str]) -> tuple[float, float]:
    """(wall-clock seconds, CPU seconds) of a process; `RuntimeError` if it fails."""
    start = time.perf_counter()
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        complaint = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} failed: {complaint.decode()}")
    return wall, used.ru_utime + used.ru_stime


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Median and all rounds of one command."""
    with tempfile.TemporaryDirectory() as folder:
        times = [once(commands(folder)[name]) for _ in range(rounds + 1)][1:]
    wall, cpu = ([1e3 * seconds for seconds in column] for column in zip(*times, strict=True))
    return {
        "images": "64 digits that the command draws itself" if "train" in name else "no images",
        "contenders": {"wall": spread(wall), "cpu": spread(cpu)},
    }


def line(name: str, row: dict[str, Any]) -> str:
    """One command in one line of a terminal."""
    wall, cpu = (row["contenders"][clock]["median_ms"] / 1e3 for clock in ("wall", "cpu"))
    return f"{name:16} {wall:.2f} s, of CPU time {cpu:.2f} s"


def main(arguments: list[str] | None = None) -> None:
    form = job_form("benchmarks.start", __doc__, devices=("cpu",), rounds=5)
    args = form.parse_args(arguments)
    pin(args.threads, "benchmarks.start")
    jobs = [(name, partial(measure, name, args.rounds)) for name in commands("")]
    run_jobs("start", args, Clock("cpu", args.threads), jobs, line)


if __name__ == "__main__":
    main()
