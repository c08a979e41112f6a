"""The site's pages: short, without a broken link, with every public name, and with no guarantee that has no test."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from stillpoint.core import layers, metrics
from tests.test_readme import ROOT, TEXTS

GUARANTEES = (ROOT / "docs" / "which_layer.md").read_text()
#: words of a page beside its tables, code and pictures
LONGEST = 1500


def prose(text: str) -> str:
    """A page without what is looked up: code, tables, pictures, comments, addresses of links."""
    text = re.sub(r"^```.*?^```|<!--.*?-->", "", text, flags=re.S | re.M)
    text = "\n".join(line for line in text.splitlines() if not line.startswith(("|", "![", ":::")))
    return re.sub(r"\]\([^)]*\)", "]", text)


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "CHANGELOG.md"])
def test_a_page_is_read_in_one_sitting(name: str) -> None:
    assert len(prose(TEXTS[name]).split()) <= LONGEST


@pytest.mark.parametrize("name", [name for name in TEXTS if name.endswith("README.md") and "docs" not in name])
def test_a_readme_has_at_most_500_words(name: str) -> None:
    """Beside the tables that are made of kept runs."""
    text = re.sub(r"<!-- (kept|stated): ([^>]*?) -->.*?<!-- /\1 -->", "", TEXTS[name], flags=re.S)
    assert len(text.split()) <= 500


def slug(heading: str) -> str:
    """The anchor that MkDocs and GitHub give a heading."""
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.strip().lower()))


@pytest.mark.parametrize("name", TEXTS)
def test_a_link_to_a_heading_finds_it(name: str) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", TEXTS[name]):
        page = (ROOT / name).parent / target if target else ROOT / name
        headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
        assert anchor in {slug(heading) for heading in headings}, f"{target}#{anchor}"


class _Loose(yaml.SafeLoader):
    """Reads MkDocs' own tags as nothing."""


def pages(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    inside = entry.values() if isinstance(entry, dict) else entry
    return [page for part in inside for page in pages(part)]  # type: ignore[attr-defined]


def test_every_page_is_in_the_menu() -> None:
    menu = pages(yaml.load((ROOT / "mkdocs.yml").read_text(), _Loose)["nav"])
    assert len(menu) == len(set(menu))
    docs = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    tables = {f"demo/{path.parent.name}/table.md" for path in (ROOT / "docs" / "demo").glob("*/table.md")}
    made = {f"papers/{path.parent.name}.md" for path in (ROOT / "pipelines").glob("*/README.md")}
    made |= {f"lessons/{path.stem}.md" for path in (ROOT / "lessons").glob("*.py")}
    made |= {"changelog.md", "contributing.md", "security.md"}
    assert set(menu) == (docs - tables) | made


@cache
def functions_of(file: str) -> set[str]:
    return {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_guarantee_names_a_test_that_there_is() -> None:
    named = dict(re.findall(r"^- (L\d+) `(tests/\S+)`$", GUARANTEES, re.M))
    table = re.search(r"^\| filling or method.*?\n\n", GUARANTEES, re.S | re.M)
    assert table is not None
    rows = [line.strip("|").split("|") for line in table[0].splitlines()[2:] if line]
    assert len(rows) > 10
    cells = [cell.strip() for row in rows for cell in row[1:]]
    claims = [cell for cell in cells if cell != "-"]
    assert not [cell for cell in claims if not re.search(r"\(L\d+\)", cell)]
    assert {law for cell in claims for law in re.findall(r"\((L\d+)\)", cell)} == set(named)
    for law, test in named.items():
        file, _, function = test.partition("::")
        assert function in functions_of(file), law


@pytest.mark.parametrize(("page", "room"), [("layers", layers), ("metrics", metrics)])
def test_every_public_name_is_in_the_reference_once(page: str, room: object) -> None:
    text = (ROOT / "docs" / "api" / f"{page}.md").read_text()
    shown = [name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)$", text, re.M)]
    assert len(shown) == len(set(shown))
    documented = {name for name in room.__all__ if getattr(getattr(room, name), "__name__", "") == name}  # type: ignore[attr-defined]
    assert set(shown) == documented
    for path in re.findall(r"^::: (\S+)$", text, re.M):
        module, _, name = path.removeprefix("stillpoint.").rpartition(".")
        tree = ast.parse((ROOT / Path(*module.split("."))).with_suffix(".py").read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}, path


def test_the_search_works_on_a_site_that_is_opened_as_files() -> None:
    """Browsers let a file load neither an index of JSON nor a worker; the plugin's own stand-in would be fetched."""
    given = yaml.load((ROOT / "mkdocs.yml").read_text(), _Loose)
    plugins = [plugin if isinstance(plugin, str) else next(iter(plugin)) for plugin in given["plugins"]]
    assert {"search", "offline"} <= set(plugins)
    (script,) = given["extra"]["polyfills"]
    # by this word in its name the plugin knows it, and adds none of its own
    assert "iframe-worker" in script and (ROOT / "docs" / script).is_file()
