"""From folders to a table: what no paper names is left out, and a damaged file leaves every file as it was."""

import csv
import json
from pathlib import Path

import pytest

from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.cli import main
from stillpoint.pipelines.gathering import gather

HOSTILE = ["=cmd|' calc'", "a|b", "<img onerror=x>", "\\input{x}", "new\nline", "[/b]"]


def measured(root: Path, paper: str, recipe: str, model: str, trained: object, seed: int = 0, **more: object) -> Run:
    run = Run(paper, recipe, model, seed, root)
    run.folder.mkdir(parents=True, exist_ok=True)
    run.metrics.write_text(json.dumps({"dataset": "Digits", "trained": trained, **more}))
    return run


def test_a_folder_of_no_network_is_named_in_a_sentence_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(tmp_path, "aps", "digits", "resnet20", {"accuracy": 0.5})
    for name in HOSTILE:
        measured(tmp_path, "aps", "digits", name.replace("/", "-"), {"accuracy": 0.9})
    assert main(["table", "aps", "--results", str(tmp_path)]) == 0
    folder = tmp_path / "aps" / "digits"
    rows = list(csv.DictReader((folder / "table.csv").open()))
    assert {row["network"] for row in rows} == {"resnet20"}
    assert list(json.loads((folder / "table.json").read_text())["mean"]) == ["resnet20"]
    text = (folder / "table.md").read_text()
    (told,) = [line for line in text.splitlines() if line.startswith("Left out, because aps has no such network")]
    assert r"a\|b" in told and "&lt;img" in told and r"new\\nline" in told and "<img" not in text
    assert "<img" in capsys.readouterr().out
    assert r"\input" not in (folder / "table.tex").read_text()


def test_where_nothing_else_is_there_the_sentence_is_the_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(tmp_path, "aps", "digits", "resnet20_aps", {"accuracy": 0.5})
    assert main(["table", "aps", "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert (
        "nothing was evaluated" in said and "aps has no such network: 'resnet20_aps'" in said and said.count("\n") == 1
    )


DAMAGES = {
    "NaN": ({"accuracy": float("nan")}, {}, "cannot be read (NaN is not a JSON number): evaluate the run again"),
    "infinity": (
        {"accuracy": float("inf")},
        {},
        "cannot be read (Infinity is not a JSON number): evaluate the run again",
    ),
    "text": ({"accuracy": "high"}, {}, "trained.accuracy is high, not a finite number"),
    "a list": ({"accuracy": [0.5]}, {}, "not a finite number"),
    "yes": ({"accuracy": True}, {}, "trained.accuracy is True, not a finite number"),
    "nothing": ({"accuracy": None}, {}, "trained.accuracy is None, not a finite number"),
    "no object": ([0.5], {}, "is not a run's metrics"),
    "settings": ({"accuracy": 0.5}, {"evaluate": [1]}, "evaluate is not an object"),
    "data set": ({"accuracy": 0.5}, {"dataset": 3}, "dataset is not text or an object"),
    "untrained": ({"accuracy": 0.5}, {"untrained": "x"}, "untrained is not an object"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_metrics_are_one_sentence_and_every_file_stays_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    for model in ("R18C", "R18wyC_mod"):
        measured(tmp_path, "wavelet_twins", "cifar10_demo", model, {"accuracy": 0.5})
    words = ["table", "wavelet_twins", "--recipe", "cifar10_demo", "--results", str(tmp_path)]
    assert main(words) == 0
    folder = tmp_path / "wavelet_twins" / "cifar10_demo"
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert {path.name for path in before} >= {"table.csv", "table.md", "table.tex", "table.json", "classifiers.md"}
    trained, more, sentence = DAMAGES[damage]
    measured(tmp_path, "wavelet_twins", "cifar10_demo", "R18C", {"accuracy": 0.75})
    measured(tmp_path, "wavelet_twins", "cifar10_demo", "R18wyC_mod", trained, **more)
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1 and "Traceback" not in said
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_page_that_cannot_be_made_leaves_the_table_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = measured(tmp_path, "sdnet", "digits", "resnet18", {"accuracy": 0.5})
    assert main(["table", "sdnet", "--results", str(tmp_path)]) == 0
    before = (tmp_path / "sdnet" / "digits" / "table.csv").read_bytes()
    measured(tmp_path, "sdnet", "digits", "resnet18", {"accuracy": 0.75})
    run.maps.write_bytes(b"torn")
    assert main(["table", "sdnet", "--results", str(tmp_path)]) == 2
    assert "maps.safetensors is truncated or damaged" in capsys.readouterr().err
    assert (tmp_path / "sdnet" / "digits" / "table.csv").read_bytes() == before


@pytest.mark.parametrize("title", ["a [/b] title", "[red]a[/red]", "a\nb | c"])
def test_a_title_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str], title: str) -> None:
    measured(tmp_path, "aps", "digits", "resnet20", {"accuracy": 0.5}, dataset={"title": title})
    assert main(["table", "aps", "--results", str(tmp_path)]) == 0
    assert title.replace("\n", " ") in " ".join(capsys.readouterr().out.split("\n")[:2])
    assert gather("aps", "digits", tmp_path, None, []).table.title.startswith(title)


def test_missing_seeds_are_refused_with_those_that_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (3, 11):
        run = measured(tmp_path, "aps", "digits", "resnet20", {"accuracy": 0.9}, seed=seed)
    assert main(["table", "aps", "--results", str(tmp_path), "--seeds", "3"]) == 2
    said = capsys.readouterr().err
    assert "of seeds 0 to 2 (there are seed3, seed11, which --seeds 12 would include)" in said
    absent = str(run.folder.with_name("seed0"))
    for words in (["evaluate", absent], ["release", absent], ["maximise", absent, "--class", "1"], ["explain", absent]):
        assert main(words) == 2
        assert "(there are seed3, seed11)" in capsys.readouterr().err, words
