"""A run's moments on the command line: back to a snapshot and on from there exactly, and each of them measured."""

import json
from pathlib import Path

import pytest

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.cli import main

NAME = "wavelet_twins/R18C"
SHORT = ["DATA.LIMIT", "16", "DATA.VALIDATION", "40", "TRAIN.EPOCHS", "3", "TRAIN.BATCH_SIZE", "8"]
SHORT += ["TRAIN.SNAPSHOTS", "1", "TRAIN.KEEP", "best"]
FAST = ["DATA.LIMIT", "16", "EVALUATE.METRICS", "['accuracy','shifts']"]
FAST += ["EVALUATE.LIMIT_SHIFTS", "4", "EVALUATE.KL_SHIFT", "1", "EVALUATE.FLIP_SHIFT", "1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    assert train(root) == 0
    return root


def run_in(root: Path) -> Run:
    return Run("wavelet_twins", "digits", "R18C", 0, root)


def train(root: Path, *more: str) -> int:
    return main(["train", NAME, "--results", str(root), "--data", str(root / "data"), "--threads", "1", *more, *SHORT])


def evaluate(root: Path, *more: str) -> int:
    words = [str(run_in(root).folder), "--data", str(root / "data"), "--threads", "1"]
    return main(["evaluate", *words, *more, *FAST])


def test_every_moment_is_measured_and_kept_apart(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_in(root)
    found = {}
    for status in ("e1", "e2", "e3", "checkpoint"):
        assert evaluate(root, "--status", status) == 0
        assert f"seed 0, {status}" in capsys.readouterr().out and not run.metrics.exists()
        found[status] = json.loads(run.at(status).metrics.read_text())
    assert [found[f"e{k}"]["epoch"] for k in (1, 2, 3)] == [1, 2, 3]
    assert found["e3"]["trained"] == found["checkpoint"]["trained"]
    assert len({json.dumps(found[f"e{k}"]["trained"]) for k in (1, 2, 3)}) == 3
    assert evaluate(root, "--status", "best") == 0 and run.metrics.is_file()
    best = pipelines.load(NAME, results=root, status="best")
    assert best.metrics == found[f"e{best.epoch}"]["trained"]
    for status in found:
        moment = pipelines.load(NAME, results=root, status=status)
        assert moment.metrics == found[status]["trained"]
        score = moment.scores["digits"]["test"]["onecrop"]["top1_accuracy_score"]
        assert score["value"] == found[status]["trained"]["accuracy"]
    capsys.readouterr()
    for status, sentence in {
        "e7": "has no snapshot e7",
        "newest": "status must be weights, checkpoint",
    }.items():
        assert evaluate(root, "--status", status) == 2
        told = capsys.readouterr().err
        assert sentence in told and "has weights, checkpoint, e1, e2, e3" in told


def test_training_goes_on_from_a_snapshot_as_it_did_then(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_in(root)
    files = [run.weights, run.history, *(run.snapshot(k) for k in (1, 2, 3))]
    before = [path.read_bytes() for path in files]
    assert train(root, "--from-epoch", "7") == 2
    assert "no snapshot of epoch 7 to resume from: it has e1, e2, e3" in capsys.readouterr().err
    assert [path.read_bytes() for path in files] == before
    measured = run.at("e2").metrics
    assert evaluate(root, "--status", "e2") == 0 and measured.is_file()
    capsys.readouterr()
    assert train(root, "--from-epoch", "1") == 0
    out = capsys.readouterr().out
    assert "taken back to the snapshot of epoch 1" in out and "epoch 2/3" in out and "epoch 1/3" not in out
    assert [path.read_bytes() for path in files] == before
    # what was measured of weights that are no more is gone with them
    assert not measured.exists()


def test_the_recipe_may_be_left_out_where_there_is_one(root: Path, tmp_path: Path) -> None:
    from shutil import copytree

    copytree(run_in(root).folder, tmp_path / "wavelet_twins/cifar10/R18C/seed0")
    assert pipelines.load(NAME, results=tmp_path, status="e2").run.recipe == "cifar10"
    copytree(run_in(root).folder, tmp_path / "wavelet_twins/digits/R18C/seed0")
    assert pipelines.load(NAME, recipe="digits", results=tmp_path).run.recipe == "digits"
    with pytest.raises(UserError, match="R18C under cifar10, digits: choose one with recipe="):
        pipelines.load(NAME, results=tmp_path)
    with pytest.raises(UserError, match=r"digits/R18C/seed1 holds no run \(there are seed0\)"):
        pipelines.load(NAME, seed=1, results=tmp_path)
