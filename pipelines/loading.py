"""Loads a trained run: its network at a chosen moment, and its measurements.

run = pipelines.load("wavelet_twins/R34wyC", recipe="cifar10", status="e300")
run.net, run.losses, run.val_errors, run.scores
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from stillpoint.core.base.documents import read_json
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.merge import merge, read_recipe
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.runs.layout import Run
from stillpoint.core.runs.records import Row, read_history
from stillpoint.core.runs.statuses import fill_at, kept_epoch
from stillpoint.pipelines.networks import entry, paper


@dataclass(frozen=True)
class LoadedRun:
    """A trained run at one moment.

    net       the network in evaluation mode, on the CPU, with the weights of `status`
    epoch     the epoch of these weights
    status    "weights" (the kept ones), "checkpoint", "best" or "e<N>"
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
        """{epoch: fraction of misclassified validation images}; empty without validation images."""
        rows = [(row["epoch"], row["val_accuracy"]) for row in self.history]
        return {int(epoch): 1 - right for epoch, right in rows if epoch is not None and right is not None}

    @cached_property
    def measured(self) -> Run | None:
        """The run that holds the measurements of these weights; None before they were evaluated."""
        own = self.run.at(self.status)
        # a snapshot of the kept epoch has the measurements of the kept weights
        same = self.run if self.run.metrics.is_file() and kept_epoch(self.run) == self.epoch else None
        return own if own.metrics.is_file() else same

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics of the network at this moment; empty before ``stillpoint evaluate <folder> --status``."""
        from stillpoint.core.reporting.reading import read_metrics

        return read_metrics(self.measured)["trained"] if self.measured else {}

    @property
    def scores(self) -> dict[str, Any]:
        """The scores of these weights, under the data set's name.

        In a paper with dated scores (wavelet_twins): data set / split / mode / metric -> value, date and commit.
        """
        if self.measured and self.measured.scores.is_file():
            remedy = "remove it and evaluate the run again"
            found = read_json(self.measured.scores, remedy=remedy, of=dict).get("scores")
            if not isinstance(found, dict):
                raise UserError(f"{self.measured.scores} holds no scores: {remedy}")
            return found
        return {self.config.data.name: {"test": self.metrics}} if self.metrics else {}


def load_run(
    name: str, *, recipe: str | None = None, seed: int = 0, status: str = "weights", results: str | Path = "results"
) -> LoadedRun:
    """Loads the run of a network under a recipe from the folder of all results.

    `recipe` can be omitted if the network was trained with this seed under only one. `status`: "weights" are the kept
    ones, "checkpoint" those of the last saved state, "best" those of the best validation accuracy (TRAIN.KEEP best),
    "e<N>" those after epoch N (see TRAIN.SNAPSHOTS). `UserError` for a missing run or snapshot, naming those that
    exist.
    """
    pipeline, model = entry(name)
    found = recipe or _recipe(pipeline, model.name, seed, Path(results))
    run = Run(pipeline, found, model.name, seed, Path(results))
    if not run.config.is_file():
        raise UserError(f"{run.folder} holds no run{_others(run)}: train it with stillpoint train {name}")
    own = paper(pipeline)
    schema = own.schema()
    config = merge(schema, [read_recipe(run.config, schema)])
    net = own.network(config)
    epoch = fill_at(net, run, config, status)
    return LoadedRun(run, config, net.eval(), epoch, status)


def _recipe(paper: str, model: str, seed: int, results: Path) -> str:
    """The only recipe with a run, "digits" if there is none; `UserError` if there are several."""
    found = sorted(path.parents[2].name for path in results.glob(f"{paper}/*/{model}/seed{seed}/config.yaml"))
    if len(found) > 1:
        raise UserError(f"there are runs of {paper}/{model} under {', '.join(found)}: choose one with recipe=")
    return found[0] if found else "digits"


def _others(run: Run) -> str:
    there = sorted(
        path.parent.parent.parent.name for path in run.root.glob(f"{run.pipeline}/*/{run.model}/*/config.yaml")
    )
    seeds = sorted(path.parent.name for path in run.folder.parent.glob("seed*/config.yaml"))
    if seeds:
        return f" (there are {', '.join(seeds)})"
    return f" (there are runs of it under {', '.join(dict.fromkeys(there))})" if there else ""
