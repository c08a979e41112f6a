"""The hours that the page on clusters gives follow from the recipes and from its formula."""

import re
from pathlib import Path

from stillpoint import pipelines

PAGE = (Path(__file__).parent.parent / "docs" / "clusters.md").read_text()
PHOTOGRAPHS, RATE = 1_281_167, 1000


def test_the_hours_of_a_grid_are_those_of_its_recipe() -> None:
    rows = re.findall(r"^\| (\w+) \| `(imagenet\w*|pasa)` \| (\d+) \| (\d+) \| (\d+) \| ([\d.]+) \|$", PAGE, flags=re.M)
    told = {}
    for paper, recipe, networks, epochs, hours, days in rows:
        config = pipelines.recipe_config(paper, recipe)
        assert (len(config.grid), config.train.epochs) == (int(networks), int(epochs)), (paper, recipe)
        exact = int(networks) * int(epochs) * PHOTOGRAPHS / RATE / 3600
        assert f"{exact:.0f}" == hours and f"{exact / 8 / 24:.1f}" == days, (paper, recipe)
        told.setdefault(paper, set()).add(recipe)
    for paper, recipes in told.items():
        trained = {
            name
            for name in pipelines.paper(paper).recipes()
            if (config := pipelines.recipe_config(paper, name)).data.name == "imagenet" and config.train.epochs
        }
        assert recipes == trained, paper
    assert set(told) == {"aps", "blurpool", "wavelet_twins", "sdnet"}


def test_the_hours_of_one_network_follow_from_the_formula() -> None:
    rows = re.findall(r"^\| (\d+) epochs, (\d) GPUs? \|((?: [\d.]+ h \|){3})$", PAGE, flags=re.M)
    assert len(rows) == 4
    for epochs, gpus, hours in rows:
        for rate, told in zip((500, 1000, 2000), re.findall(r"[\d.]+", hours), strict=True):
            assert f"{int(epochs) * PHOTOGRAPHS / (rate * int(gpus) * 3600):.1f}" == told
