"""Runs that may not share a mean are refused; runs of different code that give the same bits are named."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from stillpoint.core.base.errors import UserError
from stillpoint.core.reporting.comparable import check
from stillpoint.core.reporting.tables import collect
from stillpoint.core.runs.layout import Run

SETTINGS = {"TRAIN": {"LR": 0.1, "PRECISION": "float32"}, "RECIPE": "digits", "TITLE": "a", "EVALUATE": {"REPEATS": 5}}


def run(root: Path, seed: int, model: str = "resnet20", **changed: Any) -> tuple[Run, dict[str, Any]]:
    """A run and its metrics; `changed` are parts of its three files."""
    own = Run("aps", "digits", model, seed, root)
    own.folder.mkdir(parents=True)
    train = {"codes": ["a"], "commit": "c0ffee1234567", "clean": True, "data_digest": "train", "kernels": True}
    own.training.write_text(json.dumps(train | changed.get("train", {})))
    own.config.write_text(yaml.safe_dump({**SETTINGS, "SEED": seed, **changed.get("settings", {})}))
    origin = {"data_digest": "test", "code_digest": "e", "kernels": True} | changed.get("measured", {})
    metrics = {"dataset": "Digits", "trained": {"accuracy": 0.5 + seed / 10}, "provenance": origin}
    own.metrics.write_text(json.dumps(metrics))
    return own, metrics


def test_equal_runs_share_a_mean_without_a_word(tmp_path: Path) -> None:
    assert check(dict([run(tmp_path, 0), run(tmp_path, 1), run(tmp_path, 0, "other", train={"codes": ["b"]})])) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train": {"data_digest": "others"}}, "were trained on different images"),
        ({"measured": {"data_digest": "others"}}, "were measured on different images"),
        ({"train": {"kernels": False}}, r"were trained by different arithmetic \(kernels on and off\)"),
        ({"measured": {"kernels": False}}, "were measured by different arithmetic"),
        ({"measured": {"code_digest": "f"}}, "were measured by different code"),
        ({"settings": {"TRAIN": {"LR": 0.1, "PRECISION": "bfloat16"}}}, "PRECISION: float32 -> bfloat16"),
        ({"settings": {"TRAIN": {"LR": 0.2, "PRECISION": "float32"}}}, "were trained by different settings"),
        (
            {"train": {"codes": ["b"], "commit": "decaf12345", "clean": False}},
            r"different code \(commits c0ffee1234 and decaf12345, edited\) and cannot share a mean: run stillpoint",
        ),
        ({"train": {"codes": ["a", "b"]}}, "were trained by different code"),
        ({"settings": {"SEED": 0}}, r"are both of seed 0 \(one is a copy of the other\)"),
    ],
)
def test_what_differs_is_refused(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    runs = dict([run(tmp_path, 0), run(tmp_path, 1, **changed)])
    with pytest.raises(UserError, match=said) as error:
        check(runs)
    assert "seed0 and " in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match=said):
        collect(runs, ["resnet20"])


def test_titles_and_younger_settings_do_not_keep_runs_apart(tmp_path: Path) -> None:
    younger = {"TITLE": "b", "TRAIN": {"LR": 0.1, "PRECISION": "float32", "NEW": 1}}
    assert check(dict([run(tmp_path, 0), run(tmp_path, 1, settings=younger)])) == []


def test_a_file_that_is_older_than_what_is_compared_is_not_held_against_it(tmp_path: Path) -> None:
    (old, metrics), new = run(tmp_path, 0), run(tmp_path, 1)
    old.training.write_text("{}")
    assert check(dict([(old, {**metrics, "provenance": {}}), new])) == []


def test_code_that_gives_the_same_first_epoch_shares_a_mean_and_is_named(tmp_path: Path) -> None:
    other = {"codes": ["b"], "commit": "decaf12345", "clean": True}
    first, second = run(tmp_path, 0), run(tmp_path, 1, train=other)
    first[0].verified.write_text(json.dumps({"b": {"commit": "decaf12345", "clean": True}}))
    said = "resnet20 was trained at commits c0ffee1234 and decaf12345, whose first epochs have the same bits"
    assert check(dict([first, second])) == [said]
    assert said in collect([first[0], second[0]], ["resnet20"]).notes
    # both were compared with a third
    third = run(tmp_path, 2, train={"codes": ["c"], "commit": "beef123456"})
    with pytest.raises(UserError, match="different code"):
        check(dict([first, second, third]))
    third[0].verified.write_text(json.dumps({"a": {}}))
    assert "beef123456, c0ffee1234" in check(dict([third, second, first]))[0].replace(" and ", ", ")


@pytest.mark.parametrize("content", ['{"data_digest": "oth', "[]", '{"codes": 5}', "\xff"])
def test_a_run_whose_training_is_not_told_any_more_joins_no_mean(tmp_path: Path, content: str) -> None:
    found = dict([run(tmp_path, 0), run(tmp_path, 1)])
    list(found)[1].training.write_bytes(content.encode("latin1"))
    with pytest.raises(UserError, match=r"seed1/train\.json"):
        check(found)
