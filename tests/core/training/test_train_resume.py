"""A run that was stopped, killed or damaged ends in the same bits as one that was left alone, or says why not."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.interrupt import Interrupted, locked
from stillpoint.core.runs.checkpoint import load_state, previous
from stillpoint.core.runs.provenance import device_name, processor_name
from stillpoint.core.training import loop
from stillpoint.core.training.train import Progress, TrainHooks
from tests.core.tiny import Net, Notes, configuration, loaders_of, run_in, trained

REPOSITORY = Path(__file__).resolve().parents[3]


class StopAfter(Progress):
    """Sends this process a signal after so many steps."""

    def __init__(self, steps: int, number: int = signal.SIGTERM) -> None:
        self.left, self.number = steps, number

    def on_step(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


def equal(a: object, b: object) -> bool:
    """Bitwise, through dictionaries and lists."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(equal, a, b))
    return a == b


def assert_same_run(one, other) -> None:
    a, b = run_in(one), run_in(other)
    assert a.weights.read_bytes() == b.weights.read_bytes()
    assert a.history.read_bytes() == b.history.read_bytes()
    states = [load_state(run.state)[0] for run in (a, b)]
    for state in states:
        state.pop("timing")
    assert equal(*states)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    root = tmp_path_factory.mktemp("whole")
    trained(root)
    return root


def test_two_runs_are_bitwise_equal(tmp_path, whole):
    trained(tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_run_names_each_processor_that_worked_on_it(tmp_path, monkeypatch):
    for steps, processor in ((2, "one"), (1, "one"), (3, "other")):
        monkeypatch.setattr(loop, "device_name", lambda device, processor=processor: processor)
        with pytest.raises(Interrupted):
            trained(tmp_path, progress=StopAfter(steps))
    trained(tmp_path)
    assert json.loads(run_in(tmp_path).training.read_text())["processors"] == ["one", "other"]


def test_a_processor_is_named_with_its_instructions(monkeypatch):
    for tiles, widest in ((True, "AMX"), (False, torch.backends.cpu.get_cpu_capability())):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda tiles=tiles: tiles)
        name = device_name(torch.device("cpu"))
        assert name.startswith(f"{processor_name()} ({widest}), ") and name.endswith(("thread", "threads"))


@pytest.mark.parametrize("stops", [(1,), (4,), (6, 1), (11,), (12,), (2, 3, 5)])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, whole, stops):
    for steps in stops:
        with pytest.raises(Interrupted, match="the same command resumes") as caught:
            trained(tmp_path, progress=StopAfter(steps))
        assert caught.value.signal == signal.SIGTERM
        assert not run_in(tmp_path).weights.exists()
    trained(tmp_path)
    assert_same_run(tmp_path, whole)


def test_ctrl_c_stops_as_a_termination_does(tmp_path, whole):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as caught:
        trained(tmp_path, progress=StopAfter(7, signal.SIGINT))
    assert caught.value.signal == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
    trained(tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_stop_during_validation_loses_nothing(tmp_path, whole):
    config = configuration()
    made = loaders_of(config)

    def stopping(device, rank, world_size):
        found = made(device, rank, world_size)
        validation = found.validation.epoch

        def epoch(number, start_step=0):
            for batch in validation(number, start_step):
                os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        found.validation.epoch = epoch
        return found

    with pytest.raises(Interrupted, match="after step 4 of 4"):
        trained(tmp_path, loaders=stopping)
    trained(tmp_path)
    assert_same_run(tmp_path, whole)


def test_rare_checkpoints_resume_exactly_too(tmp_path):
    pairs = ("TRAIN.CHECKPOINT_EPOCHS", "2", "TRAIN.SNAPSHOTS", "1", "TRAIN.OPTIMIZER", "adam", "TRAIN.LR", "0.01")
    trained(tmp_path / "whole", *pairs)
    first, _ = load_state(previous(run_in(tmp_path / "whole").state))
    assert first["epoch"] == 2

    class Crash(Progress):
        def on_step(self, epoch, step, *_):
            if (epoch, step) == (2, 3):
                raise MemoryError("as a process that dies")

    with pytest.raises(MemoryError):
        trained(tmp_path / "cut", *pairs, progress=Crash())
    trained(tmp_path / "cut", *pairs)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    snapshots = [
        [path.read_bytes() for path in sorted(run_in(tmp_path / name).snapshot(1).parent.glob("*.safetensors"))]
        for name in ("whole", "cut")
    ]
    assert len(snapshots[0]) == 3 and snapshots[0] == snapshots[1]


def test_a_killed_process_goes_on_to_the_same_bits(tmp_path, whole):
    command = [sys.executable, "-m", "tests.core.tiny", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            if line.split() == ["2", "2"]:
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    (run_in(tmp_path).folder / ".state.0123abcd.tmp.pt").write_bytes(b"what it was writing")
    trained(tmp_path)
    assert not list(run_in(tmp_path).folder.glob("*.tmp*"))
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-20], lambda b: b"", lambda b: b[:900] + bytes([b[900] ^ 1]) + b[901:]]
)
def test_a_damaged_state_costs_one_checkpoint(tmp_path, whole, damage):
    with pytest.raises(Interrupted):
        trained(tmp_path, progress=StopAfter(10))
    state = run_in(tmp_path).state
    state.write_bytes(damage(state.read_bytes()))
    progress = Notes()
    trained(tmp_path, progress=progress)
    assert "the previous state is used" in progress.notes[0]
    assert_same_run(tmp_path, whole)


def test_a_finished_run_is_not_trained_again(tmp_path, whole):
    run, progress = run_in(whole), Notes()
    before = run.weights.stat().st_mtime_ns, run.training.read_bytes()

    def never(config):
        raise AssertionError("a network was built")

    rows = trained(whole, network=never, progress=progress)
    assert len(rows) == 3 and not progress.steps and "nothing is trained again" in progress.notes[-1]
    assert (run.weights.stat().st_mtime_ns, run.training.read_bytes()) == before


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x")])
def test_lost_results_of_a_finished_run_come_from_its_state(tmp_path, whole, damage):
    trained(tmp_path)
    damage(run_in(tmp_path).weights)
    progress = Notes()
    trained(tmp_path, progress=progress)
    assert not progress.steps
    assert_same_run(tmp_path, whole)


def test_results_that_came_without_a_state_are_finished(tmp_path):
    rows = trained(tmp_path)
    run = run_in(tmp_path)
    run.state.unlink()
    previous(run.state).unlink()
    progress = Notes()
    assert trained(tmp_path, progress=progress) == rows
    assert not progress.steps


def test_starting_anew_removes_what_was_there(tmp_path, whole):
    trained(tmp_path, "TRAIN.LR", "0.01", "TRAIN.SNAPSHOTS", "1")
    trained(tmp_path, resume=False)
    assert not list(run_in(tmp_path).snapshot(1).parent.iterdir())
    assert_same_run(tmp_path, whole)


def test_other_settings_are_refused_and_named(whole):
    with pytest.raises(UserError, match=r"TRAIN\.LR: 0\.1 -> 0\.05"):
        trained(whole, "TRAIN.LR", "0.05")


def test_how_a_run_is_measured_may_change(tmp_path):
    trained(tmp_path)
    progress = Notes()
    trained(tmp_path, "EVALUATE.METRICS", "[accuracy, circular]", "EVALUATE.REPEATS", "9", progress=progress)
    assert not progress.steps


def test_other_images_are_refused(tmp_path):
    with pytest.raises(Interrupted):
        trained(tmp_path, progress=StopAfter(5))
    with pytest.raises(UserError, match="other images"):
        trained(tmp_path, loaders=loaders_of(configuration(), count=51))


def test_a_second_process_is_refused(tmp_path):
    with (
        locked(run_in(tmp_path).lock),
        pytest.raises(UserError, match=f"in use by another process .process {os.getpid()}"),
    ):
        trained(tmp_path)
    trained(tmp_path)


def test_a_foreign_state_is_refused(tmp_path):
    run = run_in(tmp_path)
    run.folder.mkdir(parents=True)
    torch.save({"model": {}}, run.state)
    with pytest.raises(UserError, match="not a run's state"):
        trained(tmp_path)


@pytest.mark.parametrize("cause", ["images", "penalty"])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tmp_path, cause):
    calls = []

    def penalty(net):
        calls.append(1)
        return net.fc.weight.sum() * (math.nan if cause == "penalty" and len(calls) == 11 else 0)

    def poisoned(device, rank, world_size):
        found = loaders_of(configuration())(device, rank, world_size)
        ordinary = found.train.epoch

        def epoch(number, start_step=0):
            for batch in ordinary(number, start_step):
                bad = cause == "images" and (number, batch.step) == (2, 2)
                yield batch._replace(images=batch.images * math.inf) if bad else batch

        found.train.epoch = epoch
        return found

    with pytest.raises(UserError, match="nan in epoch 3 at step 3 of 4"):
        trained(tmp_path, loaders=poisoned, hooks=TrainHooks(penalty=penalty))
    state, _ = load_state(run_in(tmp_path).state)
    assert (state["epoch"], state["step"]) == (2, 0)
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    assert not run_in(tmp_path).weights.exists()


def test_a_full_disk_is_told_and_the_run_goes_on_later(tmp_path, whole, monkeypatch):
    ordinary = torch.save

    def full(state, path):
        if state["epoch"] == 2:
            raise OSError(28, os.strerror(28))
        ordinary(state, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="the disk is full"):
        trained(tmp_path)
    monkeypatch.undo()
    trained(tmp_path)
    assert_same_run(tmp_path, whole)


def test_it_stops_within_seconds(tmp_path):
    began = time.perf_counter()
    with pytest.raises(Interrupted):
        trained(tmp_path, "TRAIN.EPOCHS", "100000", progress=StopAfter(1))
    assert time.perf_counter() - began < 5


class Fitted(Net):
    """Its convolution is fitted to the images, and then stays."""

    def whiten(self, images: torch.Tensor) -> None:
        with torch.no_grad():
            self.conv.weight.copy_(images.mean((0, 1))[:3, :3] * torch.arange(1, 5)[:, None, None, None])
        self.conv.weight.requires_grad_(False)


def fitted(config):
    torch.manual_seed(config.seed)
    return Fitted()


FAST = ("TRAIN.WHITEN", "20", "TRAIN.SIDES", "[5, 8]", "TRAIN.BIAS_RATE", "8", "TRAIN.SCHEDULE", "linear")


@pytest.mark.parametrize("stops", [(2,), (7, 2)])
def test_a_fast_recipe_goes_on_to_the_same_bits(tmp_path, stops):
    trained(tmp_path / "whole", *FAST, network=fitted)
    for steps in stops:
        with pytest.raises(Interrupted):
            trained(tmp_path / "cut", *FAST, network=fitted, progress=StopAfter(steps))
    trained(tmp_path / "cut", *FAST, network=fitted)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_fitted_layer_stays_as_it_was_fitted(tmp_path):
    seen = []

    def kept(config):
        seen.append(fitted(config))
        return seen[-1]

    trained(tmp_path, *FAST, network=kept)
    want = fitted(configuration())
    config = configuration()
    want.whiten(loaders_of(config)(torch.device("cpu"), 0, 1).train.sample(20))
    assert torch.equal(seen[0].conv.weight, want.conv.weight) and not seen[0].conv.weight.requires_grad


def test_images_are_shrunk_in_the_first_epochs_alone(tmp_path):
    seen = []

    def watching(config):
        net = Net()
        net.register_forward_pre_hook(lambda module, args: seen.append((module.training, args[0].shape[-1])))
        return net

    trained(tmp_path, "TRAIN.SIDES", "[5, 8, 8]", network=watching)
    assert [side for training, side in seen if training] == [5] * 4 + [8] * 8
    assert {side for training, side in seen if not training} == {8}
