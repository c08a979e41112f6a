"""How tables are written is one file: a change there is in every table and page of every paper."""

import json

import pytest

from tests.contracts.repository import Copy

WRITING, COLUMNS, TABLES = (f"core/reporting/{name}.py" for name in ("writing", "columns", "tables"))
#: paper, recipe, network -> the pages of Markdown that its recipe has
SHOWN = {
    ("aps", "digits", "resnet20"): {"table.md"},
    ("blurpool", "imagenet", "resnet18"): {"table.md", "from_scratch.md"},
    ("sdnet", "cifar10", "sdnet18"): {"table.md", "pretrained.md", "corruptions.md", "noises.md", "speed.md"},
}


@pytest.fixture
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The repository with an evaluated run of two seeds for each of `SHOWN`."""
    made = Copy(tmp_path_factory.mktemp("table"))
    for paper, recipe, network in SHOWN:
        for seed in (0, 1):
            run = made.folder / "results" / paper / recipe / network / f"seed{seed}"
            run.mkdir(parents=True)
            (run / "metrics.json").write_text(json.dumps({"dataset": recipe, "trained": {"accuracy": 0.5 + seed / 10}}))
    return made


def make_tables(copy: Copy, *papers: str) -> None:
    named = [(paper, recipe) for paper, recipe, _ in SHOWN if paper in papers or not papers]
    calls = [f"assert not main(['table', {paper!r}, '--recipe', {recipe!r}])" for paper, recipe in named]
    copy.run("-c", "\n".join(["from stillpoint.pipelines.cli import main", *calls]))


def test_markdown_is_written_in_one_place(copy: Copy) -> None:
    copy.replace(WRITING, '"|".join("-" * (width + 2) for width in widths)', '"|".join("~toy~" for width in widths)')
    make_tables(copy)
    for (paper, recipe, _), pages in SHOWN.items():
        folder = copy.folder / "results" / paper / recipe
        assert {path.name for path in folder.glob("*.md")} == pages
        for page in pages:
            text = (folder / page).read_text()
            assert "~toy~" in text and "|--" not in text and "---" not in text, page
    assert copy.changed() == {WRITING}


def test_mean_and_spread_are_written_in_one_place(copy: Copy) -> None:
    copy.replace(COLUMNS, 'f"{text} ± {spread:.{digits}f}"', 'f"{text} (toy {spread:.{digits}f})"')
    make_tables(copy, "aps", "sdnet")
    for name in ("aps/digits/table.md", "aps/digits/table.tex", "sdnet/cifar10/pretrained.md"):
        assert "55.00 (toy 7.07)" in (copy.folder / "results" / name).read_text(), name
    assert copy.changed() == {COLUMNS}


def test_a_form_of_file_is_one_line(copy: Copy) -> None:
    copy.replace(TABLES, '"json": to_json}', '"json": to_json, "toy": lambda table: f"{table.rows[0].model} toy"}')
    make_tables(copy, "aps")
    assert (copy.folder / "results" / "aps" / "digits" / "table.toy").read_text() == "resnet20 toy"
    # Snakemake knows it as its own
    dry = copy.run("-m", "snakemake", "pipelines/aps/all", "--dry-run", "--cores", "1", "--config", "results=elsewhere")
    assert "elsewhere/aps/digits/table.toy" in dry
    assert copy.changed() == {TABLES}
