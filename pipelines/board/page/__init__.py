"""Renders entries of the board as one self-contained HTML page, and as Markdown."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stillpoint.core.reporting.writing import markdown_page, markdown_table
from stillpoint.pipelines.board.entries import Entry, Number, number
from stillpoint.pipelines.board.measures import LAW, MEASURES, Measure

HERE = Path(__file__).parent
#: in the order of their dependencies; see vendor/NOTICE
LIBRARIES = ("dataTables.min.js", "chart.umd.min.js", "chartjs-chart-error-bars.umd.min.js")
STYLE = "dataTables.dataTables.min.css"
_PROMISES = {"whole": "whole circular shifts", "any": "circular shifts, fractions of a pixel too"}


def text(measure: Measure, value: float) -> str:
    """Formats a value: percentages with one decimal, and a value below 100 never as 100."""
    if measure.unit == "%":
        if round(value, 1) < 100 or value >= 100:
            return f"{value:.1f}" if value < 100 else "100"
        return f"{value:.2f}" if round(value, 2) < 100 else "> 99.99"
    if measure.unit == "x":
        return f"{value:.2f}"
    if measure.unit == "nats":
        return f"{value:.4f}"
    return f"{value:,.0f}" if value == int(value) and abs(value) > 100 else f"{value:.1e}" if value else "0"


def half_text(measure: Measure, value: float) -> str:
    """Formats half of an interval; a positive percentage is never shown as 0."""
    shown = text(measure, value) if measure.unit in ("nats", "") else f"{value:.1f}"
    return shown if measure.unit != "%" or value == 0 or float(shown) else f"{value:.2g}"


def with_half(measure: Measure, found: Number | None) -> str:
    """``93.1 ± 1.2``; an empty string for None."""
    if found is None:
        return ""
    return text(measure, found.mean) + ("" if found.half is None else f" ± {half_text(measure, found.half)}")


def held(entries: Sequence[Entry]) -> list[Measure]:
    """The measures that at least one entry has."""
    return [measure for measure in MEASURES if any(entry.values(measure.key) for entry in entries)]


def law_of(entry: Entry) -> str:
    """Whether an entry keeps its promise: "kept", "broken" or "unknown"; "none" if it makes none."""
    if entry.promise == "none":
        return "none"
    return {True: "kept", False: "broken", None: "unknown"}[entry.law(entry.promise)]


def law_text(entry: Entry) -> str:
    """A sentence on what an entry promises, and whether it keeps it."""
    limit = f"{LAW:.0e}".replace("e-0", "e-")
    if entry.promise == "none":
        found = entry.law("whole")
        more = f" No logit changes by more than {limit} under whole circular shifts, though." if found else ""
        return f"Promises nothing about shifts.{more}"
    what = _PROMISES[entry.promise]
    verdict = {"kept": f"kept to {limit}", "broken": f"not kept to {limit}", "unknown": "not tested"}
    whole = " (it holds for whole ones)" if law_of(entry) == "broken" and entry.law("whole") else ""
    return f"Promises that logits do not change under {what}: {verdict[law_of(entry)]}{whole}."


def _entry(entry: Entry) -> dict[str, Any]:
    numbers = {}
    for measure in MEASURES:
        if (found := number(entry, measure)) is not None:
            half = None if found.half is None else half_text(measure, found.half)
            numbers[measure.key] = {**found.model_dump(), "text": text(measure, found.mean), "half_text": half}
    own = ("name", "method", "stem", "padding", "training", "source", "dataset", "network", "recipe", "map")
    content = entry.model_dump(mode="json")
    shown = {"accuracy", "circular_consistency", "worst_shift_accuracy"}
    seeds = [
        {**seed, "metrics": {key: value for key, value in seed["metrics"].items() if key in shown}}
        for seed in content["seeds"]
    ]
    return {
        **{key: content[key] for key in own},
        "law": law_of(entry),
        "law_text": law_text(entry),
        "numbers": numbers,
        "seeds": seeds,
        "example": None if entry.example is None else {"picture": entry.example.picture, "text": example_text(entry)},
        "command": "\n".join(entry.command),
        "settings": "\n".join(_lines(entry.settings)),
    }


def example_text(entry: Entry) -> str:
    """A sentence on the image that an entry misclassifies."""
    assert entry.example is not None
    rows, columns = entry.example.shift
    moves = [f"{abs(by)} {'row' if abs(by) == 1 else 'rows'} {'down' if by > 0 else 'up'}" for by in (rows,) if by]
    moves += [
        f"{abs(by)} {'column' if abs(by) == 1 else 'columns'} {'right' if by > 0 else 'left'}"
        for by in (columns,)
        if by
    ]
    one = entry.example
    moved = " and ".join(moves)
    return f"Test image {one.image} is of class {one.label}; shifted {moved} it is classified as {one.given}."


def _lines(settings: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in settings.items():
        if isinstance(value, dict):
            found += _lines(value, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key} {json.dumps(value) if not isinstance(value, str) else value}")
    return found


def about(entries: Sequence[Entry]) -> str:
    """Two sentences on the measured images."""
    first = entries[0]
    seeds = sorted({len(entry.seeds) for entry in entries})
    counts = " or ".join(map(str, seeds))
    rows = f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}"
    return (
        f"{first.dataset}, recipe {first.recipe}, {rows} with {counts} {'seed' if seeds == [1] else 'seeds'}. "
        f"Worst shifts and corruptions use at most {first.protocol.get('LIMIT_DEAR')} images, every shift "
        f"{first.protocol.get('LIMIT_ALL_SHIFTS')}, everything else all test images."
    )


#: the part of a data set's title that says how many of its images or classes are there
_PART = re.compile(r"\([\d,]+ of [\d,]+ (?:classes|images)\)")


def part_of(entries: Sequence[Entry]) -> str:
    """A warning if the numbers are of a part of a data set; otherwise an empty string."""
    if not (found := _PART.search(entries[0].dataset)):
        return ""
    return f"Do not cite: these numbers cover only part of the data set {found[0]}."


def title_of(entries: Sequence[Entry]) -> str:
    return f"The board of shift invariance: {entries[0].dataset}"


def html(entries: Sequence[Entry]) -> str:
    """The text of ``board.html``, which includes its data, styles and scripts."""
    measures = [
        {
            key: getattr(measure, key)
            for key in ("key", "title", "unit", "better", "sentence", "source", "group", "shown")
        }
        for measure in held(entries)
    ]
    data = {
        "about": about(entries),
        "part": part_of(entries),
        "measures": measures,
        "entries": [_entry(entry) for entry in entries],
    }
    vendor = HERE / "vendor"
    # an end tag would close the script even within quotes
    content = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "@STYLE@": (vendor / STYLE).read_text("utf-8") + (HERE / "board.css").read_text("utf-8"),
        "@LIBRARIES@": "\n".join((vendor / name).read_text("utf-8") for name in LIBRARIES).replace(
            "</script", "<\\/script"
        ),
        "@SCRIPT@": (HERE / "board.js").read_text("utf-8"),
        "@TITLE@": _escaped(title_of(entries)),
        "@DATA@": content,
    }
    template = (HERE / "board.html").read_text("utf-8")
    pieces, marks = [template], list(parts)
    for mark in marks:
        # marks within a library or an entry's text are left alone: the template is cut up before it is filled
        pieces = [piece for whole in pieces for piece in (_cut(whole, mark) if whole not in marks else [whole])]
    return "".join(parts.get(piece, piece) for piece in pieces)


def _cut(whole: str, mark: str) -> list[str]:
    found = []
    for place, piece in enumerate(whole.split(mark)):
        found += [mark, piece] if place else [piece]
    return found


def _escaped(words: str) -> str:
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown(entries: Sequence[Entry]) -> str:
    """The initially visible columns, as Markdown."""
    measures = [measure for measure in held(entries) if measure.shown]
    unit = {"%": " (%)", "nats": " (nats)", "x": " (x base)", "": ""}
    head = ["entry", "method", "padding", "trained on", "stem", "n", "law", *(m.title + unit[m.unit] for m in measures)]
    lines = [
        [
            *(
                entry.name,
                entry.method,
                entry.padding,
                entry.training,
                entry.stem,
                str(len(entry.seeds)),
                law_of(entry),
            ),
            *(with_half(measure, number(entry, measure)) for measure in measures),
        ]
        for entry in entries
    ]
    notes = [
        " ".join(filter(None, [part_of(entries), about(entries)])),
        "Mean ± half of its 95 % interval over seeds and images together. A law is kept if no logit changes by more "
        f"than {LAW:.0e} with any seed.",
        *(f"- **{measure.title}**: {measure.sentence}" for measure in measures),
    ]
    return markdown_page(title_of(entries), markdown_table(head, lines), notes[0], notes[1], "\n".join(notes[2:]))
