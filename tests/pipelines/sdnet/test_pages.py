"""From metrics and maps to the paper's tables and pictures."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from stillpoint import pipelines
from stillpoint.core.data.corruptions import BENCHMARK, NAMES
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.cli import main
from stillpoint.pipelines.results import shown_by
from stillpoint.pipelines.sdnet import pages
from stillpoint.pipelines.sdnet.robust import NOISES

MODELS = ("resnet18", "sdnet18", "sdnet18_all_noshortcut")


def maps(random, coded):
    lines = np.array([[0.1, 0.0, 0.5]] * 5)
    found = {"robustness_severities": random.random((19, 5))}
    if coded:
        found |= {
            "robustness_line_severities": random.random((19, 5)),
            "robustness_sweep_accuracy": random.random((9, 3)),
            "robustness_sweep_errors": np.arange(9.0),
            "robustness_sweep_conditions": np.array(
                [[0, 0.0], *([n, level] for n in (1, 2, 3, 4) for level in (1, 2))]
            ),
            "robustness_sweep_lambdas": np.array([0.1, 0.5, 1.0]),
            "robustness_sweep_lines": lines,
            "attack_lambdas": np.array([0.1, 0.5]),
            "attack_linf_curves": random.random((3, 2)),
            "attack_l2_curves": random.random((3, 2)),
            "reconstructions_pixels": random.random((6, 2, 1, 8, 8)),
        }
    return {f"trained/{name}": value for name, value in found.items()}


def metrics(found):
    told = {"accuracy": 0.9, "attack_linf_accuracy": 0.3, "attack_l2_accuracy": 0.4}
    told |= {"robustness_images": 60.0, "robustness_prepared": 0.0, "robustness_photographs": 0.0}
    told |= {f"robustness_levels_{noise}_accuracy": 0.6 for noise in NOISES}
    for start in ("robustness", "robustness_line"):
        if (table := found.get(f"trained/{start}_severities")) is not None:
            told |= {f"{start}_{name}_accuracy": float(row.mean()) for name, row in zip(NAMES, table, strict=True)}
            told |= {f"{start}_noises_accuracy": 0.5, f"{start}_error": 1 - float(table[:15].mean())}
            told |= {f"{start}_error_19": 1 - float(table.mean()), f"{start}_clean_accuracy": 0.9}
    if "trained/robustness_sweep_lines" in found:
        told |= {f"robustness_levels_{how}_{noise}_accuracy": 0.7 for how in ("chosen", "line") for noise in NOISES}
        told |= {"robustness_line_slope": 0.1, "robustness_line_intercept": 0.0, "robustness_line_r2": 0.5}
    return told


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root, random = tmp_path_factory.mktemp("results"), np.random.RandomState(0)
    for recipe in ("digits", "cifar10", "imagenet"):
        for model in MODELS:
            for seed in (0, 1):
                run = Run("sdnet", recipe, model, seed, root)
                run.folder.mkdir(parents=True)
                found = maps(random, model != "resnet18")
                save_file(found, run.maps)
                run.metrics.write_text(json.dumps({"dataset": recipe, "trained": metrics(found)}))
                run.history.write_text(
                    "epoch,train_loss,train_accuracy,val_loss,val_accuracy\n1,1.0,0.5,1.1,0.4\n2,0.5,0.8,0.6,0.7\n"
                )
                run.timing.write_text("epoch,seconds,images_per_second\n1,1,100\n2,1,300\n3,1,200\n")
                run.training.write_text(json.dumps({"peak_memory_bytes": 2**30, "device": "a machine"}))
    for recipe in ("digits", "cifar10", "imagenet"):
        assert main(["table", "sdnet", "--recipe", recipe, "--results", str(root)]) == 0
    assert main(["figures", "sdnet", "--results", str(root)]) == 0
    return root / "sdnet"


def results_of(runs):
    """What a page is given of one network's runs on digits."""
    sdnet, table = pipelines.paper("sdnet"), SimpleNamespace(title="")
    return SimpleNamespace(runs={runs[0].model: runs}, recipe="digits", table=table, paper=sdnet)


def lines(path):
    return [[cell.strip() for cell in line.strip("|\n").split("|")] for line in path.open() if line.startswith("|")]


def test_every_page_and_picture_is_made(results):
    shown = shown_by(pipelines.paper("sdnet"), pipelines.recipe_config("sdnet", "digits"))
    for name in (*shown.pages, *(f"figures/{name}.png" for name in shown.figures)):
        assert (results / "digits" / name).stat().st_size > 100


def test_nine_pretrained_networks_stand_beside_the_authors_and_nothing_is_made_up(results):
    table = {row[0]: row[1:] for row in lines(results / "cifar10" / "pretrained.md")[2:]}
    assert len(table) == 9
    assert table["CIFAR-10, SDNet-18"] == ["95.34", "90.00 ± 0.00", "-5.34", "cifar10"]
    assert table["CIFAR-10, SDNet-18-all, with shortcuts"] == ["95.02", "", "", ""]
    assert table["CIFAR-100, SDNet-18-all, without shortcuts"][:2] == ["77.28", ""]
    assert table["ImageNet, SDNet-18"][0] == "69.78"


def test_each_corruption_has_a_line_and_frost_is_owned_up_to(results):
    path = results / "cifar10" / "corruptions.md"
    table = lines(path)
    assert table[2][:2] == ["**clean, all test images**", "90.00 ± 0.00"]
    assert [row[0].removesuffix(" (validation)") for row in table[3:22]] == [n.replace("_", " ") for n in NAMES]
    assert "of 60 test images; frost is a computed texture" in path.read_text()
    for name in ("table.md", "table.tex", "noises.md"):
        assert "of 60 test images; frost is a computed texture" in (results / "cifar10" / name).read_text()
    rows = list(csv.DictReader((results / "cifar10" / "corruptions.csv").open()))
    assert len(rows) == 2 * 95 * (1 + 2 + 2)
    own = [
        float(r["accuracy"])
        for r in rows
        if r["network"] == "sdnet18" and r["lambda"] == "line" and r["corruption"] == "fog"
    ]
    assert {(r["images"], r["source"]) for r in rows if r["corruption"] != "frost"} == {("60", "our generator")}
    assert {r["source"] for r in rows if r["corruption"] == "frost"} == {"our generator, a computed texture"}
    shown = next(row for row in table if row[0] == "fog")[table[0].index("sdnet18, lambda by the line")]
    assert float(shown.split()[0]) == pytest.approx(100 * np.mean(own), abs=0.006)


def test_it_is_told_who_made_the_corrupted_images(monkeypatch):
    def told(*values):
        monkeypatch.setattr(pages, "trained", lambda runs: [{"robustness_images": 9.0, **one} for one in values])
        return pages.origin(SimpleNamespace(runs={"sdnet18": []}))

    there = {"robustness_photographs": 1.0, "robustness_published": 1.0}
    assert told(there, there) == "CIFAR-10-C as its authors published it, 9 test images"
    made = {"robustness_photographs": 1.0, "robustness_published": 0.0}
    assert told(made) == "corrupted images made by our generator, seed 0, of 9 test images"
    assert "some as published and some made" in told(there, made)
    assert "some as published and some made" in told(there | {"robustness_published": 0.5})
    ice = "; frost is a computed texture, not the published photographs"
    assert told(made | {"robustness_photographs": 0.0}).endswith(ice) and told(there, {}).endswith(ice)


def test_on_imagenet_the_error_of_alexnet_is_the_unit(results):
    last = lines(results / "imagenet" / "corruptions.md")[-1]
    assert last[0] == "**mCE, AlexNet = 100, 15**" and float(last[1]) > 0
    alexnet = pipelines.paper("sdnet").published.own["alexnet_error"]
    assert set(alexnet) == set(BENCHMARK)
    same = {f"robustness_{name}_accuracy": 1 - error for name, error in alexnet.items()}
    assert pages._normalised([same], "robustness", alexnet) == "100.00"


def test_noises_stand_beside_the_published_ones(results):
    text = (results / "cifar10" / "noises.md").read_text()
    rows = [row for row in lines(results / "cifar10" / "noises.md") if row[0] == "sdnet18"]
    assert "50.58" in next(row for row in rows if row[1] == "of training" and len(row) == 10)
    assert "64.92" in next(row for row in rows if row[1].startswith("by the line") and len(row) == 10)
    assert [row[2:] for row in rows if row[1] == "chosen for each level"] == [["70.00 ± 0.00"] * 4]
    assert "0.1 e +0 (explains 50%)" in text
    assert "Theirs beside the line: a merged row labelled per-sample lambda tuning, and how lambda was chosen" in text
    assert "Theirs beside the line" not in (results / "digits" / "noises.md").read_text()
    notes = [line for line in (results / "cifar10" / "table.md").read_text().splitlines() if "Paper's numbers" in line]
    assert sum("per-sample lambda tuning, and how lambda was chosen is not known" in line for line in notes) == 1


def test_it_is_told_which_images_lambda_was_chosen_on(results, tmp_path):
    text = (results / "cifar10" / "noises.md").read_text()
    assert "Lambda is chosen on images held out of training. " in text
    run = Run("sdnet", "digits", "sdnet18", 0, tmp_path)
    run.folder.mkdir(parents=True)
    run.metrics.write_text(json.dumps({"evaluate": {"PROTOCOL": "authors"}, "trained": {"accuracy": 0.9}}))
    shown = SimpleNamespace(
        runs={"sdnet18": [run]}, recipe="digits", table=SimpleNamespace(title=""), paper=pipelines.paper("sdnet")
    )
    assert "on the labels of the very test images" in pages.noises(shown)
    run.metrics.write_text(json.dumps({"trained": {"accuracy": 0.9}}))
    for held_out, said in (
        (0, "on training images, which the network has learnt (DATA.VALIDATION 0). "),
        (9, "held out"),
    ):
        config = pipelines.configure(
            "sdnet/sdnet18", "digits", ["DATA.VALIDATION", str(held_out), "TRAIN.KEEP", "last"]
        )
        run.config.write_text(yaml.safe_dump(config.dump()))
        assert said in pages.noises(shown)


def test_speed_is_a_median_and_a_ratio_to_the_plain_network(results):
    rows = {row[0]: row[1:] for row in lines(results / "cifar10" / "speed.md")[2:]}
    assert rows["sdnet18"] == ["200", "1.00", "1.00", "1500", "1.2"] and rows["resnet18"][3:] == ["1600", "1.0"]


def test_weights_that_are_only_measured_have_no_speed(tmp_path):
    for seed, rows in enumerate(("", "1,1,250\n")):
        run = Run("sdnet", "digits", "resnet18", seed, tmp_path)
        run.folder.mkdir(parents=True)
        run.timing.write_text("epoch,seconds,images_per_second\n" + rows)
        run.training.write_text(json.dumps({"peak_memory_bytes": 2**30, "device": "a machine"}))
    for seeds, told in (((0,), []), ((0, 1), [["resnet18", "250", "1.00", "1.00", "", ""]])):
        runs = [Run("sdnet", "digits", "resnet18", seed, tmp_path) for seed in seeds]
        shown = SimpleNamespace(
            runs={"resnet18": runs}, recipe="digits", table=SimpleNamespace(title=""), paper=pipelines.paper("sdnet")
        )
        (tmp_path / "speed.md").write_text(pages.speed(shown))
        assert lines(tmp_path / "speed.md")[2:] == told


def test_published_numbers_are_of_networks_and_metrics_that_there_are():
    sdnet, known = pipelines.paper("sdnet"), set(pipelines.models("sdnet"))
    keys = {column.key for column in sdnet.shown(pipelines.recipe_config("sdnet", "digits")).columns}
    keys |= {f"robustness{way}_{n}_noise_accuracy" for way in ("", "_line") for n in pages.NOISES}
    for entry in sdnet.published.entries:
        assert set(entry.recipes) <= set(sdnet.recipes())
        for row in entry.rows:
            assert set(row.models) <= known
            assert set(row.model_extra or ()) - {"memory_gb", "images_per_second"} <= keys


@pytest.mark.parametrize("recipe", ["cifar10", "cifar10_authors", "cifar10_demo", "cifar100", "digits", "imagenet"])
def test_every_recipe_is_short_and_resolves_for_all_its_networks(recipe):
    path = pipelines.paper("sdnet").recipe_file(recipe)
    text = path.read_text().splitlines()
    assert len(text) < 30 and text[0].startswith("# ") and any(line.startswith("# Run: ") for line in text)
    for model in MODELS:
        config = pipelines.configure(f"sdnet/{model}", recipe)
        assert config.train.keep == "last" or config.data.validation
        assert (config.data.validation_choice == "test") == (config.evaluate.protocol == "authors")
