"""The weights of a run at a given moment: the kept ones, the last checkpoint, or a snapshot after an epoch."""

import re

from torch import nn

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.runs.checkpoint import fill, load_own, load_state, read_tensors
from stillpoint.core.runs.layout import Run
from stillpoint.core.runs.records import weights_of


def fill_at(net: nn.Module, run: Run, config: RunConfig, status: str) -> int:
    """Loads the weights of `status` into `net` and returns their epoch.

    `status` is "weights" (the kept ones), "best" (the same, if TRAIN.KEEP is best), "checkpoint" (after the last saved
    step) or "e<N>" (those after epoch N, see TRAIN.SNAPSHOTS). `UserError` for a missing one, naming those that exist.
    """
    model = f"{run.pipeline}/{run.model}"
    if status == "best" and config.train.keep != "best":
        raise UserError(
            f"{run.folder} kept the last epoch, not the best (set TRAIN.KEEP best to keep it): it has {statuses(run)}"
        )
    if status in ("weights", "best"):
        if not run.weights.is_file():
            raise UserError(f"{run.folder} holds no weights of a finished training: it has {statuses(run)}")
        return load_own(net, run.weights, model=model)
    kept = kept_epoch(run)
    if status == "checkpoint":
        state, _ = load_state(run.state)
        if state is not None:
            fill(net, weights_of(state), origin=str(run.state), model=model)
            return int(state["epoch"])
        # results that came without their state
        if kept == config.train.epochs:
            return load_own(net, run.weights, model=model)
        raise UserError(f"{run.folder} has no checkpoint: it has {statuses(run)}")
    match = re.fullmatch(r"e(\d+)", status)
    if match is None:
        raise UserError(
            f"status must be weights, checkpoint, best or e<N>, not {status!r}; {run.folder} has {statuses(run)}"
        )
    epoch = int(match[1])
    if epoch in run.snapshots():
        return load_own(net, run.snapshot(epoch), model=model)
    if epoch == kept:
        return load_own(net, run.weights, model=model)
    raise UserError(f"{run.folder} has no snapshot {status}: it has {statuses(run)}")


def kept_epoch(run: Run) -> int | None:
    """The epoch of a finished run's kept weights; None if not recorded."""
    return read_tensors(run.weights)[1].get("epoch") if run.weights.is_file() else None


def statuses(run: Run) -> str:
    """The statuses that a run has, as a list for the end of a sentence."""
    found = ["weights"] if run.weights.is_file() else []
    found += ["checkpoint"] if run.state.is_file() else []
    epochs = {*run.snapshots(), *([kept] if (kept := kept_epoch(run)) is not None else [])}
    return ", ".join([*found, *(f"e{epoch}" for epoch in sorted(epochs))]) or "nothing yet"
