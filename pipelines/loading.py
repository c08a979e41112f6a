"""A run that was trained, as an object: its network at a chosen moment, and what was measured of it.

run = pipelines.load("wavelet_twins/R34wyC", recipe="cifar10", status="e300")
run.net, run.losses, run.val_errors, run.scores
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

import pipelines
from core.checkpoint import fill, load_state, load_weights
from core.config import RunConfig, merge, read_yaml
from core.errors import UserError
from core.records import Row, read_history
from core.runs import Run


@dataclass(frozen=True)
class LoadedRun:
    """One training with one seed.

    net       the network in evaluation mode, on the CPU, with the weights of `status`
    epoch     after how many epochs these weights were taken
    status    "weights" (those that the run kept), "checkpoint", "best" or "e<N>"
    """

    run: Run
    config: RunConfig
    net: nn.Module
    epoch: int
    status: str

    @cached_property
    def history(self) -> list[Row]:
        """The rows of history.csv up to `epoch`."""
        return [row for row in read_history(self.run.history) if (row["epoch"] or 0) <= self.epoch]

    @property
    def losses(self) -> list[float]:
        """The mean training loss of each epoch."""
        return [row["train_loss"] for row in self.history if row["train_loss"] is not None]

    @property
    def val_errors(self) -> dict[int, float]:
        """{epoch: share of the validation images that were given another class}; empty without validation images."""
        rows = [(row["epoch"], row["val_accuracy"]) for row in self.history]
        return {int(epoch): 1 - right for epoch, right in rows if epoch is not None and right is not None}

    @property
    def metrics(self) -> dict[str, Any]:
        """What metrics.json holds of the trained network; empty before it was evaluated."""
        from core.tables import read_metrics

        return read_metrics(self.run)["trained"] if self.run.metrics.is_file() else {}

    @property
    def scores(self) -> dict[str, Any]:
        """What was measured of the weights that the run kept, under the data set's name.

        Of a paper that keeps dated scores (wavelet_twins): data set / split / mode / metric -> value, date and commit.
        """
        import json

        if self.run.scores.is_file():
            return json.loads(self.run.scores.read_text())["scores"]
        return {self.config.data.name: {"test": self.metrics}} if self.metrics else {}


def load_run(
    name: str, *, recipe: str = "digits", seed: int = 0, status: str = "weights", results: str | Path = "results"
) -> LoadedRun:
    """The run of a network under a recipe in the folder of all results.

    `status` says which weights: "weights" are those that the run kept, "checkpoint" those of the last epoch that was
    finished, "best" those of the best validation accuracy (TRAIN.KEEP best), "e<N>" those after epoch N (see
    TRAIN.SNAPSHOTS).
    `UserError` for a run or a snapshot that is not there, saying which are.
    """
    paper, entry = pipelines.entry(name)
    run = Run(paper, recipe, entry.name, seed, Path(results))
    if not run.config.is_file():
        raise UserError(f"{run.folder} holds no run{_others(run)}: train it with stillpoint train {name}")
    form = pipelines.schema(paper)
    config = merge(form, [read_yaml(run.config, form)])
    net = pipelines.build(config)
    epoch = _fill(net, run, config, status)
    return LoadedRun(run, config, net.eval(), epoch, status)


def _others(run: Run) -> str:
    there = sorted(
        path.parent.parent.parent.name for path in run.root.glob(f"{run.pipeline}/*/{run.model}/*/config.yaml")
    )
    seeds = sorted(path.parent.name for path in run.folder.parent.glob("seed*/config.yaml"))
    if seeds:
        return f" (there are {', '.join(seeds)})"
    return f" (there are runs of it under {', '.join(dict.fromkeys(there))})" if there else ""


def _fill(net: nn.Module, run: Run, config: RunConfig, status: str) -> int:
    """Puts the weights of `status` into `net`; returns their epoch."""
    model = f"{run.pipeline}/{run.model}"
    kept = _kept(run)
    if status == "best" and config.train.keep != "best":
        raise UserError(f"{run.folder} keeps the last epoch, not the best: train it with TRAIN.KEEP best")
    if status in ("weights", "best"):
        if not run.weights.is_file():
            raise UserError(f"{run.folder} has not finished training: it has {_statuses(run)}")
        return int(load_weights(net, run.weights, model=model)["epoch"])
    if status == "checkpoint":
        state, _ = load_state(run.state)
        if state is not None:
            fill(net, state["model"], origin=str(run.state), model=model)
            return int(state["epoch"])
        # results that came without their state
        if kept == config.train.epochs:
            return int(load_weights(net, run.weights, model=model)["epoch"])
        raise UserError(f"{run.folder} has no checkpoint: it has {_statuses(run)}")
    match = re.fullmatch(r"e(\d+)", status)
    if match is None:
        raise UserError(
            f"status {status!r}: choose weights, checkpoint, best or e<N>; {run.folder} has {_statuses(run)}"
        )
    epoch = int(match[1])
    if epoch in run.snapshots():
        return int(load_weights(net, run.snapshot(epoch), model=model)["epoch"])
    if epoch == kept:
        return int(load_weights(net, run.weights, model=model)["epoch"])
    raise UserError(f"{run.folder} has no snapshot {status}: it has {_statuses(run)}")


def _kept(run: Run) -> int | None:
    """The epoch of the weights that a finished run kept."""
    from core.checkpoint import read_tensors

    return int(read_tensors(run.weights)[1].get("epoch", -1)) if run.weights.is_file() else None


def _statuses(run: Run) -> str:
    found = ["weights"] if run.weights.is_file() else []
    found += ["checkpoint"] if run.state.is_file() else []
    epochs = {*run.snapshots(), *([kept] if (kept := _kept(run)) is not None else [])}
    return ", ".join([*found, *(f"e{epoch}" for epoch in sorted(epochs))]) or "nothing yet"
