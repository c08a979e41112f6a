"""A paper is its folder and its name in one list."""

import ast
import csv
import io
import json
import shutil
from pathlib import Path

import pytest
import yaml
from dvc.utils.serialize import load_py

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.reporting.published import Published
from stillpoint.pipelines.paper import HERE, Paper
from stillpoint.pipelines.papers import PAPERS
from stillpoint.pipelines.results import shown_by
from tests.contracts.repository import ROOT, TINY, Copy

LIST = "pipelines/papers.py"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The repository with the template as the paper `toy`."""
    made = Copy(tmp_path_factory.mktemp("paper"))
    shutil.copytree(made.folder / "pipelines" / "_template", made.folder / "pipelines" / "toy")
    made.replace(LIST, '"aps", ', '"aps", "toy", ')
    return made


def test_a_copy_of_the_template_comes_to_its_table_with_one_name_in_one_list(copy: Copy) -> None:
    text = copy.to_its_table("toy", ("plain", "blurred"), TINY)
    rows = {
        (row["network"], row["metric"]): row for row in csv.DictReader(io.StringIO(text)) if row["state"] == "trained"
    }
    for network in ("plain", "blurred"):
        measured = json.loads((copy.folder / f"results/toy/digits/{network}/seed0/metrics.json").read_text())["trained"]
        for metric in ("accuracy", "circular_consistency"):
            assert float(rows[network, metric]["mean"]) == pytest.approx(100 * measured[metric])
    figures = {path.stem for path in (copy.folder / "results" / "toy" / "digits" / "figures").iterdir()}
    assert figures == {"consistency_accuracy", "learning_curves"}
    others = {name for name in copy.changed() if not name.startswith("pipelines/toy/")}
    assert others == {LIST}


def test_snakemake_has_the_rules_of_every_paper_on_the_list(copy: Copy) -> None:
    targets, elsewhere = ["pipelines/toy/all", "pipelines/aps/all"], ["--config", "results=elsewhere"]
    told = copy.run("-m", "snakemake", *targets, "--dry-run", "--cores", "1", *elsewhere)
    words = [line.split() for line in told.splitlines()]
    jobs = {line[0]: int(line[1]) for line in words if len(line) == 2 and line[1].isdecimal()}
    assert {name: jobs[name] for name in ("toy_train", "toy_evaluate", "toy_table", "toy_figures")} == {
        "toy_train": 2,
        "toy_evaluate": 2,
        "toy_table": 1,
        "toy_figures": 1,
    }
    assert jobs["aps_train"] == 12 and jobs["pipelines/aps/all"] == jobs["pipelines/toy/all"] == 1


def test_dvc_reads_the_list_that_python_reads() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    assert stages["stages"]["workflow"]["matrix"] == {"paper": "${PAPERS}"} and LIST in stages["vars"]
    assert load_py(str(ROOT / LIST))["PAPERS"] == PAPERS == sorted(PAPERS)


def test_every_folder_is_on_the_list_and_every_name_has_its_folder() -> None:
    assert {path.parent.name for path in HERE.glob("*/configs")} == {*PAPERS, "_template"}
    for name in PAPERS:
        paper = pipelines.paper(name)
        assert isinstance(paper, Paper) and (paper.name, paper.folder) == (name, HERE / name)


def test_a_paper_is_asked_for_nothing_that_the_contract_does_not_say() -> None:
    """Nothing outside a paper's folder imports from it: all goes through its `Paper`."""
    guilty = []
    for path in [*ROOT.glob("core/**/*.py"), *ROOT.glob("pipelines/*.py"), *ROOT.glob("pipelines/commands/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            guilty += [f"{path}: {name}" for name in named if name.split(".")[2:3] and name.split(".")[2] in PAPERS]
        if path.name != "networks.py":
            text = path.read_text()
            assert 'import_module(f"stillpoint.pipelines' not in text, path
    assert not guilty


def test_every_attribute_of_a_paper_says_what_it_is_and_its_type() -> None:
    for name, value in vars(Paper).items():
        if name.startswith("_") or name in ("code", "folder", "published_file"):
            continue
        function = getattr(value, "fget", None) or getattr(value, "func", None) or value
        assert function.__doc__, name
        assert "return" in function.__annotations__, name


def test_a_paper_without_published_numbers_states_none(tmp_path: Path) -> None:
    class Bare(Paper):
        folder = tmp_path

    assert Bare().published == Published()
    config = pipelines.recipe_config("aps", "digits")
    assert Bare().evaluations(config) is None and Bare().hooks(config) is None
    assert set(shown_by(Bare(), config).figures) == {"consistency_accuracy", "shift_maps", "learning_curves"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("entries: 3", "entries"),
        ("entries: [{source: a, recipes: [b], rows: [{models: [c], accuracy: high}]}]", "entries.0.rows.0.accuracy"),
        ("entries: [{source: a, recipe: [b], rows: []}]", "entries.0"),
        ("weights: {files: {}}", "weights.address"),
        ("[", "is not valid YAML"),
        ("- 1", "published.yaml"),
    ],
)
def test_published_numbers_of_another_form_are_told_in_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    class Stated(Paper):
        folder = tmp_path

    (tmp_path / "published.yaml").write_text(text)
    with pytest.raises(UserError, match=said) as error:
        assert Stated().published
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", PAPERS)
def test_every_figure_of_every_recipe_has_its_caption(name: str) -> None:
    paper = pipelines.paper(name)
    shown = {
        figure
        for recipe in paper.recipes()
        for figure in shown_by(paper, pipelines.recipe_config(name, recipe)).figures
    }
    pages = {
        page.removesuffix(".html")
        for recipe in paper.recipes()
        for page in shown_by(paper, pipelines.recipe_config(name, recipe)).pages
        if page.endswith(".html")
    }
    assert not [figure for figure in ("table", *shown) if not paper.caption(figure).is_file()]
    assert {path.stem for path in (paper.folder / "report").glob("*.rst")} <= {"table", *shown, *pages}
