"""docs/board.md: every sentence names the rows that it rests on, and the rows still say so.

Behind a sentence stands a comment with what it claims: ``a.key > b.key``, ``<`` or ``~`` (which cannot be told: the
interval of the difference holds 0), ``a.key = 97.1`` (the number as the board shows it), ``a kept`` and ``a broken``.
"""

import math
import re
from pathlib import Path

import pytest

from stillpoint.pipelines.board.entries import Entry, number, read_entries
from stillpoint.pipelines.board.gather import kept_board
from stillpoint.pipelines.board.measures import BY_KEY
from stillpoint.pipelines.board.page import law_of, text

NOTE = (Path(__file__).resolve().parents[3] / "docs" / "board.md").read_text()
ENTRIES = {entry.name: entry for entry in read_entries(kept_board("digits"))}
BULLETS = re.findall(r"^- (.*?)(?=^- |^#|\n\n|\Z)", NOTE, re.M | re.S)


def holds(claim: str, entries: dict[str, Entry]) -> bool:
    if found := re.fullmatch(r"(\S+) (kept|broken)", claim):
        return law_of(entries[found[1]]) == found[2]
    if found := re.fullmatch(r"(\S+)\.(\S+) = (\S+)", claim):
        measure = BY_KEY[found[2]]
        own = number(entries[found[1]], measure)
        return own is not None and text(measure, own.mean) == found[3]
    found = re.fullmatch(r"(\S+)\.(\S+) ([<>~]) (\S+)\.(\S+)", claim)
    assert found is not None, f"not understood: {claim}"
    first, second = number(entries[found[1]], BY_KEY[found[2]]), number(entries[found[4]], BY_KEY[found[5]])
    assert first is not None and second is not None, claim
    gap, half = first.mean - second.mean, math.hypot(first.half or 0, second.half or 0)
    return {"<": gap < -half, ">": gap > half, "~": abs(gap) <= half}[found[3]]


def claims(bullet: str) -> list[str]:
    return [
        " ".join(claim.split()) for comment in re.findall(r"<!--(.*?)-->", bullet, re.S) for claim in comment.split(";")
    ]


@pytest.mark.parametrize("bullet", BULLETS, ids=lambda bullet: bullet[:40])
def test_a_sentence_names_its_rows_and_they_say_so(bullet: str) -> None:
    own = claims(bullet)
    assert own
    said = re.sub(r"<!--.*?-->", "", bullet, flags=re.S)
    rows = set(re.findall(r"`(\w+)`", said))
    assert rows == {
        name for claim in own for name in re.findall(r"[a-z]\w*", re.sub(r"\.\w+", "", claim)) if name in ENTRIES
    }
    assert not [claim for claim in own if not holds(claim, ENTRIES)]
    # every number of the sentence is one that a claim holds
    numbers = set(re.findall(r"(?<![\w-])\d+\.\d+", said))
    assert numbers <= {claim.rpartition(" ")[2] for claim in own if " = " in claim}


def test_the_note_is_a_page_at_most_and_has_sentences() -> None:
    assert len(BULLETS) >= 5 and len(re.sub(r"<!--.*?-->", "", NOTE, flags=re.S).split()) < 500


def test_a_claim_that_the_rows_do_not_say_is_noticed() -> None:
    first = next(iter(ENTRIES))
    assert holds(f"{first}.accuracy ~ {first}.accuracy", ENTRIES)
    assert not holds(f"{first}.accuracy > {first}.accuracy", ENTRIES)
    assert not holds(f"{first}.accuracy = 12.3", ENTRIES) and not holds(f"{first} kept", ENTRIES)
