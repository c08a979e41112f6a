"""Writes results of kept runs into pages, between ``<!-- kept: ... -->`` and ``<!-- /kept -->``.

    table PAPER/RECIPE [networks=PATTERN] [columns=KEY,KEY] [states=trained]    the table with its remarks
    page PAPER/RECIPE NAME.md                                                  a page of the paper
    number PAPER/RECIPE/NETWORK KEY [state=untrained]                          one number with its spread, in a sentence
    figure PAPER/RECIPE NAME                                                   a link to a figure of the kept runs
    runs PAPER                                                                 the kept recipes, with numbers of runs

If nothing is kept, the command that would make it is written instead. ``stillpoint pages`` writes all of them.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from stillpoint.core.base.documents import read_json
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.words import counted
from stillpoint.core.reporting import tables
from stillpoint.core.reporting.reading import STATES, found_runs
from stillpoint.core.reporting.writing import escaped, markdown_table
from stillpoint.core.runs import layout
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines import networks
from stillpoint.pipelines.gathering import complete, gather
from stillpoint.pipelines.papers import PAPERS
from stillpoint.pipelines.results import Results, shown_by

#: the pages, relative to the repository's root
WHERE = ("README.md", "pipelines/*/README.md", "docs/**/*.md")
FENCED = re.compile(r"(^```.*?^```$)", re.M | re.S)
MARKED = re.compile(r"<!-- kept: ([^>]*?) -->(.*?)<!-- /kept -->", re.S)
ROOT = networks.HERE.parent


def pages(root: Path = ROOT) -> list[Path]:
    """The pages that may show results."""
    return sorted({path for pattern in WHERE for path in root.glob(pattern)})


def recipes(kept: Path) -> list[tuple[str, str]]:
    """(paper, recipe) of all kept runs."""
    return list(dict.fromkeys((run.pipeline, run.recipe) for run in Run.all_kept(kept) if run.pipeline in PAPERS))


class Kept:
    """The texts of the kept runs in a folder; each recipe is gathered once."""

    def __init__(self, root: Path) -> None:
        self.root, self.up = root, ""
        self.gathered = cache(self._gathered)

    def _gathered(self, paper: str, recipe: str) -> Results | None:
        networks.paper(paper).recipe_file(recipe)
        if not found_runs(paper, recipe, self.root):
            return None
        return gather(paper, recipe, self.root, None, [], self.root)

    def written(self, text: str, name: str) -> str:
        """A page's text with the content between its markers replaced, except in blocks of code.

        `name` is the page's name in errors. `UserError` for a marker that is not closed or not valid.
        """
        parts = FENCED.split(text)
        parts[0::2] = [self._written(part, name) for part in parts[0::2]]
        return "".join(parts)

    def _written(self, text: str, name: str) -> str:
        if text.count("<!-- kept:") != len(MARKED.findall(text)):
            raise UserError(f"{name} has a marker <!-- kept: ... --> without its <!-- /kept -->")

        self.up = "../" * name.count("/")

        def anew(found: re.Match[str]) -> str:
            try:
                inside = self.says(found[1])
            except UserError as error:
                raise UserError(f"{name}: <!-- kept: {found[1]} -->: {error}") from None
            return f"<!-- kept: {found[1]} -->{inside}<!-- /kept -->"

        return MARKED.sub(anew, text)

    def says(self, words: str) -> str:
        """The text for a marker; `UserError` if it is not valid."""
        what, *rest = words.split()
        kinds: dict[str, Callable[..., str]] = {
            "table": self.table,
            "page": self.page,
            "number": self.number,
            "figure": self.figure,
            "runs": self.runs,
        }
        if what not in kinds:
            raise UserError(f"a marker must be one of {', '.join(kinds)}, not {what!r}")
        given = [word for word in rest if "=" not in word]
        options = dict(word.split("=", 1) for word in rest if "=" in word)
        try:
            text = kinds[what](*given, **options)
        except TypeError:
            raise UserError(f"wrong arguments for {what}: see stillpoint.pipelines.pages") from None
        return text if what == "number" or not text else f"\n\n{text.strip()}\n\n"

    def table(self, which: str, networks: str = "*", columns: str = "", states: str = ",".join(STATES)) -> str:
        """A recipe's table, or some of its rows and columns, and its remarks."""
        paper, recipe = _two(which)
        found = self.gathered(paper, recipe)
        if found is None:
            return not_run(paper, recipe, self.root)
        table, wanted = found.table, [key for key in columns.split(",") if key]
        held = {column.key for column in table.held}
        if unknown := [key for key in wanted if key not in held]:
            raise UserError(f"no kept run has the column {unknown[0]}: choose from {', '.join(sorted(held))}")
        rows = tuple(
            replace(row, cells={state: cells for state, cells in row.cells.items() if state in states.split(",")})
            for row in table.rows
            if fnmatchcase(row.model, networks)
        )
        if not rows:
            raise UserError(f"no kept network of {which} matches {networks}")
        by_key = {column.key: column for column in table.columns}
        chosen = tuple(by_key[key] for key in wanted) if wanted else table.columns
        some = replace(table, rows=rows, columns=chosen)
        head, lines = tables.layout(some)
        return "\n\n".join([markdown_table(head, lines), *map(escaped, tables.remarks(replace(table, rows=rows)))])

    def page(self, which: str, name: str) -> str:
        """A page of the paper, without its title."""
        paper, recipe = _two(which)
        found = self.gathered(paper, recipe)
        if found is None:
            return not_run(paper, recipe, self.root)
        whole = complete(run for runs in found.runs.values() for run in runs)
        own = shown_by(found.paper, found.config, kept=True).pages if whole else {}
        if name not in own:
            raise UserError(f"{which} has no page {name}: it has {', '.join(own) or 'none'}")
        return re.sub(r"\A# .*\n", "", own[name].text(found))

    def number(self, which: str, key: str, state: str = "trained") -> str:
        """A cell of a table."""
        paper, recipe, model = [*which.split("/"), "", ""][:3]
        found = self.gathered(paper, recipe)
        rows = [] if found is None else [row for row in found.table.rows if row.model == model]
        cell = rows[0].cells.get(state, {}).get(key) if rows else None
        if found is None or cell is None:
            raise UserError("no kept run has this number: remove the sentence, or release the run")
        return tables.show_cell(found.table.column(key), cell)

    def figure(self, which: str, name: str) -> str:
        """A link to a figure of the kept runs; "" if there are none."""
        paper, recipe = _two(which)
        found = self.gathered(paper, recipe)
        if found is None:
            return ""
        own = shown_by(found.paper, found.config, kept=True).figures
        if name not in own:
            raise UserError(f"{which} has no figure {name}: it has {', '.join(own) or 'none'}")
        path = layout.figure(paper, recipe, name, Path(layout.KEPT))
        return f"![{name.replace('_', ' ')}: {escaped(found.table.title)}]({self.up}{path.as_posix()})"

    def runs(self, paper: str) -> str:
        """A table with a line for each kept recipe of a paper."""
        lines = []
        for name, recipe in recipes(self.root):
            own = found_runs(name, recipe, self.root) if name == paper else []
            if own:
                models = len({run.model for run in own})
                seconds = sum(float(read_json(run.training, of=dict).get("seconds") or 0) for run in own)
                title = networks.recipe_config(name, recipe).title
                lines.append([f"{recipe}", title, str(models), str(len(own)), f"{seconds / 3600:.1f}"])
        if not lines:
            return "No run of this paper is kept."
        return markdown_table(["recipe", "title", "networks", "runs", "hours of training"], lines)


def _two(which: str) -> tuple[str, str]:
    paper, slash, recipe = which.partition("/")
    if not slash or "/" in recipe:
        raise UserError(f"must be PAPER/RECIPE, not {which!r}")
    return paper, recipe


def not_run(paper: str, recipe: str, kept: Path) -> str:
    """The sentence in place of a table without kept runs: the command that makes it, and how much work that is.

    It estimates the time if a kept run with the same network, data and model settings shows how long an epoch takes.
    """
    config = networks.recipe_config(paper, recipe)
    command = f"stillpoint run {paper} --recipe {recipe}"
    sizes = {"network": len(config.grid), "seed": config.seeds, "epoch": config.train.epochs}
    work = ", ".join(counted(number, noun) for noun, number in sizes.items())
    text = f"Not run here yet: `{command}` does it ({work}"
    if told := _epoch_seconds(paper, recipe, kept):
        run, seconds = told
        minutes = seconds * config.train.epochs * config.seeds * len(config.grid) / 60
        long = counted(round(minutes / 60), "hour") if minutes >= 90 else counted(max(1, round(minutes)), "minute")
        text += f"; about {long} of one core, if all took the {seconds:.0f} s an epoch of `{run.model}`"
    return f"{text})."


def _epoch_seconds(paper: str, recipe: str, kept: Path) -> tuple[Run, float] | None:
    """(kept run, seconds per epoch) of a network in the recipe's grid with the recipe's data and model settings."""
    config = networks.recipe_config(paper, recipe)
    for run in Run.all_kept(kept, pipeline=paper):
        if run.model not in config.grid:
            continue
        asked = networks.configure(f"{paper}/{run.model}", recipe)
        from stillpoint.core.config.merge import read_settings

        there, training = read_settings(run.config), read_json(run.training, of=dict)
        same = there["MODEL"] == asked.dump()["MODEL"] and there["DATA"]["NAME"] == asked.data.name
        if same and there["DATA"]["LIMIT"] == asked.data.limit and training.get("seconds") and training.get("epochs"):
            return run, training["seconds"] / training["epochs"]
    return None


def outdated(kept: Path, root: Path = ROOT) -> Iterator[tuple[Path, str]]:
    """Yields (page, new text) for each page that is out of date."""
    says = Kept(kept)
    for path in pages(root):
        text = path.read_text("utf-8")
        if (new := says.written(text, path.relative_to(root).as_posix())) != text:
            yield path, new
