"""Reports a training's progress, and stops one that diverges."""

import math
from typing import NoReturn

import torch
from torch import Tensor

from stillpoint.core.base.distributed import Group
from stillpoint.core.base.errors import UserError
from stillpoint.core.data.build import Loaders
from stillpoint.core.runs.layout import Run
from stillpoint.core.runs.records import TOLD, Progress, Row, note
from stillpoint.core.training.state import TrainState


class Monitor:
    """Reports a training of `steps` steps an epoch to `progress` and the run's log, from the main process only."""

    def __init__(self, run: Run, progress: Progress, together: Group, steps: int) -> None:
        self.run, self.progress, self.together, self.steps = run, progress, together, steps
        self.told: set[str] = set()

    def tell(self, sentence: str) -> None:
        if self.together.main:
            note(self.run, self.progress, sentence)

    def advise(self, sentence: str) -> None:
        """Tells a sentence, unless it is empty."""
        if sentence:
            self.tell(sentence)

    def epoch(self, row: Row) -> None:
        if self.together.main:
            self.progress.on_epoch(row)

    def losses(self, state: TrainState, losses: list[Tensor], images_per_second: float) -> None:
        """Reports the last of the losses since the previous call, and clears them.

        Raises `UserError` at a loss that is not finite, before anything is saved.
        """
        if not losses:
            return
        values = self.together.sum(torch.stack(losses)).tolist()
        for number, value in enumerate(values, state.step - len(losses) + 1):
            if not math.isfinite(value):
                self.diverged(state, f"the loss became {value}", number)
        losses.clear()
        if self.together.main:
            self.progress.on_step(state.epoch + 1, state.step, self.steps, values[-1], images_per_second)

    def diverged(self, state: TrainState, what: str, step: int) -> NoReturn:
        sentence = (
            f"{what} in epoch {state.epoch + 1} at step {step} of {self.steps}: training stopped, and the last good "
            "state is kept; try a smaller TRAIN.LR or a warm-up"
        )
        self.tell(sentence)
        raise UserError(sentence)

    def skipped(self, loaders: Loaders) -> None:
        """Reports the images that this process skipped since the last call, and their total."""
        parts = vars(loaders).values()
        found = {one for part in parts for one in getattr(part, "skipped", ())}
        for sentence in sorted(found - self.told)[:TOLD]:
            self.tell(f"left out: {sentence}")
        if found - self.told:
            self.tell(f"photographs left out so far: {len(found)}")
        self.told = found
