"""The command `verify`, which checks that the current code reproduces a run's first epoch bit by bit."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stillpoint import pipelines
from stillpoint.core.base.documents import read_json
from stillpoint.core.base.errors import UserError
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.commands.base import Command, add_device, build, run_config, tell


def _options(parser: ArgumentParser) -> None:
    parser.add_argument("folder", help="a run's folder, such as results/aps/digits/resnet20_aps1/seed0")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder of the data (default: $STILLPOINT_DATA, or data)"
    )
    add_device(parser)


def _verify(args: Namespace) -> int:
    run = Run.of(args.folder)
    config = run_config(run, [])
    about = _first_epoch(run)
    from stillpoint.core.base.files import write_json
    from stillpoint.core.base.interrupt import locked
    from stillpoint.core.runs.provenance import commit
    from stillpoint.core.training.train import train
    from stillpoint.pipelines.workflow import stage_code

    code, name = stage_code("train", run.pipeline, config.data.name), f"{run.pipeline}/{run.model}, seed {run.seed}"
    with locked(run.lock), TemporaryDirectory() as root:
        again = Run(run.pipeline, run.recipe, run.model, run.seed, Path(root))
        options: dict[str, Any] = {"data_root": args.data, "device": args.device, "threads": args.threads}
        hooks = pipelines.paper(config.pipeline).hooks(config)
        train(config, again, build=build, hooks=hooks, code=code, until=1, **options)
        if first_epoch(again) != about["first_epoch"]:
            tell(
                f"{name}: this code gets other weights in the first epoch, so the run cannot be averaged with new ones"
            )
            return 1
        revision, clean = commit()
        found = read_json(run.verified, remedy="remove it", of=dict) if run.verified.is_file() else {}
        write_json(run.verified, {**found, code: {"commit": revision, "clean": clean}})
    tell(f"{name}: this code reproduces the first epoch bit by bit; written: {run.verified}")
    return 0


def _first_epoch(run: Run) -> dict[str, Any]:
    """The content of a run's train.json; `UserError` if it does not record the first epoch."""
    try:
        found = read_json(run.training, of=dict)
        if found["first_epoch"]:
            return found
    except (UserError, KeyError):
        pass
    raise UserError(
        f"{run.folder} is unfinished, or was trained before first epochs were recorded, so there is nothing to compare"
    )


def first_epoch(run: Run) -> str | None:
    """Digest of the weights after the first epoch, from the state of an unfinished run."""
    from stillpoint.core.runs.checkpoint import load_state

    state, _ = load_state(run.state)
    return None if state is None else state["first_epoch"]


COMMANDS = {
    "verify": Command(
        "check that a run's first epoch repeats bit by bit",
        _options,
        _verify,
        ("stillpoint verify results/aps/digits/resnet20_aps1/seed0",),
    ),
}
