"""The command ``release``, which keeps finished runs whose numbers are reproduced, and ``evaluate --pretrained``."""

import math
import sys
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError, listed
from stillpoint.core.runs import cards
from stillpoint.core.runs.layout import Run, seeds_there
from stillpoint.pipelines import networks
from stillpoint.pipelines.commands.base import Command, add_device, console, positive, print_json, tell


def _options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a measured run, or of a recipe or paper with all its runs; or an address from which DVC can "
        "fetch one: ssh://host/path/to/results/..., remote://name/results/...",
    )
    parser.add_argument(
        "--weights", action="store_true", help="keep the weights too, kernels and matrices in half precision"
    )
    parser.add_argument("--full", action="store_true", help="with --weights: keep all of them in float32")
    parser.add_argument(
        "--remote",
        metavar="NAME",
        default=cards.STORE,
        help="the DVC remote that stores the weights (default: the store in the repository)",
    )
    parser.add_argument(
        "--sample", type=positive, metavar="N", help="number of test images measured again (default: 2000)"
    )
    parser.add_argument("--anew", action="store_true", help="replace kept runs")
    parser.add_argument("--to", type=Path, metavar="DIR", help="folder of the kept runs (default: runs)")
    parser.add_argument("--data", metavar="DIR", help="folder of the data (default: $STILLPOINT_DATA, or data)")
    add_device(parser)


def _release(args: Namespace) -> int:
    if args.full and not args.weights:
        raise UserError("--full keeps the weights in float32, so it needs --weights")
    from stillpoint.pipelines import released

    asked = released.Asked(
        to=args.to or networks.kept_root(),
        weights=args.weights,
        full=args.full,
        remote=args.remote,
        sample=args.sample or released.SAMPLE,
        anew=args.anew,
        data=args.data,
        device=args.device,
        threads=args.threads,
    )
    with ExitStack() as stack:
        runs: list[Run] = []
        for named in args.runs:
            runs += [stack.enter_context(released.fetched(named))] if "://" in named else _below(Path(named))
        kept = released.release(runs, asked, tell)
    size = sum(path.stat().st_size for run in kept for path in run.folder.iterdir())
    tell(f"kept: {listed(str(run.folder) for run in kept)} ({size:,} bytes)")
    next_step = f"stillpoint pages, then git add {asked.to}"
    if args.weights and released.store_of(asked.to) is not None and args.remote == cards.STORE:
        next_step += " .dvc-store"
    tell(f"next: {next_step}")
    return 0


def _below(folder: Path) -> list[Run]:
    """The run of a folder, or all measured runs in the folder of a recipe or paper."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}{seeds_there(folder)}")
    depths = [path.parent for depth in ("*", "*/*", "*/*/*") for path in folder.glob(f"{depth}/metrics.json")]
    inside = [place for place in depths if place.name.startswith("seed")]
    if inside and not (folder / "config.yaml").is_file():
        return [Run.of(place) for place in sorted(inside)]
    return [Run.of(folder)]


def evaluate_pretrained(args: Namespace) -> int:
    """``stillpoint evaluate <pipeline>/<model> --pretrained``: measures a kept run again; 1 if its numbers differ."""
    name = args.folder
    pipelines.entry(name)
    if args.pairs or args.status != "weights":
        raise UserError("--pretrained measures with the card's settings: leave out --status and KEY VALUE pairs")
    run = cards.find(networks.KEPT, name, args.recipe)
    if not args.json:
        tell(f"measuring the kept weights of {name}")
    from stillpoint.pipelines import measuring, released

    card = cards.about(run)
    weights = cards.weights(run)
    options: dict[str, Any] = {"data": args.data, "device": args.device, "threads": args.threads}
    config = measuring.trained_alone(released.own_config(run), card["metrics"]["evaluate"])
    found = measuring.measured(config, weights, workers=args.workers, **options)
    stated = measuring.numbers(card["metrics"]["trained"])
    if found["provenance"]["data_digest"] != card["metrics"]["provenance"]["data_digest"]:
        said = f"these images of {found['dataset']} differ from the card's, so its numbers may not be reproduced"
        print(f"stillpoint: {said}", file=sys.stderr)
    differing = cards.changed(stated, found["trained"])
    if args.json:
        print_json({**found, "card": stated, "differing": differing})
    else:
        from rich.table import Table

        grid = Table("metric", "card", "now", title=f"{name}, {found['dataset']}", title_justify="left")
        for key, value in stated.items():
            grid.add_row(key.replace("_", " "), f"{value:.6g}", f"{found['trained'].get(key, math.nan):.6g}")
        console().print(grid)
        tell("; ".join(differing) if differing else "the card's numbers are reproduced")
    return int(bool(differing))


COMMANDS = {
    "release": Command(
        "measure finished runs again and keep them in runs/",
        _options,
        _release,
        (
            "stillpoint release results/aps/digits",
            "stillpoint release results/aps/cifar10/resnet20_aps3/seed0 --weights",
            "stillpoint release remote://cluster/results/aps/cifar10/resnet20_aps3/seed1",
        ),
    ),
}
