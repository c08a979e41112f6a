"""What the papers' schemas say of networks and evaluations, without torch, is what those are."""

import json
import re
import subprocess
import sys

import pytest
import torch

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.schema import ALWAYS_READ
from stillpoint.core.evaluation.engine import chosen

RECIPES = [(paper, recipe) for paper in pipelines.papers() for recipe in pipelines.paper(paper).recipes()]


@pytest.mark.parametrize(("paper", "recipe"), RECIPES)
def test_the_schema_knows_the_names_of_the_evaluations(paper: str, recipe: str) -> None:
    config = pipelines.recipe_config(paper, recipe)
    assert set(config.known_metrics()) == set(pipelines.paper(config.pipeline).evaluations(config))
    assert chosen(config.evaluate.metrics, pipelines.paper(config.pipeline).evaluations(config))


def test_an_evaluation_that_is_not_known_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(UserError, match="unknown evaluation 'windos'; nearest: windows; choose from accuracy, "):
        pipelines.configure("blurpool/resnet18", "digits", ["EVALUATE.METRICS", "[accuracy, windos]"])
    with pytest.raises(UserError, match="unknown evaluation 'diagonal'"):
        pipelines.configure("aps/resnet20", "digits", ["EVALUATE.METRICS", "[diagonal]"])
    with pytest.raises(UserError, match="unknown evaluation 'accuracy'; choose from reconstruction, "):
        pipelines.configure("aps/UNet_3down", "digits_undersampled", ["EVALUATE.METRICS", "[accuracy]"])


@pytest.mark.parametrize(
    ("name", "pairs", "words"),
    [
        (
            "aps/resnet20",
            ["EVALUATE.MARGIN", "8"],
            r"EVALUATE.MARGIN changes nothing of what .* measures: only windows would read it",
        ),
        ("aps/resnet20", ["EVALUATE.ERASE", "[3]"], "only erase would read it"),
        (
            "aps/resnet20",
            ["EVALUATE.PROTOCOL", "authors", "EVALUATE.REPEATS", "2", "EVALUATE.METRICS", "[circular]"],
            r"EVALUATE.REPEATS changes nothing of what EVALUATE.METRICS \[circular\] measures",
        ),
        (
            "blurpool/resnet18",
            ["EVALUATE.METRICS", "[accuracy]", "EVALUATE.MAX_SHIFT", "4"],
            "only circular, .*windows",
        ),
        ("wavelet_twins/R18C", ["EVALUATE.IMAGENET_P", "videos"], "only perturbations would read it"),
        ("sdnet/sdnet18", ["EVALUATE.METRICS", "[accuracy]", "EVALUATE.TENSORBOARD", "True"], "only reconstructions"),
        ("wavelet_twins/R18C", ["EVALUATE.PROTOCOL", "authors"], "wavelet_twins has only one protocol"),
    ],
)
def test_a_setting_of_evaluation_without_effect_is_refused_when_it_is_read(name, pairs, words) -> None:
    with pytest.raises(UserError, match=words):
        pipelines.configure(name, "digits", pairs)


def test_a_setting_of_evaluation_with_effect_is_taken() -> None:
    pairs = ["EVALUATE.METRICS", "[accuracy, windows]", "EVALUATE.REPEATS", "2", "EVALUATE.PROTOCOL", "authors"]
    assert pipelines.configure("blurpool/resnet18", "digits", pairs).evaluate.repeats == 2
    # a recipe may state what a narrower measurement of it does not read
    assert pipelines.configure("blurpool/resnet18", "digits", ["EVALUATE.METRICS", "[accuracy]"]).evaluate.repeats


def test_every_setting_that_an_evaluation_reads_is_one() -> None:
    for paper, recipe in RECIPES:
        config = pipelines.recipe_config(paper, recipe)
        read = {name for reads in config.known_metrics().values() for name in reads}
        fields = set(type(config.evaluate).model_fields)
        assert read <= fields
        # what nothing of this paper reads can only be refused
        shifts = {"margin", "max_shift", "worst_shift", "limit_all_shifts", "limit_dear"}
        assert fields - read - set(ALWAYS_READ) <= {"erase", "fractions", *shifts}


def test_reading_a_configuration_imports_no_torch() -> None:
    code = (
        "import json, sys\n"
        "from stillpoint import pipelines\n"
        "from stillpoint.pipelines import recipe_config\n"
        "for paper in pipelines.papers():\n"
        "    pipelines.configure(f'{paper}/{recipe_config(paper, \"digits\").grid[0]}', 'digits')\n"
        "print(json.dumps('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False


@pytest.mark.parametrize("paper", pipelines.papers())
def test_nll_is_for_networks_that_give_logarithms_of_probabilities(paper: str) -> None:
    recipe = pipelines.recipe_config(paper, "digits")
    name = f"{paper}/{recipe.grid[0]}"
    net = pipelines.build(pipelines.configure(name, "digits")).eval()
    size = recipe.data.image_size or 32
    with torch.inference_mode():
        chances = net(torch.rand(2, 1, size, size)).exp().sum(1)
    assert torch.allclose(chances, torch.ones(2), atol=1e-5) == (not recipe.LOGITS)
    if recipe.LOGITS:
        with pytest.raises(UserError, match=f"nll takes log-probabilities, but networks of {paper} return"):
            pipelines.configure(name, "digits", ["TRAIN.LOSS", "nll"])
    else:
        assert pipelines.configure(name, "digits", ["TRAIN.LOSS", "nll"]).train.loss == "nll"


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (["MODEL.NORM", "bach"], r"MODEL\.NORM must be one of [^:]*, got 'bach'; nearest: batch"),
        (["MODEL.WIDTH", "16"], r"MODEL\.WIDTH: it is a multiplier [^:]* \(given: 16\)"),
        (["TRAIN.EPOCHS", "-1"], r"TRAIN\.EPOCHS: [^:]* \(given: -1\)"),
    ],
)
def test_a_refusal_says_the_key_and_what_was_given_once(pairs: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        pipelines.configure("aps/resnet20", "digits", pairs)
    assert re.fullmatch(sentence, str(error.value))
