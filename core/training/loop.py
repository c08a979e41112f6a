"""The training loop: epochs of steps, each followed by validation, test pass and saving."""

import math
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from stillpoint.core.base.bfloat16 import advice
from stillpoint.core.base.device import seed as seed_generators
from stillpoint.core.base.distributed import Group
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.interrupt import Interrupted, StopRequest
from stillpoint.core.base.randomness import seed_for
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.data.build import Loaders
from stillpoint.core.runs.checkpoint import save_state
from stillpoint.core.runs.layout import Run
from stillpoint.core.runs.provenance import device_name, tensors_digest
from stillpoint.core.runs.records import Progress, Row, model_name, save_net, write_tables
from stillpoint.core.training.hooks import Moment, TrainHooks
from stillpoint.core.training.learner import Learner
from stillpoint.core.training.loss import Sums
from stillpoint.core.training.monitor import Monitor
from stillpoint.core.training.schedule import rate, side
from stillpoint.core.training.state import TrainState

Config = TypeVar("Config", bound=RunConfig)

#: Steps between two checks of the loss where a check must wait for a GPU or for other processes.
_LOOK_EVERY = 50


class Loop:
    """Trains from `saved`, or from scratch. Raises `UserError` for a recipe that the images do not allow."""

    def __init__(
        self,
        config: Config,
        run: Run,
        together: Group,
        device: torch.device,
        build: Callable[[Config], nn.Module],
        loaders: Loaders,
        progress: Progress,
        hooks: TrainHooks,
        saved: dict[str, Any] | None,
        code: str,
    ) -> None:
        self.config, self.run, self.together, self.device, self.loaders = config, run, together, device, loaders
        self.steps = _steps(config, loaders)
        self.look_every = 1 if device.type == "cpu" and together.world_size == 1 else _LOOK_EVERY
        self.monitor = Monitor(run, progress, together, self.steps)
        self.learner = Learner(config, build, hooks, together, device, fresh=saved is None, source=loaders.train)
        if saved is None:
            self.state = TrainState(Sums(device))
        else:
            self.state = self._restored(saved)
        self.state.worked_on(device_name(device), code)
        self.warm = False

    def _restored(self, saved: dict[str, Any]) -> TrainState:
        if saved["data"] != self.loaders.digest:
            raise UserError(
                f"{self.run.folder} was trained on other images than those found now: remove it to start from scratch"
            )
        self.learner.restore(saved, origin=str(self.run.state))
        state = TrainState.restored(saved, Sums(self.device), self.together)
        done = f"step {state.step} of {self.steps}"
        place = f"epoch {state.epoch + 1}, {done}" if state.step else f"after epoch {state.epoch}"
        self.monitor.tell(f"training resumes ({place})")
        return state

    def saved(self) -> dict[str, Any]:
        """Everything that determines how the run continues, in plain containers; every process must call it."""
        return {
            "settings": self.config.dump(),
            "data": self.loaders.digest,
            "data_order": self.loaders.order,
            **self.state.to_dict(self.together),
            **self.learner.state(),
        }

    def _save(self) -> None:
        saved = self.saved()
        self.together.agree(lambda: save_state(self.run.state, saved))

    def go(self, stop: StopRequest, until: int) -> None:
        """Trains to the end of epoch `until`, or until `stop` is set, which raises `Interrupted`."""
        state, epochs = self.state, self.config.train.epochs
        if state.epoch == 0 and state.step == 0:
            title = self.loaders.title or self.config.data.name
            self.monitor.tell(f"training {model_name(self.config)} on {title} begins")
        if state.epoch < until and self.together.main:
            self.monitor.advise(advice(self.config.train.precision, self.device))
        began = time.perf_counter()
        if not state.tests and not self._test(0, stop):
            self._interrupted(stop, began)
        while state.epoch < until:
            validated = None
            if self._train_epoch(stop):
                validated = self._validate(stop)
            if validated is None or not self._test(state.epoch + 1, stop):
                self._interrupted(stop, began)
            began = self._end_epoch(*validated, began)
        if not epochs:
            state.first_epoch = tensors_digest(self.learner.net.state_dict())
        if not epochs or until < epochs:
            self._save()

    def _interrupted(self, stop: StopRequest, began: float) -> NoReturn:
        state = self.state
        state.seconds += time.perf_counter() - began
        self._save()
        sentence = (
            f"stopped in epoch {state.epoch + 1} of {self.config.train.epochs} after step {state.step} of {self.steps}"
            ": the state is saved, and the same command resumes from it"
        )
        self.monitor.tell(sentence)
        raise Interrupted(sentence, self.together.largest(stop.number))

    def _seed(self, what: str, *place: int) -> None:
        # the rank is part of the seed because each process has its own images
        seed_generators(self.device, seed_for(what, self.config.seed, *place, self.together.rank))

    def _train_epoch(self, stop: StopRequest) -> bool:
        """Runs the remaining steps of the epoch; False if stopped (the state is then at the end of a step)."""
        recipe, state, learner, source = self.config.train, self.state, self.learner, self.loaders.train
        assert source is not None
        batches = iter(source.epoch(state.epoch, state.step * recipe.accumulate))
        learner.model.train()
        learner.set_side(side(recipe, state.epoch))
        losses: list[Tensor] = []
        began, seen, stopped = time.perf_counter(), state.sums.images, False
        while state.step < self.steps and not stopped:
            learner.set_rate(rate(recipe, state.epoch, state.step, self.steps))
            # dropout and others draw from torch's generator
            self._seed("step", state.epoch, state.step)
            learner.before_step(Moment(state.epoch, state.step, recipe.epochs, self.steps))
            losses.append(learner.step(batches, source, state.sums, state.epoch * self.steps + state.step))
            state.step += 1
            if state.step % self.look_every == 0 or state.step == self.steps:
                speed = (state.sums.images - seen) * self.together.world_size / (time.perf_counter() - began)
                self.monitor.losses(state, losses, speed)
            if not self.warm:
                # this process's first step also compiled kernels
                began, seen, self.warm = time.perf_counter(), state.sums.images, True
            if stopped := bool(self.together.largest(stop.number)):
                self.monitor.losses(state, losses, 0.0)
        # the last step's loss was computed before its update
        if what := learner.broken():
            self.monitor.diverged(state, what, state.step)
        return not stopped

    def _validate(self, stop: StopRequest) -> tuple[float | None, float | None] | None:
        """(loss, accuracy) on the validation images, (None, None) without any; None if stopped."""
        if self.loaders.validation is None:
            return None, None
        self._seed("validate", self.state.epoch)
        sums = self.learner.measure(self.loaders.validation, 0, stop)
        return None if sums is None else sums.means(self.together)

    def _test(self, number: int, stop: StopRequest) -> bool:
        """Makes the test pass after `number` epochs, on freshly augmented images; False if stopped."""
        if not self.config.train.test_each_epoch or self.state.has_test(number):
            return True
        assert self.loaders.test is not None
        began = time.perf_counter()
        self._seed("test", number)
        sums = self.learner.measure(self.loaders.test, number, stop)
        if sums is None:
            return False
        totals, accuracy = sums.all(self.together), sums.means(self.together)[1]
        self.state.add_test(number, totals, accuracy, time.perf_counter() - began)
        return True

    def _end_epoch(self, val_loss: float | None, val_accuracy: float | None, began: float) -> float:
        """Records and saves the epoch that began at `began`; returns the time at which the next one begins."""
        recipe, state, net = self.config.train, self.state, self.learner.net
        if val_loss is not None and not math.isfinite(val_loss):
            self.monitor.diverged(state, f"the validation loss became {val_loss}", state.step)
        lr = rate(recipe, state.epoch, self.steps - 1, self.steps)
        means, images = state.sums.means(self.together), state.sums.all(self.together).images
        seconds = state.seconds + time.perf_counter() - began
        row: Row = state.add_epoch((lr, *means, val_loss, val_accuracy), images, seconds, Sums(self.device))
        number, began = state.epoch, time.perf_counter()
        if recipe.keep == "best" and val_loss is not None:
            state.keep_best(number, -val_loss if val_accuracy is None else val_accuracy, self.learner.weights())
        if number == 1:
            state.first_epoch = tensors_digest(net.state_dict())
        if recipe.snapshots and number % recipe.snapshots == 0:
            # before the state: a run resumed from the state would not write it again
            weights, saved = self.learner.weights(), self.saved()
            self.together.agree(lambda: save_state(self.run.snapshot_state(number), saved))
            self.together.agree(lambda: save_net(self.config, self.run.snapshot(number), weights, number))
        if number % recipe.checkpoint_epochs == 0 or number == recipe.epochs:
            self._save()
        self.together.agree(lambda: write_tables(self.run, state.rows()))
        self.monitor.skipped(self.loaders)
        self.monitor.epoch(row)
        return began


def _steps(config: RunConfig, loaders: Loaders) -> int:
    """Optimiser steps per epoch; raises if the recipe needs images that are missing."""
    recipe = config.train
    if recipe.test_each_epoch and loaders.test is None:
        raise ValueError("TRAIN.TEST_EACH_EPOCH needs a test loader, but loaders.test is None")
    if not recipe.epochs:
        return 0
    if loaders.train is None:
        raise ValueError("training needs a train loader, but loaders.train is None")
    if recipe.keep == "best" and loaders.validation is None:
        raise UserError("TRAIN.KEEP best needs validation images: set DATA.VALIDATION, or TRAIN.KEEP last")
    steps = len(loaders.train) // recipe.accumulate
    if steps == 0:
        raise UserError(f"TRAIN.ACCUMULATE {recipe.accumulate} exceeds the {len(loaders.train)} batches of an epoch")
    return steps
