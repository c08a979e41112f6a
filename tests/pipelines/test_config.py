"""What the papers' schemas say of networks and evaluations, without torch, is what those are."""

import json
import subprocess
import sys

import pytest
import torch

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
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
    with pytest.raises(UserError, match="unknown evaluation 'windows'"):
        pipelines.configure("aps/resnet20", "digits", ["EVALUATE.METRICS", "[windows]"])
    with pytest.raises(UserError, match="unknown evaluation 'accuracy'; choose from reconstruction, "):
        pipelines.configure("aps/UNet_3down", "digits_undersampled", ["EVALUATE.METRICS", "[accuracy]"])


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
        with pytest.raises(UserError, match=f"nll takes logarithms of probabilities, but networks of {paper} give"):
            pipelines.configure(name, "digits", ["TRAIN.LOSS", "nll"])
    else:
        assert pipelines.configure(name, "digits", ["TRAIN.LOSS", "nll"]).train.loss == "nll"
