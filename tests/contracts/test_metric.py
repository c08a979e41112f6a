"""A metric in every paper's table is its own file and one line."""

import csv
import io
import json

import pytest

from stillpoint import pipelines
from stillpoint.core.config.catalogue import info
from tests.contracts.repository import TINY, Copy
from tests.test_readme import TEXTS, blocks

LINES, OWN = "core/config/evaluations.py", "core/evaluation/first_class.py"
#: the page's own code
FILE = next(block for block in blocks(TEXTS["docs/extending.md"], "python") if OWN in block)
LINE = next(block for block in blocks(TEXTS["docs/extending.md"], "text") if "Entry(" in block)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The repository with the toy."""
    made = Copy(tmp_path_factory.mktemp("metric"))
    (made.folder / OWN).write_text(FILE)
    made.replace(LINES, "EVALUATIONS: dict[str, Entry] = {\n", "EVALUATIONS: dict[str, Entry] = {\n" + LINE)
    return made


@pytest.mark.parametrize(("paper", "network"), [("aps", "resnet20"), ("translations", "TwoFullNet")])
def test_it_comes_to_a_cell_of_a_papers_table(copy: Copy, paper: str, network: str) -> None:
    pairs = TINY if paper == "aps" else ["TRAIN.EPOCHS", "1", "DATA.LIMIT", "32", "MODEL.HIDDEN", "4"]
    text = copy.to_its_table(paper, (network,), pairs)
    rows = {(row["state"], row["metric"]): row for row in csv.DictReader(io.StringIO(text))}
    folder = copy.folder / "results" / paper / "digits"
    measured = json.loads((folder / network / "seed0" / "metrics.json").read_text())
    assert float(rows["trained", "first_class"]["mean"]) == pytest.approx(100 * measured["trained"]["first_class"])
    assert "first class (%)" in (folder / "table.md").read_text()
    assert copy.changed() == {LINES, OWN}


def test_every_recipe_of_a_classifier_measures_it_and_every_paper_shows_it(copy: Copy) -> None:
    program = (
        "import json\n"
        "from stillpoint import pipelines\n"
        "found = {}\n"
        "for name in pipelines.papers():\n"
        "    paper = pipelines.paper(name)\n"
        "    for recipe in paper.recipes():\n"
        "        config = pipelines.recipe_config(name, recipe)\n"
        "        shown = any(column.key == 'first_class' for column in paper.shown(config).columns)\n"
        "        found[f'{name} {recipe}'] = ['first_class' in config.evaluate.metrics, shown]\n"
        "print(json.dumps(found))\n"
    )
    found = json.loads(copy.run("-c", program).splitlines()[0])
    assert len(found) > 40
    entries = {
        f"{name} {recipe}": info(pipelines.recipe_config(name, recipe).data.name)
        for name in pipelines.papers()
        for recipe in pipelines.paper(name).recipes()
    }
    # no network of these gives a class for an image
    images = {recipe for recipe, entry in entries.items() if entry.pairs or entry.label_maps}
    assert {recipe for recipe, both in found.items() if both != [True, True]} == images
    assert {recipe for recipe, both in found.items() if both == [False, False]} == images


def test_what_stands_for_every_tables_evaluations_keeps_their_place_and_repeats_none() -> None:
    def measured(metrics: str) -> tuple[str, ...]:
        return pipelines.recipe_config("aps", "digits", ["EVALUATE.METRICS", metrics]).evaluate.metrics

    assert measured("[..., fractional]") == ("accuracy", "fractional")
    assert measured("['circular', ...]") == ("circular", "accuracy")
    assert measured("[crop, accuracy, ...]") == ("crop", "accuracy")
    assert measured("[fractional]") == ("fractional",)
    assert measured("[...]") == ("accuracy",)
