"""The board's results: columns of its table, and the board as a page, as Markdown and as entries."""

from typing import TYPE_CHECKING

from stillpoint.core.reporting.columns import arranged
from stillpoint.pipelines.results import Figure, Page, Results, Shown, consistency_accuracy, learning_curves, shift_maps

if TYPE_CHECKING:
    from stillpoint.core.config.schema import RunConfig
    from stillpoint.pipelines.board.entries import Entry

COLUMNS = arranged("accuracy", "circular_consistency", "circular_max_logit_change", "crop_consistency")
FIGURES = {
    "consistency_accuracy": Figure(consistency_accuracy),
    "shift_maps": Figure(shift_maps),
    "learning_curves": Figure(learning_curves),
}


def shown(config: "RunConfig") -> Shown:
    pages = {"board.html": Page(html), "board.md": Page(markdown), "board.json": Page(stored)}
    return Shown(COLUMNS, ("accuracy", "circular_consistency"), FIGURES, pages)


def entries(results: Results) -> "list[Entry]":
    """The entries of a recipe, in the order of its grid."""
    from stillpoint.pipelines.board.entries import together
    from stillpoint.pipelines.board.gather import entry_of

    return together(entry_of(model, list(runs)) for model, runs in results.runs.items())


def html(results: Results) -> str:
    from stillpoint.pipelines.board.page import html as page

    return page(entries(results))


def markdown(results: Results) -> str:
    from stillpoint.pipelines.board.page import markdown as page

    return page(entries(results))


def stored(results: Results) -> str:
    from stillpoint.pipelines.board.entries import board_text

    return board_text(entries(results))
