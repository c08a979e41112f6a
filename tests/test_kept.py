"""The kept runs: whole, in the store and the pages, loading by their names, and giving their cards' numbers again."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import digest
from stillpoint.core.config.catalogue import DATASETS
from stillpoint.core.data.datasets import load
from stillpoint.core.reporting.card_page import card_page
from stillpoint.core.runs import cards
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines import measuring, networks, pages, released, workflow
from stillpoint.pipelines.cli import main
from stillpoint.pipelines.networks import kept_root
from stillpoint.pipelines.papers import PAPERS

ROOT = Path(__file__).parent.parent
KEPT = networks.KEPT
RUNS = Run.all_kept(KEPT)
#: those whose weights every clone brings along, in its own store
STORED = [run for run in cards.with_weights(KEPT) if cards.read(run)["weights"]["remote"] == cards.STORE]


def named(run: Run) -> str:
    return "/".join((run.pipeline, run.recipe, run.model, str(run.seed)))


@pytest.fixture(scope="module")
def pulled() -> list[Run]:
    if not all(run.weights.is_file() for run in STORED):
        # from the store in the repository: no connection is needed
        pointers = [f"{run.weights.relative_to(ROOT)}.dvc" for run in STORED]
        command = [sys.executable, "-m", "dvc", "pull", "--quiet", *pointers]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return STORED


def test_the_store_is_small_in_all_and_in_each_file_and_holds_the_weights_of_its_cards_alone() -> None:
    store, pointed = ROOT / ".dvc-store", set()
    held = {path: path.stat().st_size for path in store.rglob("*") if path.is_file()}
    assert STORED and sum(held.values()) < released.STORE_BYTES and max(held.values()) <= released.LARGEST
    for run in STORED:
        (out,) = yaml.safe_load(Path(f"{run.weights}.dvc").read_text())["outs"]
        kept = cards.read(run)["weights"]
        path = store / "files" / "md5" / out["md5"][:2] / out["md5"][2:]
        assert (out["md5"], out["size"], out["path"]) == (kept["md5"], kept["bytes"], run.weights.name)
        assert path in held and digest(path) == kept["sha256"]
        pointed.add(path)
    assert pointed == set(held)
    # of weights in other remotes the clone has no pointer, so that a plain pull asks for nothing out of reach
    elsewhere = [run for run in cards.with_weights(KEPT) if run not in STORED]
    assert not [run for run in elsewhere if Path(f"{run.weights}.dvc").exists()]
    assert all("not in the clone" in run.page.read_text() for run in elsewhere)


def test_every_kept_run_is_whole_and_says_of_itself_what_its_files_hold() -> None:
    for run in RUNS:
        said = cards.about(run)
        assert run.page.read_text() == card_page(said), run
        config = released.own_config(run)
        assert said["metrics"]["config_digest"] == said["training"]["config_digest"] == config.digest(), run
        # trained by the recipe that is there now, so that the card's last command makes it again
        asked = pipelines.configure(f"{run.pipeline}/{run.model}", run.recipe, seed=run.seed)
        assert config.digest() == asked.digest(), run
        assert not cards.changed(said["before_rounding"], said["metrics"]["trained"]), run
        stated = said["measured_again"].get("metrics", {})
        assert all(key in said["metrics"]["trained"] for key in stated), run
        assert said["training"]["commit"] and (said["weights"] or said["weights_digest"]), run


def test_nothing_lies_among_the_kept_runs_that_is_not_of_them() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "runs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    inside = {ROOT / line for line in listed.stdout.splitlines()}
    mine = {run.folder / name for run in RUNS for name in ("card.json", "card.md", *cards.read(run)["files"])}
    mine |= {Path(f"{run.weights}.dvc") for run in STORED}
    rest = {path.relative_to(KEPT).as_posix() for path in inside - mine if path.exists()}
    assert not [
        name for name in rest if not re.fullmatch(r"\w+/\w+/([\w.]+\.(csv|md|tex|json|html)|figures/\w+\.png)", name)
    ]


@pytest.mark.parametrize("run", STORED, ids=named)
def test_a_network_loads_by_its_name_and_says_what_its_card_says(pulled: list[Run], run: Run) -> None:
    name, card = f"{run.pipeline}/{run.model}", cards.about(run)
    net = pipelines.pretrained(name, recipe=run.recipe)
    assert not net.training and sum(p.numel() for p in net.parameters()) == card["metrics"]["parameters"]
    assert all(p.dtype == torch.float32 for p in net.parameters())
    found = measuring.probe(name, released.own_config(run), cards.weights(run))
    assert found == pytest.approx(card["probe"], abs=1e-3)
    assert len(set(found)) > 2


@pytest.mark.parametrize("run", STORED, ids=named)
def test_every_network_gives_its_cards_numbers_on_digits_again(pulled: list[Run], run: Run) -> None:
    # the data sets are not on every machine: stillpoint evaluate <name> --pretrained measures the others again
    card = cards.read(run)
    found = measuring.on_digits(released.own_config(run), cards.weights(run), "cpu", 1)
    # evaluations that have learnt to measure more since say more
    assert found.keys() >= card["on_digits"].keys() and "circular_consistency" in found
    # 0.01 of 200 images: another processor's rounding may decide two near ties otherwise
    assert not cards.changed(card["on_digits"], found, tolerance=0.01)


def test_pulled_weights_leave_nothing_to_be_built(pulled: list[Run]) -> None:
    entries = [f"{run.weights.relative_to(ROOT)}.dvc" for run in STORED]

    def said(*words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "dvc", *words, *entries], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert json.loads(said("status", "--json")) == {}
    stages = said("repro", "--dry")
    assert stages.count("didn't change, skipping") == len(entries) and "Running stage" not in stages


def test_pages_and_tables_are_made_from_the_kept_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pages", "--check"]) == 0, capsys.readouterr().out


def test_a_page_shows_what_its_runs_hold_and_nothing_where_there_is_none(tmp_path: Path) -> None:
    says = pages.Kept(kept_root())
    metrics = json.loads(
        next(run for run in RUNS if named(run) == "aps/cifar10_demo/resnet20_aps3/0").metrics.read_text()
    )
    shown = f"{100 * metrics['trained']['accuracy']:.2f}"
    text = says.written("<!-- kept: number aps/cifar10_demo/resnet20_aps3 accuracy -->1<!-- /kept -->, other", "page")
    assert text == f"<!-- kept: number aps/cifar10_demo/resnet20_aps3 accuracy -->{shown}<!-- /kept -->, other"
    columns = "<!-- kept: table aps/cifar10_demo columns=accuracy,crop_consistency --><!-- /kept -->"
    table = says.written(columns, "page")
    assert (
        "| accuracy (%) | crop consistency (%) |" in table
        and f" {shown} " in table
        and "circular" not in table.split("\n\n")[1]
    )
    nothing = says.written("<!-- kept: table aps/cifar10_crop -->12.3<!-- /kept -->", "page")
    assert "Not run here yet: `stillpoint run aps --recipe cifar10_crop`" in nothing and "12.3" not in nothing
    wrong = {
        "number aps/cifar10_demo/resnet20 accuracy": "no kept run has this number",
        "table aps/cifar10_demo columns=acuracy": "no kept run has the column acuracy",
        "table aps/cifar11": "no recipe 'cifar11'",
        "table aps": "must be PAPER/RECIPE",
        "tabel aps/digits": "must be one of table, page, number, figure, runs, not 'tabel'",
        "table": "wrong arguments for table",
    }
    for marker, told in wrong.items():
        with pytest.raises(UserError, match=told):
            says.written(f"<!-- kept: {marker} --><!-- /kept -->", "page")
    with pytest.raises(UserError, match="without its <!-- /kept -->"):
        says.written("<!-- kept: table aps/digits -->", "page")


@pytest.mark.parametrize(("name", "recipe"), [("aps/resnet20", "cifar10"), ("translations/cnn", "fashion_mnist")])
def test_digits_stand_in_for_any_data_set_of_small_images(tmp_path: Path, name: str, recipe: str) -> None:
    config = pipelines.configure(name, recipe)
    entry, found = DATASETS[recipe], load(recipe, measuring.write_stand_in(config, tmp_path), "test")
    assert found.images.shape == (measuring.DIGITS, entry.channels, entry.size, entry.size)
    digits = load("digits", tmp_path, "test").evenly(measuring.DIGITS)
    assert torch.equal(found.labels, digits.labels)
    margin = (32 - entry.size) // 2
    middle = digits.images[:, :, margin : 32 - margin, margin : 32 - margin]
    assert all(torch.equal(found.images[:, [channel]], middle) for channel in range(entry.channels))
    with pytest.raises(UserError, match="stand in for ImageNet"):
        measuring.write_stand_in(pipelines.configure("aps/resnet18_aps1", "imagenet"), tmp_path)


def git(*words: str, cwd: Path = ROOT) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *identity, *words], cwd=cwd, capture_output=True, text=True, check=True).stdout


def test_files_are_unchanged_that_git_has_as_they_lie_there(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "a.json"
    path.parent.mkdir()
    path.write_text("1")
    assert not workflow.unchanged(tmp_path, [path.parent])
    git("init", "-q", cwd=tmp_path)
    assert not workflow.unchanged(tmp_path, [path.parent])
    git("add", ".", cwd=tmp_path)
    git("commit", "-qm", "a", cwd=tmp_path)
    path.touch()
    assert workflow.unchanged(tmp_path, [path.parent])
    path.write_text("2")
    assert not workflow.unchanged(tmp_path, [path.parent]) and workflow.unchanged(tmp_path, [tmp_path / "other"])


def test_snakemake_takes_kept_runs_for_done_and_trains_where_nothing_is_kept(tmp_path: Path) -> None:
    plans = {name: workflow.plan(name, {"kept": True, "results": str(tmp_path)}) for name in PAPERS}
    whole = [f"pipelines/{name}/all" for name, plan in plans.items() if all(run.root != tmp_path for run in plan.runs)]
    assert "pipelines/aps/all" in whole
    # as a clone may leave them: a run younger than what is made of it
    plans["aps"].runs[0].metrics.touch()
    command = [sys.executable, "-m", "snakemake", *whole, "--dry-run", "--cores", "1"]
    given = ["--config", "kept=true", f"results={tmp_path}"]
    done = subprocess.run([*command, *given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not re.findall(r"^\w+_(?:train|evaluate) ", done.stdout, re.M), done.stdout[-2000:]
    held = [name for name in PAPERS if plans[name].as_committed]
    assert "aps" in held or "runs/aps" in git("status", "--porcelain", "runs")
    made = set(re.findall(r"^(\w+)_(?:table|figures) ", done.stdout, re.M))
    assert not made & set(held), done.stdout[-2000:]
    # other settings, or other seeds, are not what is kept
    other = workflow.plan("aps", {"kept": True, "results": str(tmp_path), "settings": "TRAIN.LR 0.05"})
    assert {run.root for run in other.runs} == {tmp_path} and Path(
        other.tables()["md"]
    ).parent.parent.parent == kept_root()
    more = workflow.plan("aps", {"kept": True, "results": str(tmp_path), "seeds": 4})
    assert [run.seed for run in more.runs if run.root == tmp_path] == [3] * len(more.config.grid)
    plain = workflow.plan("aps", {"results": str(tmp_path)})
    assert {run.root for run in plain.runs} == {tmp_path} and tmp_path in Path(plain.tables()["md"]).parents


def test_the_lock_of_dvc_knows_the_tables_that_are_committed() -> None:
    stages = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    known = {name: stage for name, stage in stages.items() if name.startswith("workflow@")}
    assert "workflow@aps" in known
    for name, stage in known.items():
        tables = {out["path"]: out["md5"] for out in stage["outs"] if "table" in out["path"]}
        assert tables and all(digest(ROOT / path, "md5") == md5 for path, md5 in tables.items()), f"dvc repro {name}"
