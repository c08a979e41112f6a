"""``python -m tests.faults <fault> [options]``: tries faults and counts how many were survived."""

import argparse
import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable

from stillpoint import pipelines

Run = Callable[[argparse.Namespace], list[object]]


def _kill(args: argparse.Namespace) -> list[object]:
    from tests.faults.kill import kill

    return [kill(paper, args.times, seed=args.seed, model=args.model) for paper in args.papers]


def _truncate(args: argparse.Namespace) -> list[object]:
    from tests.faults.damage import truncate

    return [c for paper in args.papers for c in truncate(paper, args.times, seed=args.seed, model=args.model)]


def _wrong(args: argparse.Namespace) -> list[object]:
    from tests.faults.damage import wrong

    return [count for paper in args.papers for count in wrong(paper, args.model)]


def _disk(args: argparse.Namespace) -> list[object]:
    from tests.faults.disk import disk

    full = not args.limit
    if full and os.geteuid():
        sys.exit("a file system of its own needs root; with --limit, files may not grow beyond a limit instead")
    return [c for p in args.papers for c in disk(p, args.times, full=full, seed=args.seed, model=args.model)]


def _stop(args: argparse.Namespace) -> list[object]:
    from tests.faults.stop import measuring, stop

    return [
        fault(paper, args.times, seed=args.seed, model=args.model)
        for paper in args.papers
        for fault in (stop, measuring)
    ]


def _together(args: argparse.Namespace) -> list[object]:
    from tests.faults.stop import together

    return [together(paper, args.times, model=args.model) for paper in args.papers]


def _worker(args: argparse.Namespace) -> list[object]:
    from tests.faults.stop import worker

    return [worker(paper, args.times, seed=args.seed, model=args.model) for paper in args.papers]


def _hostile(args: argparse.Namespace) -> list[object]:
    from tests.faults.hostile import hostile

    return [hostile()]


def _short(args: argparse.Namespace) -> list[object]:
    from tests.faults.damage import truncate, wrong
    from tests.faults.disk import disk
    from tests.faults.hostile import hostile
    from tests.faults.kill import kill
    from tests.faults.stop import measuring, stop, together

    (paper,) = args.papers
    found = [hostile(), kill(paper, 3), *truncate(paper, 5, goes_on=0), *disk(paper, 1, full=False), *wrong(paper)]
    return [*found, stop(paper, 2), measuring(paper, 2), together(paper, 1)]


def _workflow(args: argparse.Namespace) -> list[object]:
    from tests.faults.workflow import workflow

    return [workflow(args.times, seed=args.seed)]


def _orphan(args: argparse.Namespace) -> list[object]:
    from tests.faults.orphans import orphans

    return [orphans()]


def _full(args: argparse.Namespace) -> list[object]:
    from tests.faults.full import full

    return list(full(args.times))


def _release(args: argparse.Namespace) -> list[object]:
    from tests.faults.releases import releases

    return [releases(args.times, seed=args.seed)]


def _paths(args: argparse.Namespace) -> list[object]:
    from tests.faults.replacing import paths

    return [paths(args.times)]


def _replacing(args: argparse.Namespace) -> list[object]:
    from tests.faults.replacing import KINDS

    return [KINDS[kind]() for kind in (KINDS if args.kind == "all" else [args.kind])]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    inner = top.add_subparsers(dest="fault", required=True)
    known = pipelines.papers()

    def add(name: str, summary: str, run: Run, times: int | None = None, *, paper: bool = True) -> ArgumentParser:
        form = inner.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if paper:
            form.add_argument("--pipeline", choices=[*known, "all"], default="aps", help="a paper (default: aps)")
            form.add_argument("--model", help="a network of the paper (default: the smallest of its grid)")
        if times is not None:
            form.add_argument("--times", type=int, default=times, metavar="N", help=f"faults (default: {times})")
            form.add_argument("--seed", type=int, default=0, help="of where the faults are (default: 0)")
        form.set_defaults(run=run)
        return form

    add("kill", "kill trainings, go on, and compare every bit with a training that was left alone", _kill, 20)
    add("truncate", "cut off and change states, weights and decoded images", _truncate, 50)
    add("wrong", "put what is no number, name or section into the files of a measured run", _wrong)
    form = add("disk", "fill the disk in training, in the table and while images are corrupted", _disk, 10)
    form.add_argument("--limit", action="store_true", help="limit the size of files instead, which needs no root")
    add("stop", "ask trainings, and measurements, to stop by SIGINT and SIGTERM", _stop, 10)
    add("together", "let two processes train in one folder", _together, 4)
    add("worker", "kill a process that reads photographs", _worker, 2)
    add("hostile", "offer files that would run something", _hostile, paper=False)
    add("workflow", "kill snakemake and what it started, and type the one command again", _workflow, 3, paper=False)
    add("orphan", "type commands beside what a killed workflow left running", _orphan, paper=False)
    add("full", "leave no room from one file on that each of six commands makes", _full, 8, paper=False)
    add("release", "kill releases, look at the kept runs, and give the same command again", _release, 12, paper=False)
    add("paths", "give folders names that a shell would run, and recipes that lead elsewhere", _paths, 8, paper=False)
    form = add("replacing", "let a workflow meet running, changed, hand-made and kept runs", _replacing, paper=False)
    form.add_argument("--kind", choices=["order", "images", "hands", "all"], default="all", help="(default: all)")
    add("short", "a few of each that needs neither root nor minutes: what the suite runs", _short)
    return top


def main() -> int:
    args = parser().parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chosen = getattr(args, "pipeline", None)
    args.papers = pipelines.papers() if chosen == "all" else [chosen] if chosen else []
    counts = args.run(args)
    print("\n".join(map(str, counts)))
    return int(any(count.failures for count in counts))


if __name__ == "__main__":
    sys.exit(main())
