"""The workflow: from data to the final table by Snakemake, and what makes it run again."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.interrupt import locked
from stillpoint.core.data.build import loader
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines import workflow
from stillpoint.pipelines.cli import main

ROOT = Path(__file__).parent.parent.parent
TINY = "TRAIN.EPOCHS 1 DATA.LIMIT 64 MODEL.WIDTH 0.25 EVALUATE.REPEATS 1 EVALUATE.LIMIT_ALL_SHIFTS 1"
MODELS = ("resnet20", "resnet20_aps1")


#: what a shell, Snakemake or a careless join would do something with
ODD = """my  results; touch INJECTED; $(touch INJECTED) `touch INJECTED` 'q" & ü *"""


def snakemake(tmp_path: Path, *words: str, folder: Path = ROOT) -> str:
    given = [f"results={tmp_path / ODD}", f"data={tmp_path / f'data {ODD}'}", "seeds=1", "device=cpu"]
    settings = f'settings=GRID "{list(MODELS)}" {TINY}'
    command = [sys.executable, "-m", "snakemake", "pipelines/aps/all", "--cores", "2", *words]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--config", *given, settings]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


def test_the_whole_workflow_ends_in_a_table_and_is_then_up_to_date(tmp_path: Path) -> None:
    snakemake(tmp_path)
    folder = tmp_path / ODD / "aps" / "digits"
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert {row["network"] for row in rows} == set(MODELS)
    exact = [r for r in rows if r["network"] == "resnet20_aps1" and r["metric"] == "circular_consistency"]
    assert {row["state"] for row in exact} == {"untrained", "trained"}
    assert all(float(row["mean"]) == 100 and float(row["paper"]) == 100 for row in exact)
    metrics = json.loads(Run("aps", "digits", "resnet20", 0, tmp_path / ODD).metrics.read_text())
    shown = next(r for r in rows if (r["network"], r["state"], r["metric"]) == ("resnet20", "trained", "accuracy"))
    assert float(shown["mean"]) == pytest.approx(100 * metrics["trained"]["accuracy"])
    for name in ("consistency_accuracy", "shift_maps", "learning_curves"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 10_000
    assert (folder / "table.md").is_file() and (folder / "table.tex").is_file()
    assert not list(ROOT.glob("INJECTED")) and sorted(path.name for path in tmp_path.iterdir()) == [f"data {ODD}", ODD]
    assert "Nothing to be done" in snakemake(tmp_path, "--dry-run")
    # a time stamp trains and measures nothing again
    run = Run("aps", "digits", "resnet20", 0, tmp_path / ODD)
    made = run.weights, run.training, run.metrics, run.maps
    before = [path.read_bytes() for path in made]
    (tmp_path / f"data {ODD}" / "prepared" / "digits.json").touch()
    assert "is finished (1 epochs): nothing is trained again" not in run.log.read_text()
    snakemake(tmp_path, "--until", "aps_train", "aps_evaluate")
    assert "is finished (1 epochs): nothing is trained again" in run.log.read_text()
    assert [path.read_bytes() for path in made] == before


def test_the_workflow_runs_in_another_folder(tmp_path: Path) -> None:
    assert "pipelines/aps/all" in snakemake(tmp_path, "--dry-run", folder=tmp_path)


def test_snakemake_beside_a_workflow_at_work_is_told_so_and_touches_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "aps" / "digits"
    command = [sys.executable, "-m", "snakemake", "pipelines/aps/all", "--cores", "1", "--nolock"]
    command += ["--snakefile", str(ROOT / "Snakefile")]
    given = ["--config", f"results={tmp_path / 'results'}", f"data={tmp_path / 'data'}", "seeds=1"]
    with locked(folder / ".lock"):
        done = subprocess.run([*command, *given], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode
        assert "digits is in use by another process (process " in done.stdout + done.stderr
        assert [path.name for path in folder.iterdir()] == [".lock"]
        # to look is always allowed
        done = subprocess.run([*command, "--dry-run", *given], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0


def test_figures_that_a_killed_command_was_drawing_are_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "aps" / "digits"
    left = [folder / ".table.0123abcd.tmp.md", folder / "figures" / ".shift_maps.0123abcd.tmp.png"]
    # a training may be writing there
    others = folder / "resnet20" / "seed0" / ".state.0123abcd.tmp.pt"
    for path in (*left, others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert main(["figures", "aps", "--results", str(tmp_path)]) == 2
    assert "nothing was evaluated" in capsys.readouterr().err
    assert not any(path.exists() for path in left) and others.exists()


def test_a_recipe_is_that_of_the_scale_where_there_is_one() -> None:
    assert workflow.choose_recipe("aps", "cifar10", "demo") == "cifar10_demo"
    assert workflow.choose_recipe("aps", "cifar10", "paper") == "cifar10"
    assert workflow.choose_recipe("aps", "digits", "demo") == "digits"
    with pytest.raises(UserError, match="no recipe for 'svhn'"):
        workflow.choose_recipe("aps", "svhn", "demo")


@pytest.mark.parametrize(
    ("given", "said"),
    [({"sceds": 1}, "sceds"), ({"seeds": 0}, "seeds"), ({"device": "tpu"}, "device"), ({"seeds": "many"}, "seeds")],
)
def test_a_wrong_workflow_setting_is_named(given: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        workflow.read(given)


def test_measuring_and_titles_do_not_decide_training() -> None:
    def decides(stage: str, settings: str) -> str:
        return workflow.plan("aps", {"settings": settings}).decides(stage, "resnet20", 0)

    assert decides("train", "EVALUATE.REPEATS 9 TITLE other") == decides("train", "")
    assert decides("train", "TRAIN.LR 0.01") != decides("train", "")
    assert decides("evaluate", "EVALUATE.REPEATS 9") != decides("evaluate", "")
    assert decides("table", "TITLE other") != decides("table", "")


@pytest.mark.parametrize("key", ["results", "data"])
@pytest.mark.parametrize("folder", ["a{x}b", "{", "two\nlines"])
def test_a_folder_that_snakemake_cannot_name_is_refused(key: str, folder: str) -> None:
    with pytest.raises(UserError, match="which snakemake keeps for itself"):
        workflow.read({key: folder})


def test_what_a_plan_is_asked_goes_to_snakemake_as_it_is(tmp_path: Path) -> None:
    odd = {"results": str(tmp_path / "1e5"), "data": "'007'", "settings": 'TITLE "it\'s"', "dataset": "digits"}
    words = workflow.snakemake(workflow.plan("aps", odd))
    asked = json.loads(Path(words[words.index("--configfile") + 1]).read_text())
    assert {key: asked[key] for key in odd} == odd
    # what is left to the recipe is not passed on
    assert "seeds" not in asked
    words = workflow.snakemake(workflow.plan("aps", {"results": str(tmp_path), "seeds": 2}))
    assert json.loads(Path(words[words.index("--configfile") + 1]).read_text())["seeds"] == 2


def test_readers_of_photographs_are_passed_on_where_there_are_any() -> None:
    assert workflow.plan("aps", {"workers": 3}).options("--device", "--workers") == "--device auto --workers 3"
    assert workflow.plan("aps", {}).options("--device", "--workers") == "--device auto"


def test_no_recipe_asks_for_a_larger_window_than_its_photographs_have(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / "imagenet" / part / "n02123045").mkdir(parents=True)
        Image.new("RGB", (50, 40)).save(tmp_path / "imagenet" / part / "n02123045" / "0.png")
    configs = [workflow.recipe_config(paper, name) for paper in pipelines.papers() for name in workflow.recipes(paper)]
    photographs = [config for config in configs if config.data.name == "imagenet"]
    assert {config.evaluate.margin for config in photographs} == {0, 32}
    for config in photographs:
        assert loader(config, "test", tmp_path, margin=config.evaluate.margin) is not None
