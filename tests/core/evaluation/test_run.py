import errno
import json
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.randomness import seed_for
from stillpoint.core.config.merge import merge
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.data.build import loader
from stillpoint.core.evaluation.run import evaluate_run
from stillpoint.core.runs.checkpoint import save_weights
from stillpoint.core.runs.layout import Run

SETTINGS = {
    "PIPELINE": "toy",
    "RECIPE": "digits",
    "SEED": 3,
    "MODEL": {"NAME": "linear"},
    "DATA": {"NAME": "digits", "LIMIT": 30},
    "TRAIN": {"KEEP": "last"},
    "EVALUATE": {"METRICS": ["accuracy", "circular", "all_shifts"], "LIMIT_ALL_SHIFTS": 1, "REPEATS": 1},
}


def settings(*pairs):
    return merge(RunConfig, [SETTINGS], list(pairs))


def build(config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("init", config.seed))
        return nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 10))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def run(tmp_path):
    own = Run("toy", "digits", "linear", 3, tmp_path / "results")
    own.folder.mkdir(parents=True)
    own.config.write_text(yaml.safe_dump(settings().dump()))
    # another initialisation stands for what training makes
    net = build(settings("SEED", "99"))
    save_weights(own.weights, net.state_dict(), model="toy/linear", config_digest=settings().digest(), epoch=1)
    return own


def measured(run, data, *pairs, **options):
    return evaluate_run(run, config=settings(*pairs), build=build, data_root=data, device="cpu", **options)


def test_a_run_is_measured_before_and_after_training(run, data):
    told = []
    first = measured(run, data, progress=lambda *step: told.append(step))
    stored = json.loads(run.metrics.read_text())
    assert stored == first
    batches = loader(settings(), "test", data)
    batch = next(iter(batches.epoch(0)))
    untrained = (build(settings())(batch.images).argmax(1) == batch.labels).double().mean()
    assert stored["untrained"]["accuracy"] == float(untrained)
    assert stored["untrained"] != stored["trained"]
    assert (stored["images"], stored["parameters"]) == (30, 10250)
    assert stored["dataset"] == batches.image_set.title
    assert stored["config_digest"] == settings().digest()
    assert stored["provenance"]["data_digest"] == batches.image_set.digest
    assert stored["evaluate"]["LIMIT_ALL_SHIFTS"] == 1
    assert load_file(run.maps)["trained/all_shifts_accuracy_map"].shape == (32, 32)
    assert {what for what, _, _ in told} >= {"untrained: images", "trained: images", "trained: all shifts"}


def test_measuring_twice_differs_in_provenance_alone(run, data):
    first, second = (measured(run, data, "EVALUATE.METRICS", "['circular','crop']") for _ in range(2))
    assert first.pop("provenance").keys() == second.pop("provenance").keys()
    assert first == second


def test_how_a_run_is_measured_can_be_changed_afterwards_and_nothing_else(run, data):
    got = measured(run, data, "EVALUATE.METRICS", "('accuracy',)", "EVALUATE.UNTRAINED", "False")
    assert "untrained" not in got
    assert set(got["trained"]) == {"accuracy", "accuracy_top5", "accuracy_standard_error"}
    assert load_file(run.maps) == {}
    with pytest.raises(UserError, match=r"TRAIN\.LR: 0\.1 -> 0\.5"):
        measured(run, data, "TRAIN.LR", "0.5")


def test_a_setting_that_is_younger_than_the_run_does_not_matter(run, data):
    older = settings().dump()
    del older["TRAIN"]["SNAPSHOTS"], older["AUGMENT"]
    run.config.write_text(yaml.safe_dump(older))
    assert measured(run, data, "EVALUATE.METRICS", "['accuracy']")["trained"]["accuracy"] >= 0


def test_a_protocol_that_the_paper_lacks_is_refused(run, data):
    with pytest.raises(UserError, match="authors"):
        measured(run, data, "EVALUATE.PROTOCOL", "authors")


def test_damaged_or_missing_files_are_told_in_a_sentence_and_nothing_is_written(run, data):
    whole = run.weights.read_bytes()
    run.weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="truncated or damaged"):
        measured(run, data, "EVALUATE.METRICS", "['accuracy']")
    run.weights.unlink()
    with pytest.raises(UserError, match="no weights"):
        measured(run, data, "EVALUATE.METRICS", "['accuracy']")
    run.config.write_text("[")
    with pytest.raises(UserError, match="damaged"):
        measured(run, data)
    run.config.unlink()
    with pytest.raises(UserError, match="holds no run"):
        measured(run, data)
    assert not run.metrics.exists() and not run.maps.exists()


def test_weights_of_another_network_are_refused(run, data):
    save_weights(run.weights, build(settings()).state_dict(), model="toy/other", config_digest="", epoch=1)
    with pytest.raises(UserError, match="toy/other"):
        measured(run, data, "EVALUATE.METRICS", "['accuracy']", "EVALUATE.UNTRAINED", "False")


def test_numbers_never_stand_beside_the_arrays_of_another_measurement(run, data, monkeypatch):
    measured(run, data)
    before, arrays, replace = run.metrics.read_bytes(), run.maps.read_bytes(), Path.replace

    def full(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as change, pytest.raises(UserError, match="the disk is full"):
        change.setattr("stillpoint.core.evaluation.run.save_file", full)
        measured(run, data, "EVALUATE.LIMIT_ALL_SHIFTS", "2")
    assert (run.metrics.read_bytes(), run.maps.read_bytes()) == (before, arrays)

    def killed(path, target):
        if Path(target) == run.metrics:
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as change, pytest.raises(KeyboardInterrupt):
        change.setattr(Path, "replace", killed)
        measured(run, data, "EVALUATE.LIMIT_ALL_SHIFTS", "2")
    assert run.maps.read_bytes() != arrays and not run.metrics.exists()


def test_a_run_that_was_made_anew_before_its_lock_was_held_is_not_measured_as_another(run, data, monkeypatch):
    @contextmanager
    def late(path):
        run.config.write_text(yaml.safe_dump(settings("TRAIN.LR", "0.5").dump()))
        yield

    monkeypatch.setattr("stillpoint.core.evaluation.run.locked", late)
    with pytest.raises(UserError, match=r"only EVALUATE\.\* can be changed for a trained run, not TRAIN\.LR"):
        measured(run, data)
    assert not run.metrics.exists()
