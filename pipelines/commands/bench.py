"""The command `bench`, which compares the speed of this code with other libraries."""

import importlib.util
import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.pipelines.commands.base import Command, add_json

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Subject:
    """A subject of benchmarks: its module, number of rounds, own options, devices, and packages to compare with."""

    module: str
    rounds: int
    own: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu", "cuda")
    peers: tuple[str, ...] = ()
    least: int = 3  # rounds


SUBJECTS = {
    "layer": Subject("benchmarks.layers", 15, peers=("timm", "kornia", "pytorch_wavelets")),
    "network": Subject("benchmarks.networks", 5, peers=("timm",)),
    "sampling": Subject("benchmarks.sampling", 7),
    "train": Subject("benchmarks.training", 30, ("network",)),
    "steps": Subject("benchmarks.steps", 9, ("network", "no_compile")),
    "eval": Subject("benchmarks.evaluation", 5, ("network",)),
    "board": Subject("benchmarks.board", 3),
    "loader": Subject("benchmarks.loaders", 5, ("photographs",), ("cpu",)),
    "corruptions": Subject("benchmarks.corruptions", 5, (), ("cpu",), ("imagecorruptions",)),
    "demo": Subject("benchmarks.demo", 1, (), ("cpu",), least=1),
    "start": Subject("benchmarks.start", 5, (), ("cpu",)),
}


def _options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "subject",
        nargs="?",
        choices=tuple(SUBJECTS),
        default="layer",
        help="layer: against timm, kornia, pytorch_wavelets and textbook code; network: ResNet-50 with filters against "
        "plain and timm's; sampling: LPS, TIPS and alias-free layers against textbook code; steps: training steps "
        "against their bare convolutions, plain PyTorch and torch.compile; board: its measures against the forwards "
        "that they need; train, eval, loader: whole jobs against torchvision's transforms and DataLoader, and the "
        "bare network; corruptions: against imagecorruptions; demo: all of `stillpoint run aps`; start: startup "
        "times of commands (default: layer)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1, the least noisy)")
    usual = ", ".join(f"{name} {subject.rounds}" for name, subject in SUBJECTS.items())
    parser.add_argument("--rounds", type=int, metavar="N", help=f"number of runs of each contender (default: {usual})")
    parser.add_argument(
        "--only", default="", metavar="WORD", help="only jobs whose name contains this word; no file is written"
    )
    parser.add_argument(
        "--network",
        action="append",
        metavar="NAME",
        help="train, eval, steps: a network by its name, repeatable (default: aps/resnet20; train: aps/resnet18 too; "
        "steps: six)",
    )
    parser.add_argument("--no-compile", action="store_true", help="steps: without torch.compile, which takes minutes")
    parser.add_argument(
        "--photographs",
        metavar="TAR",
        help="loader: an archive of files <class>_<anything>.JPEG (default: noise of their size)",
    )
    add_json(parser)


def _words(args: Namespace) -> list[str]:
    """The options for the subject's module; `UserError` for one that it does not take."""
    subject = SUBJECTS[args.subject]
    rounds = subject.rounds if args.rounds is None else args.rounds
    for name, value, least in (("threads", args.threads, 1), ("rounds", rounds, subject.least)):
        if value < least:
            raise UserError(f"--{name} must be at least {least}, not {value}")
    for name in ("network", "photographs", "no_compile"):
        if getattr(args, name) and name not in subject.own:
            raise UserError(f"bench {args.subject} does not take --{name.replace('_', '-')}")
    if args.device not in subject.devices:
        raise UserError(f"bench {args.subject} runs only on {subject.devices[0]}, not on {args.device}")
    if args.device == "cuda":
        from stillpoint.core.base.device import pick

        pick(args.device)
    words = ["--device", args.device, "--threads", str(args.threads), "--rounds", str(rounds)]
    for name in args.network or ():
        pipelines.entry(name)
        words += ["--network", name]
    if args.photographs:
        if not Path(args.photographs).is_file():
            raise UserError(f"there is no archive {args.photographs}")
        words += ["--photographs", args.photographs]
    words += [f"--only={args.only}"] if args.only else []
    words += ["--no-compile"] if args.no_compile else []
    return words + (["--json"] if args.json else [])


def _bench(args: Namespace) -> int:
    if not (ROOT / "benchmarks").is_dir():
        raise UserError("the benchmarks are not part of the package: run this from a clone of the repository")
    words, subject = _words(args), SUBJECTS[args.subject]
    missing = [name for name in subject.peers if importlib.util.find_spec(name) is None]
    if missing:
        print(f"stillpoint: left out, not installed: {', '.join(missing)} (pip install '.[bench]')", file=sys.stderr)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # in a separate process, because threads and allocator are set when a process starts
    return subprocess.run(
        [sys.executable, "-m", subject.module, *words], env={**os.environ, "PYTHONPATH": path}, check=False
    ).returncode


COMMANDS = {
    "bench": Command(
        "time layers and whole jobs against other libraries",
        _options,
        _bench,
        (
            "stillpoint bench layer",
            "stillpoint bench layer --only blur --rounds 9",
            "stillpoint bench layer --device cuda --json",
            "stillpoint bench network --only inference",
            "stillpoint bench train --network aps/resnet20 --json",
            "stillpoint bench steps --network aps/resnet20 --no-compile",
            "stillpoint bench eval",
            "stillpoint bench loader --only augmented --rounds 3",
            "stillpoint bench corruptions --only noise",
            "stillpoint bench demo",
            "stillpoint bench start",
        ),
    ),
}
