"""Writes rows of cells as Markdown, LaTeX and CSV tables, with every cell escaped.

A cell may hold text chosen by others, such as a folder's name, a data set's title or a recipe's TITLE. It must not
become markup, a formula or a second row.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")
#: escaped marks: stars and underscores only at the edges of a word, where they are emphasis, not in ``resnet20_aps1 *``
_MARKDOWN = re.compile(r"[\\`|\[\]]|\*(?=\S)|(?<=\S)\*|(?<!\w)_|_(?!\w)")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    **{mark: "\\" + mark for mark in "_%&#${}"},
}
#: first characters of a formula in spreadsheets
_FORMULA = ("=", "+", "-", "@")


class Markdown(str):
    """Text that is already Markdown."""

    __slots__ = ()


def one_line(text: str) -> str:
    """`text` without line breaks and other control characters."""
    return _CONTROL.sub(" ", text)


def escaped(text: str) -> str:
    """`text` escaped for Markdown."""
    if isinstance(text, Markdown):
        return text
    return _MARKDOWN.sub(lambda found: "\\" + found[0], one_line(text).translate(_ENTITIES))


def bold(text: str) -> Markdown:
    """`text` in bold; "" stays ""."""
    return Markdown(f"**{escaped(text)}**" if text else "")


def italic(text: str) -> Markdown:
    """`text` in italics; "" stays ""."""
    return Markdown(f"*{escaped(text)}*" if text else "")


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Rows of cells as a Markdown table, each column as wide as its widest cell."""
    rows = [[escaped(cell) for cell in row] for row in (head, *lines)]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]

    def join(cells: list[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([join(rows[0]), rule, *map(join, rows[1:])])


def markdown_page(title: str, *parts: str) -> str:
    """A page: its title, then its Markdown parts, separated by blank lines."""
    return "\n\n".join([f"# {escaped(title)}", *(part for part in parts if part)]) + "\n"


def latex(text: str) -> str:
    """`text` escaped for LaTeX."""
    return "".join(_LATEX.get(mark, mark) for mark in one_line(text))


def latex_table(head: Sequence[str], lines: Iterable[Sequence[str]], caption: str) -> str:
    """Rows of cells as a floating table in booktabs style; the first two columns are aligned left."""

    def join(cells: Sequence[str]) -> str:
        return " & ".join(map(latex, cells)) + r" \\"

    body = "\n".join(map(join, lines))
    return (
        "% needs \\usepackage{booktabs}\n\\begin{table}\n\\centering\n"
        f"\\begin{{tabular}}{{ll{'r' * (len(head) - 2)}}}\n\\toprule\n{join(head)}\n\\midrule\n{body}\n\\bottomrule\n"
        f"\\end{{tabular}}\n\\caption{{{latex(caption)}}}\n\\end{{table}}\n"
    )


def csv_text(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Rows of cells as comma-separated values: numbers in full precision, "" for None.

    Text that a spreadsheet would read as a formula gets an apostrophe in front.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_csv_cell(cell) for cell in row] for row in (head, *lines))
    return text.getvalue()


def _csv_cell(cell: object) -> str:
    if isinstance(cell, float):
        return repr(cell)
    if not isinstance(cell, str):
        return "" if cell is None else str(cell)
    text = one_line(cell)
    return f"'{text}" if text.startswith(_FORMULA) and not _number(text) else text


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
