"""A finished training goes on for more epochs where its rates allow it, to the bits of one that was never shorter."""

import pytest
import torch

from stillpoint.core.base.errors import UserError
from stillpoint.core.runs.checkpoint import read_tensors
from stillpoint.core.training.schedule import rate
from tests.core.tiny import Notes, configuration, run_in, trained

CONSTANT = ("TRAIN.SCHEDULE", "multistep", "TRAIN.MILESTONES", "[1, 3]")
SCHEDULES = ("constant", "step", "multistep", "cosine", "linear", "one_cycle")


@pytest.mark.parametrize("stopped", [2, 3])
def test_more_epochs_end_in_the_bits_of_a_training_that_was_never_shorter(tmp_path, stopped: int) -> None:
    whole = trained(tmp_path / "whole", *CONSTANT, "TRAIN.EPOCHS", "5")
    trained(tmp_path / "part", *CONSTANT, "TRAIN.EPOCHS", str(stopped))
    run = run_in(tmp_path / "part")
    run.metrics.write_text("{}")
    progress = Notes()
    assert trained(tmp_path / "part", *CONSTANT, "TRAIN.EPOCHS", "5", progress=progress) == whole
    assert f"training is lengthened from {stopped} to 5 epochs" in progress.notes
    assert not run.metrics.exists(), "what was measured of other weights is gone"
    one, other = (read_tensors(run_in(tmp_path / name).weights)[0] for name in ("whole", "part"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert run.history.read_text() == run_in(tmp_path / "whole").history.read_text()


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_a_schedule_that_has_ended_is_the_reason(tmp_path, schedule: str) -> None:
    trained(tmp_path, "TRAIN.SCHEDULE", schedule, "TRAIN.EPOCHS", "2")
    before = run_in(tmp_path).weights.read_bytes()
    said = f"a run of 2 epochs, and the {schedule} schedule over 3 has other rates from the first epoch on"
    with pytest.raises(UserError, match=said):
        trained(tmp_path, "TRAIN.SCHEDULE", schedule, "TRAIN.EPOCHS", "3")
    assert run_in(tmp_path).weights.read_bytes() == before


def test_images_that_would_have_been_larger_are_the_reason(tmp_path) -> None:
    pairs = (*CONSTANT, "TRAIN.SIDES", "[5, 8]", "TRAIN.EPOCHS")
    trained(tmp_path, *pairs, "2")
    with pytest.raises(UserError, match=r"2 epochs, and TRAIN\.SIDES over 3 has other sides from the first epoch on"):
        trained(tmp_path, *pairs, "3")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("per", ["epoch", "step"])
def test_the_schedules_that_may_be_lengthened_are_those_whose_rates_stay(schedule: str, per: str) -> None:
    pairs = ("TRAIN.SCHEDULE", schedule, "TRAIN.SCHEDULE_PER", per, "TRAIN.STEP_EPOCHS", "2", "TRAIN.MILESTONES", "[2]")
    short, long = (configuration(*pairs, "TRAIN.EPOCHS", epochs).train for epochs in ("4", "7"))
    places = [(epoch, step) for epoch in range(4) for step in range(5)]
    same = all(rate(short, *place, 5) == rate(long, *place, 5) for place in places)
    assert short.open_ended == long.open_ended == same


def test_fewer_epochs_and_other_settings_are_refused(tmp_path) -> None:
    trained(tmp_path, *CONSTANT, "TRAIN.EPOCHS", "2")
    with pytest.raises(UserError, match=r"other settings \(TRAIN\.EPOCHS: 2 -> 1\)"):
        trained(tmp_path, *CONSTANT, "TRAIN.EPOCHS", "1")
    with pytest.raises(UserError, match=r"other settings \(TRAIN\.LR: .*\)"):
        trained(tmp_path, *CONSTANT, "TRAIN.EPOCHS", "3", "TRAIN.LR", "0.3")
    assert run_in(tmp_path).weights.is_file()


def test_results_without_their_state_cannot_be_lengthened(tmp_path) -> None:
    trained(tmp_path, *CONSTANT, "TRAIN.EPOCHS", "2")
    for path in run_in(tmp_path).folder.glob("state*"):
        path.unlink()
    with pytest.raises(UserError, match="a run of 2 epochs without the state"):
        trained(tmp_path, *CONSTANT, "TRAIN.EPOCHS", "3")
    assert run_in(tmp_path).weights.is_file()
