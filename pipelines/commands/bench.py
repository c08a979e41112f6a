"""The command that times this code beside its peers: bench."""

import importlib.util
import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from core.errors import UserError
from pipelines.commands.base import Command, add_json

ROOT = Path(__file__).parents[2]
#: What can be timed, and the module that does it.
SUBJECTS = {"layer": "benchmarks.layers"}


def _options(form: ArgumentParser) -> None:
    form.add_argument("subject", nargs="?", choices=tuple(SUBJECTS), default="layer", help="what to time")
    form.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where (default: cpu)")
    form.add_argument(
        "--threads", type=int, default=1, metavar="N", help="threads of the CPU (default: 1, the steadiest)"
    )
    form.add_argument("--rounds", type=int, default=15, metavar="N", help="times each contender runs (default: 15)")
    form.add_argument(
        "--only", default="", metavar="WORD", help="only the jobs whose name holds this word; no file is written"
    )
    add_json(form)


def _bench(args: Namespace) -> int:
    if not (ROOT / "benchmarks").is_dir():
        raise UserError("the benchmarks are in the repository and not in the package: run this from a clone")
    for name, least in (("threads", 1), ("rounds", 3)):
        if getattr(args, name) < least:
            raise UserError(f"--{name} is at least {least}, not {getattr(args, name)}")
    missing = [name for name in ("timm", "kornia", "pytorch_wavelets") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"stillpoint: not installed, so left out: {', '.join(missing)} (pip install '.[bench]')", file=sys.stderr)
    words = ["--device", args.device, "--threads", str(args.threads), "--rounds", str(args.rounds)]
    words += [f"--only={args.only}"] if args.only else []
    words += ["--json"] if args.json else []
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # A process of its own: threads and allocator are read when a process starts.
    return subprocess.run(
        [sys.executable, "-m", SUBJECTS[args.subject], *words], env={**os.environ, "PYTHONPATH": path}, check=False
    ).returncode


COMMANDS = {
    "bench": Command(
        "time the layers beside timm, kornia, pytorch_wavelets and textbook code",
        _options,
        _bench,
        (
            "stillpoint bench layer",
            "stillpoint bench layer --only blur --rounds 9",
            "stillpoint bench layer --device cuda --json",
        ),
    ),
}
