"""Reads the test passes of runs, and the notebook's."""

import statistics
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from stillpoint.core.base.documents import read_numbers
from stillpoint.core.base.errors import UserError
from stillpoint.core.reporting.published import Published
from stillpoint.core.runs.layout import Run


@dataclass(frozen=True)
class Pass:
    """One test pass: epochs done, seconds since training began, mean loss, correct predictions and images."""

    epoch: int
    elapsed: float
    loss: float
    correct: float
    images: int

    @property
    def percent(self) -> float:
        return 100 * self.correct / self.images


def run_passes(run: Run) -> list[Pass]:
    """The test passes of a run; `UserError` if it made none."""
    if not (run.test_history.is_file() and run.test_timing.is_file() and run.timing.is_file()):
        raise UserError(f"{run.folder} has no test passes: train it with TRAIN.TEST_EACH_EPOCH True")
    trained = {int(row["epoch"]): float(row["seconds"]) for row in _rows(run.timing)}
    tested = {int(row["epoch"]): float(row["seconds"]) for row in _rows(run.test_timing)}
    elapsed, found = 0.0, []
    for row in _rows(run.test_history):
        epoch = int(row["epoch"])
        elapsed += trained.get(epoch, 0.0) + tested[epoch]
        found.append(Pass(epoch, elapsed, float(row["test_loss"]), float(row["correct"]), int(row["images"])))
    return found


def mean_passes(runs: list[Run]) -> list[Pass]:
    """The means over seeds, pass by pass."""
    by_epoch = zip(*(run_passes(run) for run in runs), strict=True)
    means = []
    for same in by_epoch:
        elapsed, loss, correct = (
            statistics.fmean(getattr(one, name) for one in same) for name in ("elapsed", "loss", "correct")
        )
        means.append(Pass(same[0].epoch, elapsed, loss, correct, same[0].images))
    return means


def published_passes(published: Published, recipe: str, model: str) -> dict[int, Pass]:
    """The notebook's test passes by epoch; {} if it printed none for this network and recipe."""
    for entry in published.own["passes"]:
        named = any(fnmatchcase(model, pattern) for pattern in entry["models"])
        if named and any(fnmatchcase(recipe, pattern) for pattern in entry["recipes"]):
            images = entry["images"]
            return {row[0]: Pass(row[0], row[1], row[2], row[3], images) for row in entry["rows"]}
    return {}


def seconds_per_epoch(runs: list[Run]) -> float | None:
    """Seconds of training per epoch: the median over epochs, averaged over `runs`; None if a run has no epochs."""
    seconds = [[float(row["seconds"]) for row in _rows(run.timing)] for run in runs]
    return statistics.fmean(map(statistics.median, seconds)) if all(seconds) else None


def _rows(path: Path) -> list[dict[str, Any]]:
    columns = ("epoch", "seconds") if "timing" in path.name else ("epoch", "test_loss", "correct", "images")
    return read_numbers(path, columns, remedy="train the run again")
