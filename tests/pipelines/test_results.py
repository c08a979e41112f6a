"""What a table and the command evaluate show: each number in its own unit, and no column that says nothing."""

import json
from fnmatch import filter as matching
from pathlib import Path

import pytest
import yaml

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.reporting.columns import described, show_plain
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines import recipe_config
from stillpoint.pipelines.commands.compute import _print_metrics
from stillpoint.pipelines.gathering import gather
from stillpoint.pipelines.results import Shown, shown_by


def form(paper: str, config: RunConfig) -> Shown:
    return shown_by(pipelines.paper(paper), config)


def gathered(root: Path, paper: str, recipe: str, model: str, trained: dict[str, float]) -> list[str]:
    run = Run(paper, recipe, model, 0, root)
    run.folder.mkdir(parents=True)
    run.metrics.write_text(json.dumps({"dataset": recipe, "trained": trained}))
    return [column.key for column in gather(paper, recipe, root, None, []).table.held]


def test_top_five_of_ten_classes_has_no_column_and_of_a_thousand_has(tmp_path: Path) -> None:
    trained = {"accuracy": 0.5, "accuracy_top5": 0.9}
    assert gathered(tmp_path, "aps", "digits", "resnet20", trained) == ["accuracy"]
    assert gathered(tmp_path, "aps", "cifar10", "resnet20", trained) == ["accuracy"]
    assert gathered(tmp_path, "blurpool", "imagenet", "resnet50", trained) == ["accuracy", "accuracy_top5"]


#: a figure or page of each paper that reads maps.safetensors, and sdnet's page that reads train.json
READERS = [
    ("aps", "shift_maps"),
    ("blurpool", "diagonal"),
    ("blurpool", "feature_distance"),
    ("sdnet", "corruptions"),
    ("sdnet", "corruptions.csv"),
    ("sdnet", "speed.md"),
    ("translations", "confusion"),
    ("wavelet_twins", "divergence"),
]


@pytest.mark.parametrize(("paper", "shown"), READERS)
def test_a_damaged_file_of_a_run_is_named_by_what_reads_it(tmp_path: Path, paper: str, shown: str) -> None:
    recipe = recipe_config(paper, "digits")
    run = Run(paper, "digits", recipe.grid[0], 0, tmp_path)
    run.folder.mkdir(parents=True)
    about = {"dataset": "digits", "trained": {"accuracy": 0.5}, "evaluate": recipe.dump()["EVALUATE"]}
    run.metrics.write_text(json.dumps(about))
    run.timing.write_text("epoch,seconds,images_per_second\n1,1,100\n")
    for path in (run.maps, run.training):
        path.write_bytes(b"\x08torn")
    made = shown_by(pipelines.paper(paper), recipe)
    with pytest.raises(UserError, match=r"train\.json cannot be read"):
        gather(paper, "digits", tmp_path, None, [])
    run.training.write_text("{}")
    said = r"(maps\.safetensors is truncated or damaged|train\.json (does not say|cannot be read))"
    found = gather(paper, "digits", tmp_path, None, [])
    with pytest.raises(UserError, match=said):
        made.pages[shown].text(found) if shown in made.pages else made.figures[shown].draw(found, tmp_path / "a.png")


UNITS = {
    "aps": {
        "accuracy": "%",
        "accuracy_standard_error": "%",
        "fractional_worst_consistency": "%",
        "all_shifts_always_consistent": "%",
        "circular_max_logit_change": "",
        "all_shifts_max_logit_change": None,
        "all_shifts_images": None,
    },
    "sdnet": {
        "robustness_error": "%",
        "robustness_line_error_19": "%",
        "robustness_gaussian_noise_accuracy": "%",
        "robustness_line_slope": None,
        "robustness_line_r2": None,
        "robustness_images": None,
    },
    "wavelet_twins": {
        "kl_vertical": "nats",
        "kl_vertical_pixel": "nats",
        "normalised_kl_vertical": "nats",
        "mfr_vertical_step1": "%",
        "normalised_mfr_vertical_step1": "%",
        "kl_all": "nats",
        "normalised_mfr_all": "%",
        "perturbations_snow": "%",
        "shifts_images": None,
    },
}


@pytest.mark.parametrize("paper", UNITS)
def test_a_number_without_a_column_has_the_unit_of_what_it_is_named_after(paper: str) -> None:
    columns = form(paper, recipe_config(paper, "digits", [])).columns
    found = {key: described(key, columns) for key in UNITS[paper]}
    assert {key: metric and metric.unit for key, metric in found.items()} == UNITS[paper]


def test_a_plain_number_is_neither_a_percentage_nor_cut() -> None:
    assert [show_plain(value) for value in (60.0, 0.0, -0.0327481, 3.1e-7, 12345678.0)] == [
        "60",
        "0",
        "-0.03275",
        "3.1e-07",
        "12345678",
    ]


def test_evaluate_prints_divergence_in_nats_and_counts_as_counts(capsys: pytest.CaptureFixture[str]) -> None:
    config: RunConfig = recipe_config("wavelet_twins", "digits", [])
    trained = {"accuracy": 0.925, "kl_diagonal": 0.0818, "mfr_diagonal": 0.2986, "shifts_images": 80.0}
    found = {"dataset": "Digits", "images": 80, "trained": trained}
    _print_metrics(Run("wavelet_twins", "digits", "R18C", 0), config, found)
    shown = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in lines(capsys.readouterr().out)}
    assert shown == {
        "accuracy, one crop (%)": "92.50",
        "divergence, diagonal shifts, not normalised (nats)": "0.0818",
        "flip rate, diagonal shifts, not normalised (%)": "29.86",
        "shifts images": "80",
    }


def lines(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("│")]


def test_a_run_that_was_trained_by_other_settings_is_told_of(tmp_path: Path) -> None:
    small = ["TRAIN.EPOCHS", "1", "MODEL.WIDTH", "0.25"]
    for model, seed, pairs in (("resnet20", 0, []), ("resnet20_aps1", 1, small)):
        run = Run("aps", "digits", model, seed, tmp_path)
        run.folder.mkdir(parents=True)
        config = pipelines.configure(f"aps/{model}", "digits", [*pairs, "EVALUATE.REPEATS", "2"], seed)
        run.config.write_text(yaml.safe_dump(config.dump()))
        run.metrics.write_text(json.dumps({"dataset": "Digits", "trained": {"accuracy": 0.5}}))
    (told,) = (note for note in gather("aps", "digits", tmp_path, None, []).table.notes if "trained with" in note)
    assert told == (
        "resnet20_aps1, seed 1, was trained with other settings than this table's: "
        "MODEL.WIDTH: 0.25 -> 1.0, TRAIN.EPOCHS: 1 -> 5"
    )
    assert "resnet20, seed 0" in gather("aps", "digits", tmp_path, None, small).table.notes[-1]


@pytest.mark.parametrize(
    ("name", "filling"),
    [("sdnet/sdnet18_all", "blur"), ("sdnet/sdnet18", "polyphase"), ("wavelet_twins/R18wyC", "polyphase")],
)
def test_a_filling_that_the_paper_does_not_have_is_told_of_in_its_table(
    tmp_path: Path, name: str, filling: str
) -> None:
    paper, model = name.split("/")
    pairs = ["MODEL.DOWNSAMPLE", filling]
    run = Run(paper, "digits", model, 0, tmp_path)
    run.folder.mkdir(parents=True)
    run.config.write_text(yaml.safe_dump(pipelines.configure(name, "digits", pairs).dump()))
    run.metrics.write_text(json.dumps({"dataset": "Digits", "trained": {"accuracy": 0.5}}))
    usual = pipelines.paper(paper).schema()().model.downsample
    plain, asked = (gather(paper, "digits", tmp_path, None, given).table.notes for given in ([], pairs))
    told = f"{model}, seed 0, was trained with other settings than this table's: MODEL.DOWNSAMPLE: {filling} -> {usual}"
    assert told in plain and told not in asked
    assert f"Differs from the recipe: MODEL.DOWNSAMPLE: {usual} -> {filling}." in asked
    assert not any("Differs from the recipe" in note for note in plain)


#: figure -> the evaluation that it shows, and the networks that this evaluation has a result for
MADE_OF = {
    "aps": {"shift_maps": ("all_shifts", "*")},
    "blurpool": {"diagonal": ("diagonal", "*"), "feature_distance": ("feature_distance", "*")},
    "sdnet": {
        "corruptions": ("robustness", "*"),
        "robustness_accuracy": ("robustness", "*"),
        "lambda_sweep": ("robustness", "sdnet*"),
        "lambda_line": ("robustness", "sdnet*"),
        "attack": ("attack", "sdnet*"),
        "reconstructions_raw": ("reconstructions", "sdnet*_all_noshortcut"),
        "reconstructions_normalised": ("reconstructions", "sdnet*_all_noshortcut"),
        "reconstructions_equalised": ("reconstructions", "sdnet*_all_noshortcut"),
        "reconstructions_differences": ("reconstructions", "sdnet*_all_noshortcut"),
    },
    "translations": {
        "samples": ("samples", "*"),
        "confusion": ("confusion", "*"),
        "class_images": ("maximisers", "*"),
        "neurons": ("maximisers", "*"),
    },
    "wavelet_twins": {
        "divergence": ("shifts", "*"),
        "flip_rate": ("shifts", "*"),
        "accuracy_flips": ("shifts", "*"),
        "kernels": ("accuracy", "*wy*"),
    },
}
EVERY_RUN = {"consistency_accuracy", "learning_curves", "equivariance_quality", "second_layer"}


@pytest.mark.parametrize("paper", MADE_OF)
def test_a_shipped_recipe_has_exactly_the_figures_that_a_network_of_its_grid_can_have(paper: str) -> None:
    seen = set()
    for recipe in pipelines.paper(paper).recipes():
        config = recipe_config(paper, recipe, [])
        shown = set(form(paper, config).figures)
        possible = {
            figure
            for figure, (evaluation, networks) in MADE_OF[paper].items()
            if evaluation in config.evaluate.metrics and matching(config.grid, networks)
        }
        assert shown - EVERY_RUN == possible, f"{paper} {recipe}"
        seen |= shown
    assert seen - EVERY_RUN == set(MADE_OF[paper])


def test_what_is_not_measured_or_has_no_network_is_not_drawn() -> None:
    def figures(*pairs: str) -> set[str]:
        return set(form("sdnet", recipe_config("sdnet", "digits", list(pairs))).figures)

    assert figures("EVALUATE.METRICS", "[accuracy]") == {"learning_curves"}
    assert "attack" not in figures("EVALUATE.METRICS", "[accuracy, robustness]")
    assert figures("MODEL.DOWNSAMPLE", "polyphase") == {
        name for name in figures() if not name.startswith("reconstructions")
    }
    assert figures("GRID", "[resnet18]") == {"learning_curves", "robustness_accuracy", "corruptions"}
