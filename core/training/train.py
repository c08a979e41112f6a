"""Training: one run's weights from its configuration, exactly resumable at any step.

Everything random is a function of (seed, epoch, step), and the rate is one of (epoch, step). So the state that is kept
is the parameters, the optimiser's buffers, the sums of the epoch under way, and where it stood.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillpoint.core.base.device import pick, settings
from stillpoint.core.base.device import seed as seed_generators
from stillpoint.core.base.distributed import Group, group, share_statistics
from stillpoint.core.base.errors import UserError, listed
from stillpoint.core.base.interrupt import Interrupted, StopRequest, locked
from stillpoint.core.base.randomness import seed_for
from stillpoint.core.config.schema import RunConfig, TrainConfig
from stillpoint.core.data.build import Loader, Loaders, Part
from stillpoint.core.data.build import loaders as build_loaders
from stillpoint.core.data.streaming import told_of_readers
from stillpoint.core.runs.checkpoint import fill, not_finite, save_state, start_from
from stillpoint.core.runs.layout import Run
from stillpoint.core.runs.records import (
    HISTORY,
    TEST_HISTORY,
    TEST_TIMING,
    TIMING,
    TOLD,
    Progress,
    Record,
    Row,
    finish,
    model_name,
    note,
    resumable,
    save_net,
    write_config,
    write_tables,
)
from stillpoint.core.training.optim import optimizer
from stillpoint.core.training.schedule import rate

__all__ = ["Progress", "TrainHooks", "train"]

Config = TypeVar("Config", bound=RunConfig)

#: Steps between two looks at the loss where a look must wait for a GPU or for other processes.
_LOOK_EVERY = 50


@dataclass(frozen=True)
class TrainHooks:
    """What a paper's training does besides.

    before_forward(net)  called before every forward, in training and in validation (without gradient)
    penalty(net)         a scalar that is added to the loss of each mini-batch; not part of the history's losses
    record               told of every update between backward and the optimiser's step; see `Record`
    translate(state, net)  the tensors of TRAIN.FINETUNE under the names of `net`, where others may have written them
    """

    before_forward: Callable[[nn.Module], None] | None = None
    penalty: Callable[[nn.Module], Tensor] | None = None
    record: Record | None = None
    translate: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]] | None = None


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
) -> list[Row]:
    """Trains the network that `build` makes from `config` and leaves its results in the folder of `run`.

    Returns the rows of history.csv, one per epoch. A run that was interrupted goes on where it stood, one that is
    finished is not repeated; ``resume=False`` removes what is there and starts anew. SIGINT and SIGTERM end the current
    step, save the state and raise `Interrupted`. Under torchrun the processes share each batch. `loaders`, called with
    (device, rank, world_size), replaces the data of the configuration; `workers` read those of a data set that streams.

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
        state = together.agree(lambda: resumable(config, run, resume, progress, fault))
        if state is None or state["epoch"] < config.train.epochs:
            if loaders is None:
                # weights that are only measured need no images to train on
                parts: tuple[Part, ...] = ("train", "validation") if config.train.epochs else ("test",)
                if config.train.epochs and config.train.test_each_epoch:
                    parts = (*parts, "test")
                found = build_loaders(config, data_root, where, *together.place, parts=parts, workers=workers)
            else:
                found = loaders(where, *together.place)
            training = _Training(config, run, together, where, build, found, progress, hooks, state)
            together.agree(lambda: write_config(config, run))
            with StopRequest() as stop, told_of_readers():
                training.go(stop)
            state = training.state()
        together.agree(lambda: finish(config, run, state, where, progress))
        return state["history"]


def _attempt(work: Callable[[], object]) -> UserError | None:
    try:
        work()
    except UserError as error:
        return error
    return None


def _criterion(train: TrainConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of a batch as a sum over its images, in float32."""
    if train.label_smoothing and train.loss != "cross_entropy":
        raise UserError(f"TRAIN.LABEL_SMOOTHING belongs to the loss cross_entropy, not to {train.loss}")
    if train.clamp is not None and train.loss != "mse":
        raise UserError(f"TRAIN.CLAMP belongs to the loss mse, not to {train.loss}")
    if train.loss == "nll":
        return lambda output, labels: functional.nll_loss(output.float(), labels, reduction="sum")
    if train.loss == "mse":
        return partial(_squared_error, clamp=train.clamp)
    smoothing = train.label_smoothing
    return lambda output, labels: functional.cross_entropy(
        output.float(), labels, reduction="sum", label_smoothing=smoothing
    )


def _squared_error(output: Tensor, target: Tensor, *, clamp: float | None = None) -> Tensor:
    """Mean over an image's pixels, summed over images; `output` is first clamped to -clamp..clamp."""
    if output.shape != target.shape:
        raise UserError(
            f"TRAIN.LOSS mse needs targets of shape {tuple(output.shape[1:])}, not {tuple(target.shape[1:])}"
        )
    output = output.float()
    if clamp is not None:
        output = output.clamp(-clamp, clamp)
    return (output - target).square().flatten(1).mean(1).sum()


class _Sums:
    """Loss, hits and images of an epoch so far; the first two stay on the device."""

    def __init__(self, device: torch.device) -> None:
        # Apple's GPUs have no float64
        self.loss = torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.images = 0

    def add(self, loss: Tensor, output: Tensor, labels: Tensor) -> None:
        self.loss += loss.detach()
        if labels.dim() == 1:
            self.correct += (output.detach().argmax(1) == labels).sum()
        self.images += len(labels)

    def all(self, together: Group) -> tuple[float, int, int]:
        """(loss, correct, images) over all processes."""
        counts = torch.stack([self.correct, self.correct.new_tensor(self.images)])
        correct, images = together.sum(counts).tolist()
        return float(together.sum(self.loss)), correct, images

    def means(self, together: Group, train: TrainConfig) -> tuple[float, float | None]:
        """(loss, accuracy) over all processes; there is no accuracy where images are compared with images."""
        loss, correct, images = self.all(together)
        return loss / images, None if train.loss == "mse" else correct / images


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
    ) -> None:
        recipe = config.train
        self.config, self.run, self.together, self.device = config, run, together, device
        self.loaders, self.progress, self.hooks = loaders, progress, hooks
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
        self.criterion = _criterion(recipe)
        net = build(config)
        if recipe.finetune and state is None:
            start_from(net, recipe.finetune, model_name(config), recipe.finetune_head, hooks.translate)
        if together.world_size > 1:
            net = share_statistics(net, device)
        net = net.to(device)
        if recipe.channels_last:
            net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.net, self.optimizer = net, optimizer(recipe, net)
        self.infinite = set(not_finite(net.state_dict()))  # as the network makes them, such as a mask
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        self.validated: nn.Module = torch.compile(net) if recipe.compile else net  # type: ignore[assignment]
        self.model = together.wrap(self.validated)
        self.autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")
        self.epoch = self.step = 0
        self.sums, self.before = _Sums(device), 0.0
        self.history: list[Row] = []
        self.timing: list[Row] = []
        self.tests: list[Row] = []
        self.test_timing: list[Row] = []
        self.best: dict[str, Any] | None = None
        self.told: set[str] = set()
        self.look_every = 1 if device.type == "cpu" and together.world_size == 1 else _LOOK_EVERY
        if state is not None:
            self._restore(state)

    def _restore(self, state: dict[str, Any]) -> None:
        if state["data"] != self.loaders.digest:
            raise UserError(
                f"{self.run.folder} was begun on other images than those found now: remove it to start anew"
            )
        fill(self.net, state["model"], origin=str(self.run.state), model=model_name(self.config))
        for name, buffer in state["buffers"].items():
            owner, _, leaf = name.rpartition(".")
            setattr(self.net.get_submodule(owner), leaf, buffer.to(self.device))
        self.optimizer.load_state_dict(state["optimizer"])
        if self.hooks.record is not None:
            self.hooks.record.restore(state.get("record", {}))
        self.epoch, self.step, self.before = state["epoch"], state["step"], state["seconds"]
        if self.together.main:
            loss, correct, self.sums.images = state["sums"]
            self.sums.loss.fill_(loss)
            self.sums.correct.fill_(correct)
        self.history, self.timing, self.best = state["history"], state["timing"], state["best"]
        self.tests, self.test_timing = state["tests"], state["test_timing"]
        done = f"epoch {self.epoch + 1}, step {self.step} of {self.steps}" if self.step else f"after epoch {self.epoch}"
        self._tell(f"training goes on ({done})")

    def state(self) -> dict[str, Any]:
        """All that decides how the run goes on, in plain containers; every process takes part."""
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
            "model": dict(self.net.state_dict()),
            "buffers": self._hidden(),
            "optimizer": self.optimizer.state_dict(),
            "record": {} if self.hooks.record is None else self.hooks.record.state(),
        }

    def _hidden(self) -> dict[str, Tensor]:
        """Buffers that weights leave out but the next step starts from, such as a power iteration's vector."""
        saved = self.net.state_dict()
        return {name: buffer for name, buffer in self.net.named_buffers() if name not in saved}

    def _tell(self, sentence: str) -> None:
        if self.together.main:
            note(self.run, self.progress, sentence)

    def _save(self) -> None:
        state = self.state()
        self.together.agree(lambda: save_state(self.run.state, state))

    def _tell_skipped(self) -> None:
        """Names the photographs that this process left out since it last did, and counts all."""
        parts = vars(self.loaders).values()
        found = {one for part in parts for one in getattr(part, "skipped", ())}
        for sentence in sorted(found - self.told)[:TOLD]:
            self._tell(f"left out: {sentence}")
        if found - self.told:
            self._tell(f"photographs left out so far: {len(found)}")
        self.told = found

    def go(self, stop: StopRequest) -> None:
        """Trains to the last epoch, or until `stop` is set."""
        if self.epoch == 0 and self.step == 0:
            self._tell(f"training {model_name(self.config)} on {self.loaders.title or self.config.data.name} begins")
        self.began = time.perf_counter()
        if not self.tests and not self._test(0, stop):
            self._interrupted(stop)
        while self.epoch < self.config.train.epochs:
            validated = None
            if self._train_epoch(stop):
                validated = self._validate(stop)
            if validated is None or not self._test(self.epoch + 1, stop):
                self._interrupted(stop)
            else:
                self._end_epoch(*validated)
        if not self.config.train.epochs:
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
        """The steps of the epoch that are left; False if it was stopped (the state is then at a whole step)."""
        recipe, seed, rank = self.config.train, self.config.seed, self.together.rank
        batches = iter(self.source.epoch(self.epoch, self.step * recipe.accumulate))
        self.model.train()
        losses: list[Tensor] = []
        began, seen = time.perf_counter(), self.sums.images
        while self.step < self.steps:
            for settings_of_group in self.optimizer.param_groups:
                settings_of_group["lr"] = rate(recipe, self.epoch, self.step, self.steps)
            # dropout and its like draw from torch's own generator; each process has a part of the batch of its own
            seed_generators(self.device, seed_for("step", seed, self.epoch, self.step, rank))
            losses.append(self._optimize(batches))
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

    def _optimize(self, batches: Iterator[Any]) -> Tensor:
        """One step of the optimiser; returns its loss, penalty included, on the device."""
        recipe, together = self.config.train, self.together
        shared = 1.0 if recipe.accumulate_like_authors else 1.0 / recipe.accumulate
        whole = torch.zeros((), device=self.device)
        for part in range(recipe.accumulate):
            number, images, labels, _ = next(batches)
            # a process's loss counts by its share of the global batch; the average over processes undoes world_size
            size = len(labels) if together.world_size == 1 else self.source.global_size(number)
            last = part + 1 == recipe.accumulate
            if self.hooks.before_forward is not None:
                with torch.no_grad():
                    self.hooks.before_forward(self.net)
            with torch.enable_grad() if last else together.without_sync(self.model):
                with self.autocast():
                    output = self.model(images)
                loss = self.criterion(output, labels)
                objective = loss * (shared * together.world_size / max(size, 1))
                if self.hooks.penalty is not None:
                    objective = objective + shared * self.hooks.penalty(self.net)
                objective.backward()
            self.sums.add(loss, output, labels)
            whole += objective.detach() / together.world_size
        if self.hooks.record is not None:
            self.hooks.record.update(self.net)
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return whole

    def _look(self, losses: list[Tensor], images_per_second: float) -> None:
        """Tells the progress, and stops at a loss that is not finite, before anything of it is saved."""
        if not losses:
            return
        values = self.together.sum(torch.stack(losses)).tolist()
        for number, value in enumerate(values, self.step - len(losses) + 1):
            if not math.isfinite(value):
                self._blown_up(f"the loss became {value}", number)
        losses.clear()
        if self.together.main:
            self.progress.on_step(self.epoch + 1, self.step, self.steps, values[-1], images_per_second)

    def _check_state(self) -> None:
        """Stops at a network or an optimiser that is not finite: the last step's loss was taken before the step."""
        tensors = dict(self.net.state_dict())
        for number, own in enumerate(self.optimizer.state.values()):
            tensors |= {f"the optimiser's {key} of parameter {number}": value for key, value in own.items()}
        broken = [name for name in not_finite(tensors) if name not in self.infinite]
        if self.together.largest(len(broken)):
            self._blown_up(f"{len(broken)} of {len(tensors)} tensors ({listed(broken)}) became infinite", self.step)

    def _blown_up(self, what: str, step: int) -> NoReturn:
        sentence = f"{what} in epoch {self.epoch + 1} at step {step} of {self.steps}: training stopped, and the last "
        sentence += "good state is kept; a smaller TRAIN.LR or a warm-up may help"
        self._tell(sentence)
        raise UserError(sentence)

    def _validate(self, stop: StopRequest) -> tuple[float | None, float | None] | None:
        """(loss, accuracy) on the validation images, (None, None) without any; None if it was stopped."""
        if self.loaders.validation is None:
            return None, None
        seed_generators(self.device, seed_for("validate", self.config.seed, self.epoch, self.together.rank))
        sums = self._pass(self.loaders.validation, 0, stop)
        return None if sums is None else sums.means(self.together, self.config.train)

    def _test(self, number: int, stop: StopRequest) -> bool:
        """Adds the test pass after `number` epochs, its images changed anew; False if it was stopped."""
        if not self.config.train.test_each_epoch or any(row["epoch"] == number for row in self.tests):
            return True
        assert self.loaders.test is not None
        # its seconds are its own: the epoch's clock stands still meanwhile
        began = time.perf_counter()
        seed_generators(self.device, seed_for("test", self.config.seed, number, self.together.rank))
        sums = self._pass(self.loaders.test, number, stop)
        if sums is None:
            return False
        loss, correct, images = sums.all(self.together)
        seconds = time.perf_counter() - began
        self.before -= seconds
        values = (number, loss / images, correct, images, sums.means(self.together, self.config.train)[1])
        self.tests.append(dict(zip(TEST_HISTORY, values, strict=True)))
        self.test_timing.append(dict(zip(TEST_TIMING, (number, round(seconds, 3)), strict=True)))
        return True

    def _pass(self, loader: Loader, epoch: int, stop: StopRequest) -> _Sums | None:
        """Loss and hits over a loader's images, nothing learned; None if it was stopped."""
        self.model.eval()
        sums = _Sums(self.device)
        with torch.no_grad(), self.autocast():
            for _, images, labels, _ in loader.epoch(epoch):
                if self.together.largest(stop.number):
                    return None
                if self.hooks.before_forward is not None:
                    self.hooks.before_forward(self.net)
                output = self.validated(images)
                sums.add(self.criterion(output, labels), output, labels)
        return sums

    def _end_epoch(self, val_loss: float | None, val_accuracy: float | None) -> None:
        recipe, number = self.config.train, self.epoch + 1
        if val_loss is not None and not math.isfinite(val_loss):
            self._blown_up(f"the validation loss became {val_loss}", self.step)
        lr = rate(recipe, self.epoch, self.steps - 1, self.steps)
        images = self.sums.all(self.together)[2]
        values = (number, lr, *self.sums.means(self.together, recipe), val_loss, val_accuracy)
        row: Row = dict(zip(HISTORY, values, strict=True))
        seconds = self.before + time.perf_counter() - self.began
        self.history.append(row)
        self.timing.append(dict(zip(TIMING, (number, round(seconds, 3), round(images / seconds, 1)), strict=True)))
        if recipe.keep == "best" and val_loss is not None:
            score = -val_loss if val_accuracy is None else val_accuracy
            # strictly better: of equal epochs the earlier one is kept
            if self.best is None or score > self.best["score"]:
                weights = {name: tensor.detach().cpu().clone() for name, tensor in self.net.state_dict().items()}
                self.best = {"epoch": number, "score": score, "model": weights}
        self.epoch, self.step, self.before, self.sums = number, 0, 0.0, _Sums(self.device)
        self.began = time.perf_counter()
        if recipe.snapshots and number % recipe.snapshots == 0:
            # before the state: a run that goes on from the state never comes back to make it
            weights, state = self.net.state_dict(), self.state()
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
