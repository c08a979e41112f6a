"""The state of a training: its position, and what it has recorded."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from stillpoint.core.base.distributed import Group
from stillpoint.core.runs.records import HISTORY, TEST_HISTORY, TEST_TIMING, TIMING, Row
from stillpoint.core.training.loss import Sums, Totals


@dataclass
class TrainState:
    """Everything that a resumed training needs, besides what the learner holds.

    sums         of the current epoch, on the device
    epoch, step  completed epochs, and completed optimiser steps of the current one
    seconds      spent on the current epoch by earlier processes, less those of its test passes
    history, timing, tests, test_timing   rows of the tables in the run's folder
    best         the kept epoch with TRAIN.KEEP best: its number, score and weights
    first_epoch  digest of the weights after the first epoch, by which codes are compared
    codes        digests of the codes that worked on the run, in order
    processors   names of the devices that worked on the run, in order
    """

    sums: Sums
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list[Row] = field(default_factory=list)
    timing: list[Row] = field(default_factory=list)
    tests: list[Row] = field(default_factory=list)
    test_timing: list[Row] = field(default_factory=list)
    best: dict[str, Any] | None = None
    first_epoch: str | None = None
    codes: list[str] = field(default_factory=list)
    processors: list[str] = field(default_factory=list)

    @classmethod
    def restored(cls, saved: dict[str, Any], sums: Sums, together: Group) -> "TrainState":
        """The state that `to_dict` returned; its sums go into `sums` on the main process only."""
        if together.main:
            sums.fill(*saved["sums"])
        names = ("epoch", "step", "seconds", "history", "timing", "tests", "test_timing", "best")
        own = {name: saved[name] for name in names}
        # states of older versions have none of these
        own |= {name: list(saved.get(name, [])) for name in ("codes", "processors")}
        return cls(sums, **own, first_epoch=saved.get("first_epoch"))

    def worked_on(self, processor: str, code: str) -> None:
        """Adds the device and code that continue the training, unless they are those of before."""
        for found, name in ((self.processors, processor), (self.codes, code)):
            if name and found[-1:] != [name]:
                found.append(name)

    def to_dict(self, together: Group) -> dict[str, Any]:
        """The state in plain containers, with the sums over all processes; every process must call it."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "sums": list(self.sums.all(together)),
            **self.rows(),
            "best": self.best,
            "first_epoch": self.first_epoch,
            "codes": self.codes,
            "processors": self.processors,
        }

    def rows(self) -> dict[str, list[Row]]:
        """The rows of every table."""
        return {
            "history": self.history,
            "timing": self.timing,
            "tests": self.tests,
            "test_timing": self.test_timing,
        }

    def has_test(self, number: int) -> bool:
        """Whether the test images were measured after `number` epochs."""
        return any(row["epoch"] == number for row in self.tests)

    def add_test(self, number: int, totals: Totals, accuracy: float | None, seconds: float) -> None:
        """Adds the rows of a test pass after `number` epochs; its time is not counted in the epoch's."""
        self.seconds -= seconds
        values = (number, totals.loss / totals.images, totals.correct, totals.images, accuracy)
        self.tests.append(dict(zip(TEST_HISTORY, values, strict=True)))
        self.test_timing.append(dict(zip(TEST_TIMING, (number, round(seconds, 3)), strict=True)))

    def add_epoch(self, values: tuple[float | None, ...], images: int, seconds: float, sums: Sums) -> Row:
        """Ends the epoch and returns its row, `values` preceded by its number; the next epoch adds to `sums`."""
        number = self.epoch + 1
        row: Row = dict(zip(HISTORY, (number, *values), strict=True))
        self.history.append(row)
        self.timing.append(dict(zip(TIMING, (number, round(seconds, 3), round(images / seconds, 1)), strict=True)))
        self.epoch, self.step, self.seconds, self.sums = number, 0, 0.0, sums
        return row

    def keep_best(self, number: int, score: float, weights: dict[str, Tensor]) -> None:
        """Keeps a copy of the weights of epoch `number` if its score is higher than all before."""
        if self.best is None or score > self.best["score"]:
            copies = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
            self.best = {"epoch": number, "score": score, "model": copies}
