"""The demonstration as a whole, and where its time goes: ``python -m benchmarks.demo``.

`stillpoint run <paper> --seeds 1` on digits, one job at a time, into a folder of its own: wall-clock and CPU seconds
from start to table and figures; the part that trainings and evaluations report (networks and images, without the start
of a process); and that of all jobs by Snakemake's clock. For comparison the same commands one after another in one
process, without Snakemake, which shows the cost of separate processes. Three to four minutes each for a round.
"""

import csv
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Clock, job_form, pin, run_jobs, spread
from benchmarks.start import once

PAPERS = ("aps",)


def parts(results: Path) -> dict[str, Any]:
    """Milliseconds of a finished demonstration by purpose, and its numbers of jobs and networks."""
    trained = [json.loads(path.read_text())["seconds"] for path in results.rglob("train.json")]
    measured = [json.loads(path.read_text())["provenance"]["seconds"] for path in results.rglob("metrics.json")]
    timed = [next(csv.DictReader(path.open(), delimiter="\t")) for path in results.rglob("logs/*.tsv")]
    if not trained or len(trained) != len(measured):
        raise RuntimeError(f"{results} holds {len(trained)} trainings and {len(measured)} evaluations")
    return {
        "jobs": len(timed),
        "networks": len(trained),
        "training": 1e3 * sum(trained),
        "evaluation": 1e3 * sum(measured),
        "all jobs": 1e3 * sum(float(row["s"]) for row in timed),
    }


def commands(paper: str, threads: int, folder: str) -> list[list[str]]:
    """The commands of the workflow's jobs, in an order that satisfies their dependencies."""
    from stillpoint.pipelines import workflow

    plan = workflow.plan(paper, {"seeds": 1, "results": folder, "threads": threads})
    where, cores = ["--results", folder], ["--threads", str(threads)]
    return [
        ["prepare", plan.config.data.name],
        *(["train", f"{paper}/{run.model}", "--seed", str(run.seed), *where, *cores] for run in plan.runs),
        *(["evaluate", str(run.folder), *cores] for run in plan.runs),
        *([command, paper, "--seeds", "1", *where] for command in ("table", "figures")),
    ]


def in_one_process(paper: str, threads: int, folder: str) -> None:
    from stillpoint.pipelines import cli

    for words in commands(paper, threads, folder):
        if cli.main(words):
            raise RuntimeError(f"stillpoint {' '.join(words)} failed")


def measure(paper: str, threads: int, rounds: int, *, one_process: bool) -> dict[str, Any]:
    """Medians over rounds of one paper's demonstration."""
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            if one_process:
                call = f"from benchmarks.demo import in_one_process; in_one_process({paper!r}, {threads}, {folder!r})"
                wall, cpu = once([sys.executable, "-c", call])
                found = {**parts(Path(folder)), "jobs": 1, "all jobs": 1e3 * wall}
            else:
                words = ["run", paper, "--seeds", "1", "--jobs", "1", "--threads", str(threads), "--results", folder]
                wall, cpu = once([sys.executable, "-m", "stillpoint", *words])
                found = parts(Path(folder))
        jobs, networks = found.pop("jobs"), found.pop("networks")
        for name, value in {"wall": 1e3 * wall, "cpu": 1e3 * cpu, **found}.items():
            times.setdefault(name, []).append(value)
    return {
        "images": "handwritten digits, which come with it",
        "jobs": jobs,
        "networks": networks,
        "contenders": {name: spread(values) for name, values in times.items()},
    }


def line(name: str, row: dict[str, Any]) -> str:
    """One demonstration in one line of a terminal."""
    times = ", ".join(f"{part} {v['median_ms'] / 1e3:.1f}" for part, v in row["contenders"].items())
    return f"{name}: {row['networks']} networks, {row['jobs']} jobs; {times} s"


def main(arguments: list[str] | None = None) -> None:
    form = job_form("benchmarks.demo", __doc__, devices=("cpu",), rounds=1)
    args = form.parse_args(arguments)
    pin(args.threads, "benchmarks.demo")
    jobs = [
        (
            paper + (", in one process" if one else ""),
            partial(measure, paper, args.threads, args.rounds, one_process=one),
        )
        for paper in PAPERS
        for one in (False, True)
    ]
    run_jobs("demo", args, Clock("cpu", args.threads), jobs, line)


if __name__ == "__main__":
    main()
