"""Training: one run's weights from its configuration, exactly resumable at any step.

Everything random is a function of (seed, epoch, step), and the learning rate one of (epoch, step). So the saved state
consists of the parameters, the optimiser's buffers, the current epoch's sums, and the position.
"""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from stillpoint.core.base.device import pick, settings
from stillpoint.core.base.device import seed as seed_generators
from stillpoint.core.base.distributed import Group, group
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.interrupt import Interrupted, StopRequest, locked
from stillpoint.core.base.randomness import seed_for
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.data.build import Loaders, Part
from stillpoint.core.data.build import loaders as build_loaders
from stillpoint.core.data.streaming import reader_deaths_reported
from stillpoint.core.runs.checkpoint import save_state
from stillpoint.core.runs.layout import Run
from stillpoint.core.runs.provenance import tensors_digest
from stillpoint.core.runs.records import (
    HISTORY,
    TEST_HISTORY,
    TEST_TIMING,
    TIMING,
    TOLD,
    Progress,
    Row,
    crash_in_log,
    finish,
    model_name,
    note,
    save_net,
    write_config,
    write_tables,
)
from stillpoint.core.training.begin import begin, on_these_images
from stillpoint.core.training.hooks import Moment, TrainHooks
from stillpoint.core.training.learner import Learner
from stillpoint.core.training.loss import Sums
from stillpoint.core.training.schedule import rate, side

__all__ = ["Progress", "TrainHooks", "train"]

Config = TypeVar("Config", bound=RunConfig)

#: Steps between two checks of the loss where a check must wait for a GPU or for other processes.
_LOOK_EVERY = 50


def train(
    config: Config,
    run: Run,
    *,
    build: Callable[[Config], nn.Module],
    data_root: Path | str | None = None,
    device: str = "auto",
    threads: int | None = None,
    workers: int = 0,
    resume: bool = True,
    progress: Progress | None = None,
    hooks: TrainHooks | None = None,
    loaders: Callable[[torch.device, int, int], Loaders] | None = None,
    code: str = "",
    workflow: bool = False,
    until: int | None = None,
) -> list[Row]:
    """Trains the network that `build` makes from `config` and leaves its results in the folder of `run`.

    Returns the rows of history.csv, one per epoch. An interrupted run resumes, a finished one is not repeated;
    ``resume=False`` removes what exists and starts from scratch. SIGINT and SIGTERM end the current step, save the
    state and raise `Interrupted`. Under torchrun the processes share each batch. `loaders`, called with (device, rank,
    world_size), replaces the data of the configuration; `workers` processes read a streaming data set. `code`, the
    digest of the code that decides the run, is recorded. With `workflow`, a workflow's run of other code or images is
    made again, and any other run is refused (stillpoint.core.runs.claim). After `until` epochs the state is saved and
    training ends without results.

    Raises `UserError`: another process is at work in the folder, it holds a run of other settings or of other data, its
    states are damaged, the loss is not finite (the last good state is kept), no GPU where one was asked for.
    """
    where = pick(device)
    progress, hooks = progress or Progress(), hooks or TrainHooks()
    with ExitStack() as stack:
        together = group(where)
        stack.enter_context(settings(where, threads))
        if together.main:
            # taken on the writing process alone, and outside `agree`, because the stack must hold it
            fault = _attempt(lambda: stack.enter_context(locked(run.lock)))
        else:
            fault = None
        asked: dict[str, Any] = {"code": code, "workflow": workflow}
        state = together.agree(lambda: _begin(fault, config, run, progress, resume=resume, **asked))
        stack.enter_context(crash_in_log(run))
        ended = config.train.epochs if until is None else min(until, config.train.epochs)
        # a finished run needs no images, unless a workflow checks that they are still the same
        found: Loaders | None = None
        if state is None or state["epoch"] < ended or workflow:
            if loaders is None:
                found = _loaders(config, data_root, where, together, workers)
            else:
                found = loaders(where, *together.place)
            begun, digest = state, found.digest
            state = together.agree(lambda: on_these_images(run, begun, digest, progress, **asked))
        if state is None or state["epoch"] < ended:
            assert found is not None
            training = _Training(config, run, together, where, build, found, progress, hooks, state, code)
            together.agree(lambda: write_config(config, run))
            with StopRequest() as stop, reader_deaths_reported():
                training.go(stop, ended)
            state = training.state()
        if state["epoch"] == config.train.epochs:
            together.agree(lambda: finish(config, run, state, where, progress))
        return state["history"]


def _begin(fault: UserError | None, *where: Any, **asked: Any) -> dict[str, Any] | None:
    if fault:
        raise fault
    return begin(*where, **asked)


def _loaders(config: RunConfig, root: Path | str | None, where: torch.device, together: Group, workers: int) -> Loaders:
    # weights that are only measured need no training images
    parts: tuple[Part, ...] = ("train", "validation") if config.train.epochs else ("test",)
    if config.train.epochs and config.train.test_each_epoch:
        parts = (*parts, "test")
    return build_loaders(config, root, where, *together.place, parts=parts, workers=workers)


def _attempt(work: Callable[[], object]) -> UserError | None:
    try:
        work()
    except UserError as error:
        return error
    return None


class _Training:
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
        state: dict[str, Any] | None,
        code: str,
    ) -> None:
        recipe = config.train
        self.config, self.run, self.together, self.device = config, run, together, device
        self.loaders, self.progress = loaders, progress
        self.steps = 0
        if recipe.epochs:
            if loaders.train is None:
                raise ValueError("loaders without a train loader: training needs one")
            self.source = loaders.train
            self.steps = len(self.source) // recipe.accumulate
            if self.steps == 0:
                raise UserError(
                    f"TRAIN.ACCUMULATE {recipe.accumulate} is more than the {len(self.source)} batches there are"
                )
        if recipe.test_each_epoch and loaders.test is None:
            raise ValueError("loaders without a test loader: TRAIN.TEST_EACH_EPOCH needs one")
        if recipe.keep == "best" and recipe.epochs and loaders.validation is None:
            raise UserError("TRAIN.KEEP best needs images to choose on: set DATA.VALIDATION, or TRAIN.KEEP last")
        self.learner = Learner(config, build, hooks, together, device, fresh=state is None, source=loaders.train)
        self.epoch = self.step = 0
        self.sums, self.before = Sums(device), 0.0
        self.history: list[Row] = []
        self.timing: list[Row] = []
        self.tests: list[Row] = []
        self.test_timing: list[Row] = []
        self.best: dict[str, Any] | None = None
        self.reported: set[str] = set()
        self.first_epoch: str | None = None
        self.codes: list[str] = []
        self.look_every = 1 if device.type == "cpu" and together.world_size == 1 else _LOOK_EVERY
        if state is not None:
            self._restore(state)
        if code and self.codes[-1:] != [code]:
            self.codes.append(code)

    def _restore(self, state: dict[str, Any]) -> None:
        if state["data"] != self.loaders.digest:
            raise UserError(
                f"{self.run.folder} was begun on other images than those found now: remove it to start anew"
            )
        self.learner.restore(state, origin=str(self.run.state))
        self.epoch, self.step, self.before = state["epoch"], state["step"], state["seconds"]
        if self.together.main:
            self.sums.fill(*state["sums"])
        self.history, self.timing, self.best = state["history"], state["timing"], state["best"]
        self.tests, self.test_timing = state["tests"], state["test_timing"]
        self.first_epoch, self.codes = state.get("first_epoch"), list(state.get("codes", []))
        done = f"epoch {self.epoch + 1}, step {self.step} of {self.steps}" if self.step else f"after epoch {self.epoch}"
        self._tell(f"training goes on ({done})")

    def state(self) -> dict[str, Any]:
        """Everything that decides how the run continues, in plain containers; every process must call it."""
        return {
            "settings": self.config.dump(),
            "data": self.loaders.digest,
            "data_order": self.loaders.order,
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.before,
            "sums": list(self.sums.all(self.together)),
            **self._rows(),
            "best": self.best,
            "first_epoch": self.first_epoch,
            "codes": self.codes,
            **self.learner.state(),
        }

    def _tell(self, sentence: str) -> None:
        if self.together.main:
            note(self.run, self.progress, sentence)

    def _save(self) -> None:
        state = self.state()
        self.together.agree(lambda: save_state(self.run.state, state))

    def _tell_skipped(self) -> None:
        """Logs the images that this process skipped since its last call, and the total."""
        parts = vars(self.loaders).values()
        found = {one for part in parts for one in getattr(part, "skipped", ())}
        for sentence in sorted(found - self.reported)[:TOLD]:
            self._tell(f"left out: {sentence}")
        if found - self.reported:
            self._tell(f"photographs left out so far: {len(found)}")
        self.reported = found

    def go(self, stop: StopRequest, until: int) -> None:
        """Trains to the end of epoch `until`, or until `stop` is set."""
        if self.epoch == 0 and self.step == 0:
            self._tell(f"training {model_name(self.config)} on {self.loaders.title or self.config.data.name} begins")
        self.began = time.perf_counter()
        if not self.tests and not self._test(0, stop):
            self._interrupted(stop)
        while self.epoch < until:
            validated = None
            if self._train_epoch(stop):
                validated = self._validate(stop)
            if validated is None or not self._test(self.epoch + 1, stop):
                self._interrupted(stop)
            else:
                self._end_epoch(*validated)
        if not self.config.train.epochs:
            self.first_epoch = tensors_digest(self.learner.net.state_dict())
        if not self.config.train.epochs or until < self.config.train.epochs:
            self._save()

    def _interrupted(self, stop: StopRequest) -> NoReturn:
        self.before += time.perf_counter() - self.began
        self._save()
        sentence = (
            f"stopped in epoch {self.epoch + 1} of {self.config.train.epochs} after step {self.step} of {self.steps}: "
            f"the state is saved, and the same command goes on from there"
        )
        self._tell(sentence)
        raise Interrupted(sentence, self.together.largest(stop.number))

    def _train_epoch(self, stop: StopRequest) -> bool:
        """Runs the remaining steps of the epoch; False if stopped (the state is then at the end of a step)."""
        recipe, seed, rank = self.config.train, self.config.seed, self.together.rank
        batches = iter(self.source.epoch(self.epoch, self.step * recipe.accumulate))
        self.learner.model.train()
        self.learner.set_side(side(recipe, self.epoch))
        losses: list[Tensor] = []
        began, seen = time.perf_counter(), self.sums.images
        while self.step < self.steps:
            self.learner.set_rate(rate(recipe, self.epoch, self.step, self.steps))
            # dropout and its like draw from torch's generator; the rank is in the seed because each process has its own
            # images
            seed_generators(self.device, seed_for("step", seed, self.epoch, self.step, rank))
            if self.learner.hooks.before_step is not None:
                with torch.no_grad():
                    self.learner.hooks.before_step(
                        self.learner.net, Moment(self.epoch, self.step, recipe.epochs, self.steps)
                    )
            losses.append(self.learner.step(batches, self.source, self.sums))
            self.step += 1
            if self.step % self.look_every == 0 or self.step == self.steps:
                speed = (self.sums.images - seen) * self.together.world_size / (time.perf_counter() - began)
                self._look(losses, speed)
            if self.together.largest(stop.number):
                self._look(losses, 0.0)
                self._check_state()
                return False
        self._check_state()
        return True

    def _check_state(self) -> None:
        """Stops if the last step diverged, since its loss was computed before the update."""
        if what := self.learner.broken():
            self._blown_up(what, self.step)

    def _look(self, losses: list[Tensor], images_per_second: float) -> None:
        """Reports progress, and stops at a loss that is not finite, before anything is saved."""
        if not losses:
            return
        values = self.together.sum(torch.stack(losses)).tolist()
        for number, value in enumerate(values, self.step - len(losses) + 1):
            if not math.isfinite(value):
                self._blown_up(f"the loss became {value}", number)
        losses.clear()
        if self.together.main:
            self.progress.on_step(self.epoch + 1, self.step, self.steps, values[-1], images_per_second)

    def _blown_up(self, what: str, step: int) -> NoReturn:
        sentence = (
            f"{what} in epoch {self.epoch + 1} at step {step} of {self.steps}: training stopped, and the last good "
            "state is kept; a smaller TRAIN.LR or a warm-up may help"
        )
        self._tell(sentence)
        raise UserError(sentence)

    def _validate(self, stop: StopRequest) -> tuple[float | None, float | None] | None:
        """(loss, accuracy) on the validation images, (None, None) without any; None if it was stopped."""
        if self.loaders.validation is None:
            return None, None
        seed_generators(self.device, seed_for("validate", self.config.seed, self.epoch, self.together.rank))
        sums = self.learner.measure(self.loaders.validation, 0, stop)
        return None if sums is None else sums.means(self.together)

    def _test(self, number: int, stop: StopRequest) -> bool:
        """Adds the test pass after `number` epochs, on freshly augmented images; False if stopped."""
        if not self.config.train.test_each_epoch or any(row["epoch"] == number for row in self.tests):
            return True
        assert self.loaders.test is not None
        # timed separately: its duration does not count for the epoch
        began = time.perf_counter()
        seed_generators(self.device, seed_for("test", self.config.seed, number, self.together.rank))
        sums = self.learner.measure(self.loaders.test, number, stop)
        if sums is None:
            return False
        loss, correct, images, _ = sums.all(self.together)
        seconds = time.perf_counter() - began
        self.before -= seconds
        values = (number, loss / images, correct, images, sums.means(self.together)[1])
        self.tests.append(dict(zip(TEST_HISTORY, values, strict=True)))
        self.test_timing.append(dict(zip(TEST_TIMING, (number, round(seconds, 3)), strict=True)))
        return True

    def _end_epoch(self, val_loss: float | None, val_accuracy: float | None) -> None:
        recipe, number = self.config.train, self.epoch + 1
        if val_loss is not None and not math.isfinite(val_loss):
            self._blown_up(f"the validation loss became {val_loss}", self.step)
        lr = rate(recipe, self.epoch, self.steps - 1, self.steps)
        images = self.sums.all(self.together).images
        values = (number, lr, *self.sums.means(self.together), val_loss, val_accuracy)
        row: Row = dict(zip(HISTORY, values, strict=True))
        seconds = self.before + time.perf_counter() - self.began
        self.history.append(row)
        self.timing.append(dict(zip(TIMING, (number, round(seconds, 3), round(images / seconds, 1)), strict=True)))
        if recipe.keep == "best" and val_loss is not None:
            score = -val_loss if val_accuracy is None else val_accuracy
            # strictly better: of equal epochs the earlier one is kept
            if self.best is None or score > self.best["score"]:
                weights = {
                    name: tensor.detach().cpu().clone() for name, tensor in self.learner.net.state_dict().items()
                }
                self.best = {"epoch": number, "score": score, "model": weights}
        self.epoch, self.step, self.before, self.sums = number, 0, 0.0, Sums(self.device)
        self.began = time.perf_counter()
        if number == 1:
            self.first_epoch = tensors_digest(self.learner.net.state_dict())
        if recipe.snapshots and number % recipe.snapshots == 0:
            # before the state: a run resumed from the state would not write it again
            weights, state = self.learner.net.state_dict(), self.state()
            self.together.agree(lambda: save_state(self.run.snapshot_state(number), state))
            self.together.agree(lambda: save_net(self.config, self.run.snapshot(number), weights, number))
        if number % recipe.checkpoint_epochs == 0 or number == recipe.epochs:
            self._save()
        self.together.agree(lambda: write_tables(self.run, self._rows()))
        self._tell_skipped()
        if self.together.main:
            self.progress.on_epoch(row)

    def _rows(self) -> dict[str, list[Row]]:
        return {
            "history": self.history,
            "timing": self.timing,
            "tests": self.tests,
            "test_timing": self.test_timing,
        }
