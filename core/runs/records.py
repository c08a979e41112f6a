"""What training writes to a run's folder, when it may resume from there, and how it reports progress.

All files are written whole. history.csv holds only what every repetition reproduces; seconds are in timing.csv.
"""

import csv
import io
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from shutil import copyfile
from typing import Any, Protocol

import torch
import yaml
from safetensors.torch import save as serialize
from torch import Tensor, nn

from stillpoint.core.base.documents import read_json, read_numbers
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import atomic_path, sweep, write_atomic, write_json
from stillpoint.core.base.interrupt import locked
from stillpoint.core.base.words import counted
from stillpoint.core.config.merge import read_settings
from stillpoint.core.config.schema import RunConfig, changed
from stillpoint.core.runs.checkpoint import load_state, previous, read_tensors, save_weights
from stillpoint.core.runs.layout import Run
from stillpoint.core.runs.provenance import provenance

Row = dict[str, float | None]

HISTORY = ("epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
TIMING = ("epoch", "seconds", "images_per_second")
TEST_HISTORY = ("epoch", "test_loss", "correct", "images", "test_accuracy")
TEST_TIMING = ("epoch", "seconds")
#: of many faults at once, so many are reported one by one
TOLD = 10


class Progress:
    """Receives the progress of training; override what you show. All numbers are of the writing process."""

    def on_note(self, sentence: str) -> None:
        """Something the user should know, in a sentence."""

    def on_step(self, epoch: int, step: int, steps: int, loss: float, images_per_second: float) -> None:
        """Step `step` (from 1) of `steps` in epoch `epoch` (from 1) is done; on a GPU not every step is reported."""

    def on_epoch(self, row: Row) -> None:
        """An epoch is done; `row` is its row of the history."""


class Record(Protocol):
    """What a paper records of every update: part of a run's state, and ``record.safetensors`` when training ends."""

    def update(self, net: nn.Module) -> None:
        """Called when the gradients of a step are complete, before the optimiser's step."""

    def state(self) -> dict[str, Tensor]:
        """Everything recorded so far, on the CPU."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continues from a `state`."""


def resumable(config: RunConfig, run: Run, progress: Progress) -> dict[str, Any] | None:
    """The state to resume from, None to begin; `UserError` if the folder holds a run with other settings."""
    sweep(run.folder)
    if run.config.exists():
        _same_settings(run, read_settings(run.config), config, longer=True)
    state, sentence = load_state(run.state)
    if sentence:
        note(run, progress, sentence)
    if state is not None:
        _same_settings(run, state["settings"], config, longer=True)
        _lengthen(run, state, config, progress)
    elif run.weights.exists() and run.training.exists() and run.config.exists():
        # more epochs need a state
        _same_settings(run, read_settings(run.config), config)
        # finished results without their state (dvc pull) count as finished
        return {"epoch": config.train.epochs, "history": read_history(run.history), "data": _trained_on(run)}
    return state


def _trained_on(run: Run) -> str | None:
    """The digest of a finished run's images; None if train.json does not say."""
    with suppress(UserError):
        return read_json(run.training, of=dict).get("data_digest")
    return None


def clear(run: Run) -> None:
    """Removes everything but the log from a run's folder; the caller holds its lock."""
    # the results that mark it finished go first, and its configuration last
    results = run.metrics, run.maps, run.training, run.weights, *_tables(run)
    snapshots = [*run.snapshot(0).parent.glob("*.safetensors"), *run.snapshot_state(0).parent.glob("*.pt")]
    results = *results, run.scores, run.record, run.verified, *run.folder.glob("measured/*")
    for path in (*results, *snapshots, run.state, previous(run.state), run.card, run.page, run.code, run.config):
        path.unlink(missing_ok=True)


def rewind(config: RunConfig, run: Run, epoch: int, progress: Progress) -> None:
    """Takes a run back to its snapshot after `epoch` epochs, so that training resumes from there as it did then.

    Later snapshots and all results are removed. `UserError` for another configuration, and for a missing snapshot,
    naming those that exist.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    with locked(run.lock):
        kept = [number for number in run.snapshots() if run.snapshot_state(number).is_file()]
        if epoch not in kept:
            there = f"it has {', '.join(f'e{n}' for n in kept)}" if kept else "it has none (see TRAIN.SNAPSHOTS)"
            raise UserError(f"{run.folder} has no snapshot of epoch {epoch} to resume from: {there}")
        state, _ = load_state(run.snapshot_state(epoch))
        assert state is not None
        _same_settings(run, state["settings"], config)
        # train.json goes first: after a crash on the way the run resumes, from here or later
        results = run.training, run.metrics, run.maps, run.scores, run.weights, run.record
        for path in (*results, *run.folder.glob("measured/*")):
            path.unlink(missing_ok=True)
        for number in run.snapshots():
            if number > epoch:
                run.snapshot(number).unlink(missing_ok=True)
                run.snapshot_state(number).unlink(missing_ok=True)
        previous(run.state).unlink(missing_ok=True)
        with atomic_path(run.state) as temporary:
            copyfile(run.snapshot_state(epoch), temporary)
        write_tables(run, state)
        note(run, progress, f"taken back to the snapshot of epoch {epoch}")


def _tables(run: Run) -> tuple[Path, ...]:
    return run.history, run.timing, run.test_history, run.test_timing


def write_tables(run: Run, rows: Mapping[str, list[Row]]) -> None:
    """Writes the tables that grow with the epochs from the rows in a run's state; test passes only if there are any."""
    write_rows(run.history, HISTORY, rows["history"])
    write_rows(run.timing, TIMING, rows["timing"])
    if rows["tests"]:
        write_rows(run.test_history, TEST_HISTORY, rows["tests"])
        write_rows(run.test_timing, TEST_TIMING, rows["test_timing"])


def read_history(path: Path) -> list[Row]:
    """The rows of a history.csv, empty cells as None. Raises `UserError` if it is missing or damaged."""
    remedy = "remove the run's folder and train it again"
    rows = read_numbers(path, ("epoch",), remedy=remedy)
    for row in rows:
        if row["epoch"] != int(row["epoch"]):
            raise UserError(f"{path} cannot be read (a row is of epoch {row['epoch']}): {remedy}")
    return [{**row, "epoch": int(row["epoch"])} for row in rows]


def _same_settings(run: Run, there: dict[str, Any], config: RunConfig, *, longer: bool = False) -> None:
    """Raises `UserError` if deciding settings differ from those `there`; with `longer`, epochs may have been added."""
    found = changed(there, config)
    epochs, asked = epochs_of(there), config.train.epochs
    if epochs is not None and 0 < epochs < asked:
        said = f"TRAIN.EPOCHS: {epochs} -> {asked}"
        if found == [said] and not config.train.open_ended:
            raise UserError(
                f"{run.folder} holds a run of {counted(epochs, 'epoch')}, and {_moving(config)} over {asked} has other "
                f"{'sides' if config.train.sides else 'rates'} from the first epoch on: replace it (--anew), or train "
                "elsewhere (--results DIR)"
            )
        if found == [said] and not longer:
            raise UserError(
                f"{run.folder} holds a run of {counted(epochs, 'epoch')} without the state to resume from: replace it "
                "(--anew), or train elsewhere (--results DIR)"
            )
        found = [line for line in found if line != said or not longer]
    if found:
        raise UserError(
            f"{run.folder} holds a run with other settings ({'; '.join(found)}): replace it (--anew), or train "
            "elsewhere (--results DIR)"
        )


def _moving(config: RunConfig) -> str:
    return "TRAIN.SIDES" if config.train.sides else f"the {config.train.schedule} schedule"


def epochs_of(settings: dict[str, Any]) -> int | None:
    """TRAIN.EPOCHS of a dumped configuration; None if it does not say."""
    train = settings.get("TRAIN")
    found = train.get("EPOCHS") if isinstance(train, dict) else None
    return found if isinstance(found, int) else None


def _lengthen(run: Run, state: dict[str, Any], config: RunConfig, progress: Progress) -> None:
    """Removes the results of a training to which epochs are added."""
    before = epochs_of(state["settings"])
    if before is None or before >= config.train.epochs:
        return
    # metrics.json and train.json, which mark it finished, go first
    results = run.metrics, run.maps, run.training, run.weights, run.scores, run.record
    for path in (*results, *run.folder.glob("measured/*")):
        path.unlink(missing_ok=True)
    note(run, progress, f"training is lengthened from {before} to {config.train.epochs} epochs")


def write_config(config: RunConfig, run: Run) -> None:
    """Writes the resolved configuration, unless the file says the same already."""
    text = yaml.safe_dump(config.dump(), sort_keys=False)
    if not run.config.exists() or run.config.read_text(encoding="utf-8", errors="replace") != text:
        write_atomic(run.config, text)


def note(run: Run, progress: Progress, sentence: str) -> None:
    """Adds a sentence to the log, with the time, and passes it to `progress`."""
    # a log that cannot be written (a full disk) must not hide the sentence
    with suppress(OSError), run.log.open("a", encoding="utf-8") as log:
        log.write(f"{datetime.now().isoformat(timespec='seconds')} {sentence}\n")
    progress.on_note(sentence)


@contextmanager
def crash_in_log(run: Run) -> Iterator[None]:
    """Also writes the traceback of a bug to the run's log."""
    try:
        yield
    except UserError:
        raise
    except Exception:
        with suppress(OSError), run.log.open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now().isoformat(timespec='seconds')} {traceback.format_exc()}")
        raise


def write_rows(path: Path, columns: tuple[str, ...], rows: list[Row]) -> None:
    """Writes rows as csv: numbers in the shortest form that reads back the same, None as an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())


def model_name(config: RunConfig) -> str:
    """The full name of a run's network: pipeline/model."""
    return f"{config.pipeline}/{config.model.name}"


def save_net(config: RunConfig, path: Path, state_dict: dict[str, Tensor], epoch: int) -> None:
    """Writes a run's weights after `epoch` epochs, with metadata that describes them."""
    about: dict[str, Any] = {"model": model_name(config), "config_digest": config.digest(), "dataset": config.data.name}
    save_weights(path, state_dict, **about, seed=config.seed, epoch=epoch)


def weights_of(state: dict[str, Any]) -> dict[str, Tensor]:
    """The last weights in a training's state: their moving average, if the recipe has one."""
    return state["average"] if "average" in state else state["model"]


def finish(config: RunConfig, run: Run, state: dict[str, Any], device: torch.device, progress: Progress) -> None:
    """Writes the results of a run whose last epoch is done, unless complete ones exist."""
    epochs = state["epoch"]
    if run.weights.exists() and run.training.exists():
        try:
            read_tensors(run.weights)
        except UserError:
            if "model" not in state:
                raise
        else:
            note(run, progress, f"{run.folder} is finished ({counted(epochs, 'epoch')}): nothing is trained again")
            return
    best = state["best"]
    kept, weights = (best["epoch"], best["model"]) if best else (epochs, weights_of(state))
    write_config(config, run)
    write_tables(run, state)
    if state.get("record"):
        write_atomic(run.record, serialize(state["record"]))
    save_net(config, run.weights, weights, kept)
    seconds = sum(row["seconds"] for row in state["timing"])
    about = {"model": model_name(config), "epochs": epochs, "kept_epoch": kept}
    about |= {"first_epoch": state.get("first_epoch"), "codes": state.get("codes", [])}
    about |= {"processors": state.get("processors", [])}
    origin = provenance(config, state["data"], device, seconds, state.get("data_order", ""))
    write_json(run.training, {**about, **origin})
    note(
        run,
        progress,
        f"training is finished: {counted(epochs, 'epoch')} in {seconds:.1f} s; the weights of epoch {kept} are kept",
    )
