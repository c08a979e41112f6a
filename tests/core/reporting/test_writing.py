"""Whatever a cell holds, the table has one row more and its readers read that text."""

import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from stillpoint.core.base.files import write_together
from stillpoint.core.reporting.writing import (
    Markdown,
    bold,
    csv_text,
    escaped,
    italic,
    latex,
    latex_table,
    markdown_page,
    markdown_table,
    one_line,
)

HOSTILE = [
    "=cmd|' /C calc'!A0",
    "a|b",
    "<img src=x onerror=alert(1)>",
    r"\input{/etc/passwd}",
    "one\ntwo",
    "one\r\n| two | three |",
    "**bold** _it_ `code` [link](http://x) ![i](y)",
    "&lt;script&gt;",
    "a\\|b",
    "$x^2$ ~ #1 {a} %",
    "\x1b[31mred\u2028next",
]
RENDERER = MarkdownIt("commonmark", {"html": True}).enable("table")


def cells_of(text: str) -> list[list[str]]:
    """What a browser shows in the cells of a table of Markdown."""
    import html

    rows = re.findall(r"<tr>(.*?)</tr>", RENDERER.render(text), flags=re.S)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, flags=re.S) for row in rows]
    assert not re.search(r"<(?!/?(table|thead|tbody|tr|th|td))", RENDERER.render(text)), RENDERER.render(text)
    return [[html.unescape(cell) for cell in row] for row in cells]


def spaces(text: str) -> str:
    return " ".join(one_line(text).split())


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_of_markdown_shows_its_text_and_is_one_cell(text: str) -> None:
    shown = cells_of(markdown_table(["network", "n"], [[text, "1"], ["net", "2"]]))
    assert [[spaces(cell) for cell in row] for row in shown[1:]] == [[spaces(text), "1"], ["net", "2"]]


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(lambda text: spaces(text).isprintable()))
def test_any_text_is_one_cell_of_markdown(text: str) -> None:
    shown = cells_of(markdown_table(["network", "n"], [[f"x{text}x", "1"]]))
    assert len(shown) == 2 and len(shown[1]) == 2
    assert spaces(shown[1][0]) == spaces(f"x{text}x")


@pytest.mark.parametrize("name", ["resnet20_aps1 *", "resnet20_lpf3", "95.31 ± 0.42", "accuracy (%)", "ours - paper"])
def test_what_needs_no_escape_stays(name: str) -> None:
    assert escaped(name) == name


@pytest.mark.parametrize("text", HOSTILE)
def test_latex_holds_no_command_of_a_cell(text: str) -> None:
    written = latex(text)
    left = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar)\{\}", "", written)
    left = re.sub(r"\\[_%&#${}]|\$\\pm\$", "", left)
    assert not set(left) & set("\\{}$&#%_^~<>|\n\r\x1b")
    body = latex_table(["network", "state", "n"], [[text, "trained", "1"]], caption=text)
    assert body.count("\n") == latex_table(["a", "b", "c"], [["d", "e", "f"]], caption="g").count("\n")
    assert r"\input{" not in body


@pytest.mark.parametrize("text", [*HOSTILE, "+1+1", "-2+3", "@SUM(A1)", "\t=1+1"])
def test_a_cell_of_csv_is_no_formula_and_no_second_row(text: str) -> None:
    written = csv_text(["network", "mean"], [[text, -0.5], ["-0.25", None]])
    assert len(written.splitlines()) == 3
    rows = list(csv.reader(io.StringIO(written)))
    assert rows[1][0].removeprefix("'") == one_line(text) and not rows[1][0].startswith(("=", "+", "-", "@"))
    # numbers stay numbers
    assert rows[1][1] == "-0.5" and rows[2] == ["-0.25", ""]


def test_bold_and_italic_type_escape_what_they_hold() -> None:
    assert (bold("a|b"), italic("*"), bold("")) == (r"**a\|b**", "***", "")
    assert escaped(bold("x")) == "**x**" and isinstance(bold("x"), Markdown)


def test_a_page_has_its_title_and_its_parts() -> None:
    assert markdown_page("a <b>", "one", "", "two") == "# a &lt;b&gt;\n\none\n\ntwo\n"


def test_files_are_written_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / name for name in ("a.csv", "b.md", "c.json")]
    write_together(dict.fromkeys(paths[:2], "old"))
    assert sorted(tmp_path.iterdir()) == paths[:2]
    # the last cannot take its name: a folder is there
    paths[2].mkdir()
    with pytest.raises(OSError):
        write_together(dict.fromkeys(paths, "new"))
    assert [path.read_text() for path in paths[:2]] == ["old", "old"] and sorted(tmp_path.iterdir()) == paths
    paths[2].rmdir()
    (tmp_path / "d.tex").mkdir()
    with pytest.raises(OSError):
        write_together({paths[2]: "new", tmp_path / "d.tex": "new"})
    # what was not there before is not there now
    assert not paths[2].exists()
    (tmp_path / "d.tex").rmdir()
    write_together(dict.fromkeys(paths, "new"))
    assert [path.read_text() for path in paths] == ["new"] * 3 and sorted(tmp_path.iterdir()) == paths
