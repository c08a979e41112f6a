"""From images to every table and picture, on a tiny grid; resume; the command that maximises."""

import csv
import json
import os
import shutil
import signal

import pytest

from stillpoint import pipelines
from stillpoint.core.base.interrupt import Interrupted
from stillpoint.core.runs.layout import Run
from stillpoint.core.runs.records import read_history
from stillpoint.core.training.train import Progress, train
from stillpoint.pipelines import build, configure
from stillpoint.pipelines.cli import main
from stillpoint.pipelines.results import Shown, shown_by
from stillpoint.pipelines.translations.passes import mean_passes, published_passes, run_passes
from stillpoint.pipelines.translations.results import FIGURES, LESSON, PASSES

TINY = ["DATA.LIMIT", "60", "TRAIN.EPOCHS", "2", "MODEL.HIDDEN", "12", "EVALUATE.REPEATS", "1"]

PUBLISHED = pipelines.paper("translations").published


def shown(recipe: str) -> Shown:
    return shown_by(pipelines.paper("translations"), pipelines.recipe_config("translations", recipe))


SHOWN = shown("digits")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def call(*words):
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def results(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("results")
    for seed in (0, 1):
        places = ("--results", root, "--data", data, "--threads", 1)
        call("train", "translations/TwoFullNet", "--seed", seed, *places, *TINY)
        folder = Run("translations", "digits", "TwoFullNet", seed, root).folder
        call("evaluate", folder, "--data", data, "--threads", 1)
    call("table", "translations", "--results", root)
    call("figures", "translations", "--results", root)
    return root


def test_the_pipeline_runs_to_its_table_and_pictures(results):
    folder, shown = results / "translations" / "digits", SHOWN
    for name in (*shown.pages, "table.csv", "table.md", *(f"figures/{name}.png" for name in shown.figures)):
        assert (folder / name).stat().st_size > 100
    rows = list(csv.DictReader((folder / "lesson.csv").open()))
    runs = [Run("translations", "digits", "TwoFullNet", seed, results) for seed in (0, 1)]
    trained = [json.loads(run.metrics.read_text())["trained"] for run in runs]
    mean = sum(one["translated_consistency"] for one in trained) / 2
    assert [row["network"] for row in rows] == ["TwoFullNet"] and rows[0]["n"] == "2"
    assert float(rows[0]["translated_consistency"]) == pytest.approx(100 * mean)
    assert int(rows[0]["parameters"]) == 64 * 64 * 12 + 12 + 130


def test_weights_that_are_only_measured_have_no_seconds_an_epoch(results, tmp_path):
    root = shutil.copytree(results, tmp_path / "results")
    run = Run("translations", "digits", "TwoFullNet", 1, root)
    run.timing.write_text(run.timing.read_text().splitlines()[0] + "\n")
    call("table", "translations", "--results", root)
    (row,) = csv.DictReader((root / "translations" / "digits" / "lesson.csv").open())
    assert row["seconds_per_epoch"] == "" and float(row["accuracy"]) > 0
    (line,) = [one for one in (root / "translations" / "digits" / "lesson.md").open() if one.startswith("| TwoFullNet")]
    assert [cell.strip() for cell in line.strip("|\n").split("|")][-1] == ""


def test_a_test_pass_comes_before_training_and_after_each_epoch(results):
    run = Run("translations", "digits", "TwoFullNet", 0, results)
    passes = run_passes(run)
    assert [one.epoch for one in passes] == [0, 1, 2] and all(one.images == 60 for one in passes)
    assert passes[0].elapsed < passes[1].elapsed < passes[2].elapsed
    rows = read_history(run.test_history)
    assert all(row["test_accuracy"] == row["correct"] / 60 for row in rows)
    other = Run("translations", "digits", "TwoFullNet", 1, results)
    means = mean_passes([run, other])
    assert means[1].loss == pytest.approx((passes[1].loss + run_passes(other)[1].loss) / 2)


def test_the_last_pass_is_of_the_weights_that_are_kept(results, data):
    from stillpoint.core.data.build import loader
    from stillpoint.core.runs.checkpoint import load_weights
    from stillpoint.pipelines.commands.base import run_config

    run = Run("translations", "digits", "TwoFullNet", 0, results)
    config = run_config(run, [])
    net = build(config).eval()
    load_weights(net, run.weights)
    batches = loader(config, "test", data, batch_size=7)

    def right(epoch):
        return sum((net(batch.images).argmax(1) == batch.labels).sum().item() for batch in batches.epoch(epoch))

    passes, measured = read_history(run.test_history), json.loads(run.metrics.read_text())
    assert right(2) == passes[-1]["correct"]
    # the evaluation cuts the images where the pass before training did, as the page says
    assert right(0) == round(measured["trained"]["accuracy"] * measured["images"])
    assert passes[0]["correct"] == round(measured["untrained"]["accuracy"] * measured["images"])


def test_a_stopped_run_goes_on_to_the_same_test_passes(tmp_path, data):
    config = configure("translations/TwoFullNet", "digits", TINY)
    options = {"build": build, "data_root": data, "device": "cpu", "threads": 1}
    whole, broken = (Run("translations", "digits", "TwoFullNet", 0, tmp_path / name) for name in ("a", "b"))
    train(config, whole, **options)

    class Stop(Progress):
        left = 3

        def on_step(self, *_):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(config, broken, progress=Stop(), **options)
    train(config, broken, **options)
    for name in ("history", "test_history", "weights"):
        assert getattr(whole, name).read_bytes() == getattr(broken, name).read_bytes()


def test_the_notebooks_numbers_are_beside_ours_where_it_printed_them():
    known = published_passes(PUBLISHED, "fashion_mnist", "TwoFullNet")
    assert sorted(known) == list(range(11)) and known[10].percent == pytest.approx(72.47)
    assert known[10].loss == 0.7361 and known[0].elapsed == 1.13
    assert not published_passes(PUBLISHED, "fashion_mnist", "cnn") and not published_passes(
        PUBLISHED, "digits", "TwoFullNet"
    )


def test_maximise_draws_one_class_or_neuron(results, tmp_path, capsys):
    folder = Run("translations", "digits", "TwoFullNet", 0, results).folder
    for what in (("--class", 2), ("--neuron", 11)):
        call("maximise", folder, *what, "--output", tmp_path / "image.png", "--json")
        told = json.loads(capsys.readouterr().out)
        assert (tmp_path / "image.png").stat().st_size > 100 and 0 < told["strongest_pair_share"] <= 1
    for what, sentence in (
        (("--class", 10), "class 10 does not exist: the network has 0 to 9"),
        (("--neuron", 12), "0 to 11"),
    ):
        assert main(["maximise", str(folder), what[0], str(what[1])]) == 2
        assert sentence in capsys.readouterr().err


def test_a_recipe_shows_what_it_measures_and_nothing_else() -> None:
    whole = shown("fashion_mnist")
    short = shown("fashion_mnist_lesson_demo")
    assert set(whole.figures) == set(FIGURES) and set(whole.pages) == {*PASSES, *LESSON}
    assert set(short.figures) == {"consistency_accuracy", "learning_curves", "second_layer"}
    assert set(short.pages) == {"lesson.csv", "lesson.md"}
