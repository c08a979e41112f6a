"""The workflow: from data to the final table by Snakemake, and what makes it run again."""

import csv
import json
import os
import re
import shlex
import time
from itertools import takewhile
from pathlib import Path

import pytest
from PIL import Image

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.interrupt import locked
from stillpoint.core.data.build import loader
from stillpoint.core.data.cifar import CIFAR10_CLASSES
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines import code_digest, workflow
from stillpoint.pipelines.cli import main
from tests import fresh

ROOT = Path(__file__).parent.parent.parent
TINY = "TRAIN.EPOCHS 1 DATA.LIMIT 64 MODEL.WIDTH 0.25 EVALUATE.REPEATS 1 EVALUATE.LIMIT_ALL_SHIFTS 1"
MODELS = ("resnet20", "resnet20_aps1")


#: what a shell, Snakemake or a careless join would do something with
ODD = """my  results; touch INJECTED; $(touch INJECTED) `touch INJECTED` 'q" & ü *"""


def snakemake(tmp_path: Path, *words: str, folder: Path = ROOT) -> str:
    given = [f"results={tmp_path / ODD}", f"data={tmp_path / f'data {ODD}'}", "seeds=1", "device=cpu"]
    settings = f'settings=GRID "{list(MODELS)}" {TINY}'
    command = ["-m", "snakemake", "pipelines/aps/all", "--cores", "2", *words]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--config", *given, settings]
    done = fresh.run(command, cwd=folder)
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
    # nor does a time stamp make anything again
    (tmp_path / f"data {ODD}" / "prepared" / "digits.json").touch()
    assert "Nothing to be done" in snakemake(tmp_path, "--dry-run")


def test_the_workflow_runs_in_another_folder(tmp_path: Path) -> None:
    assert "pipelines/aps/all" in snakemake(tmp_path, "--dry-run", folder=tmp_path)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"dataset": "cifar10"}, "cifar10_demo"),
        ({"dataset": "cifar10", "scale": "paper"}, "cifar10"),
        ({"dataset": "imagenet", "scale": "demo"}, "imagenet"),
        ({"scale": "paper"}, "digits"),
    ],
)
def test_the_two_words_for_a_recipe_are_refused_with_the_one_that_it_has_now(given: dict[str, str], name: str) -> None:
    with pytest.raises(UserError, match=rf"is now --config recipe={name}$"):
        workflow.read({"recipe": "digits", **given})


def test_a_recipe_that_a_paper_does_not_have_is_told_with_those_it_has() -> None:
    assert str(workflow.refusal("aps", {"recipe": "cifar11"})).startswith(
        "aps has no recipe 'cifar11'; nearest: cifar10"
    )


def test_snakemake_beside_a_workflow_at_work_is_told_so_and_touches_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "aps" / "digits"
    command = ["-m", "snakemake", "pipelines/aps/all", "--cores", "1", "--nolock"]
    command += ["--snakefile", str(ROOT / "Snakefile")]
    given = ["--config", f"results={tmp_path / 'results'}", f"data={tmp_path / 'data'}", "seeds=1"]
    with locked(folder / ".lock"):
        done = fresh.run([*command, *given], cwd=tmp_path)
        assert done.returncode
        assert "digits is in use by another process (process " in done.stdout + done.stderr
        assert [path.name for path in folder.iterdir()] == [".lock"]
        # to look is always allowed
        done = fresh.run([*command, "--dry-run", *given], cwd=tmp_path)
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


def test_changed_pictures_are_seen_by_every_job_that_reads_them(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for part in ("train", "test"):
        for number, kind in enumerate(CIFAR10_CLASSES):
            folder = root / "cifar10" / part / kind
            folder.mkdir(parents=True)
            for k in range(3 if part == "train" else 1):
                colour = (20 * number, 80 * k, 250 * (part == "test"))
                Image.new("RGB", (32, 32), colour).save(folder / f"{k}.png")
    given = {"recipe": "cifar10_demo", "data": str(root)}
    model = workflow.plan("aps", given).config.grid[0]

    def decided() -> dict[str, str]:
        plan = workflow.plan("aps", given)
        return {stage: plan.decides(stage, model) for stage in ("train", "evaluate", "table", "figures")}

    command = ["-m", "snakemake", str(root / "prepared" / "cifar10.json"), "--cores", "1", "--nolock"]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--config", *(f"{key}={value}" for key, value in given.items())]

    def jobs(*more: str) -> str:
        done = fresh.run([*command, *more], cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    before = decided()
    jobs()
    assert "Nothing to be done" in jobs("--dry-run")
    Image.new("RGB", (32, 32), "white").save(root / "cifar10" / "train" / CIFAR10_CLASSES[0] / "9.png")
    after = decided()
    assert {stage for stage in after if after[stage] != before[stage]} == {"train", "evaluate"}
    assert "prepare" in (said := jobs("--dry-run")) and "Nothing to be done" not in said


@pytest.mark.parametrize("command", ["prepare", "weights"])
def test_what_a_killed_command_left_in_a_folder_without_a_lock_is_removed_after_a_day(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    folder = tmp_path / ("prepared" if command == "prepare" else "weights")
    left, written = folder / ".cifar10.0123abcd.tmp.safetensors", folder / ".digits.89abcdef.tmp.safetensors"
    named = folder / "digits.safetensors"
    folder.mkdir()
    for path in (left, written, named):
        path.touch()
    for path in (left, named):
        os.utime(path, (time.time() - 90_000,) * 2)
    if command == "prepare":
        assert main(["prepare", "digits", "--root", str(tmp_path)]) == 0
    else:
        fetch = ["weights", "fetch", "blurpool/resnet50_lpf4_finetune", "--to", str(folder)]
        assert main([*fetch, "--address", "http://127.0.0.1:9"]) == 2
    assert not left.exists() and written.exists() and named.exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [({"sceds": 1}, "sceds"), ({"seeds": 0}, "seeds"), ({"device": "tpu"}, "device"), ({"seeds": "many"}, "seeds")],
)
def test_a_wrong_workflow_setting_is_named(given: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        workflow.read(given)


def test_a_parent_is_followed_at_its_top_alone_and_what_is_imported_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "core/one.py": "from stillpoint.pipelines.own import models\nfrom stillpoint.core.room import Thing\n",
        "pipelines/own/__init__.py": "from stillpoint.pipelines.contract import Paper\n",
        "pipelines/own/models.py": "",
        "pipelines/contract.py": "def shown():\n    from stillpoint.core import table\n",
        "core/table.py": "",
        "core/room/__init__.py": "from stillpoint.core.room.thing import Thing\n",
        "core/room/thing.py": "def work():\n    from stillpoint.core import kernel\n",
        "core/kernel.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(code_digest, "ROOT", tmp_path)
    for kept in (code_digest.imported, code_digest.module_files, code_digest._module):
        kept.cache_clear()
    found = {path.as_posix() for path in code_digest.imported(("core/one.py",))}
    for kept in (code_digest.imported, code_digest.module_files, code_digest._module):
        kept.cache_clear()
    assert found == set(files) - {"core/table.py"}


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
    with pytest.raises(UserError, match="which is special to snakemake"):
        workflow.read({key: folder})


def test_what_a_plan_is_asked_goes_to_snakemake_as_it_is(tmp_path: Path) -> None:
    odd = {"results": str(tmp_path / "1e5"), "data": "'007'", "settings": 'TITLE "it\'s"', "recipe": "digits"}
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
    configs = [
        pipelines.recipe_config(paper, name)
        for paper in pipelines.papers()
        for name in pipelines.paper(paper).recipes()
    ]
    photographs = [config for config in configs if config.data.name == "imagenet"]
    assert {config.evaluate.margin for config in photographs} == {0, 20, 32}
    for config in photographs:
        assert loader(config, "test", tmp_path, margin=config.evaluate.margin) is not None


def test_pages_say_what_they_read_and_the_table_waits_for_it(tmp_path: Path) -> None:
    def plan(paper: str, recipe: str) -> workflow.Plan:
        given = {"results": str(tmp_path), "data": str(tmp_path / "data"), "recipe": recipe}
        return workflow.plan(paper, given)

    def measured(paper: str, recipe: str, model: str) -> str:
        run = Run(paper, recipe, model, 0, tmp_path)
        run.folder.mkdir(parents=True)
        run.metrics.write_text(json.dumps({"trained": {"accuracy": 0.5}}))
        return str(run.metrics)

    assert plan("blurpool", "imagenet").read_by_pages() == []
    there = {measured("blurpool", "imagenet_vgg", "vgg16"), measured("blurpool", "imagenet_baseline", "vgg16")}
    # neither of this recipe's own runs, which the table has as inputs anyway, nor of a recipe that no page shows
    for recipe in ("imagenet", "digits", "imagenet_finetune"):
        measured("blurpool", recipe, "resnet18")
    assert set(plan("blurpool", "imagenet").read_by_pages()) == there
    assert plan("blurpool", "digits").read_by_pages() == [] and plan("aps", "digits").read_by_pages() == []
    authors = measured("sdnet", "cifar10_authors", "sdnet18")
    assert plan("sdnet", "cifar10").read_by_pages() == [authors] and plan("sdnet", "digits").read_by_pages() == []
    times = str(ROOT / "benchmarks" / "results" / "wavelet_twins.json")
    assert plan("wavelet_twins", "digits").read_by_pages() == [times]
    assert set(plan("blurpool", "digits").pages()) == set()
    assert set(plan("blurpool", "imagenet_finetune_vgg").pages()) == {"finetuned.md"}
    given = [f"results={tmp_path}", f"data={tmp_path / 'data'}", "recipe=cifar10"]
    command = ["-m", "snakemake", "pipelines/sdnet/all", "--dry-run", "--cores", "1", "--config"]
    done = fresh.run([*command, *given])
    rule = (done.stdout + done.stderr).split("rule sdnet_table:")[1].split("output:")[0]
    assert authors in rule


@pytest.mark.parametrize("folder", ["da{ta}", "da\nta", "-data"])
def test_the_environments_data_root_is_held_to_the_same(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setenv("STILLPOINT_DATA", folder)
    with pytest.raises(UserError, match="--config data: "):
        workflow.read({})
    assert workflow.read({"data": "elsewhere"}).data == "elsewhere"
    with pytest.raises(UserError, match="looks like an option"):
        workflow.read({"results": "-odd", "data": "elsewhere"})


def test_every_word_that_reaches_a_shell_is_quoted() -> None:
    found = []
    for path in (ROOT / "pipelines" / "recipe.smk", ROOT / "core" / "data" / "prepare.smk"):
        for rule in path.read_text().split("    shell:")[1:]:
            lines = takewhile(lambda line: line.startswith('        "'), rule.lstrip("\n").splitlines())
            found += re.findall(r"\{([^}]*)\}", "".join(lines))
    # a whole number, and what `Plan` has quoted
    plain = {"threads", "params.options", "params.settings"}
    assert len(found) > 20 and plain < set(found)
    assert [word for word in found if word not in plain and not word.endswith(":q")] == []
    folder, key = "my results; touch 'x' $(y)", ["TITLE", "it's; $(x)"]
    plan = workflow.plan("aps", {"results": folder, "data": folder, "settings": shlex.join(key)})
    assert shlex.split(plan.options("--results", "--data")) == ["--results", folder, "--data", folder]
    assert shlex.split(plan.tail) == key
