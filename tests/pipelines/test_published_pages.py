"""The papers' numbers on their pages are those of ``published.yaml``: the tables whose heads end in "paper"."""

import re

import pytest

from stillpoint import pipelines

#: heading of a column -> the metric's name
COLUMNS = {
    "accuracy": "accuracy",
    "consistency of windows": "standard_consistency",
    "standard consistency": "standard_shift_consistency",
    "circular consistency": "circular_shift_consistency",
    "circular fidelity": "circular_shift_fidelity",
    "integer grid": "integer_grid_accuracy",
    "half-pixel grid": "half_grid_accuracy",
    "fractional grid": "fraction_grid_accuracy",
}


@pytest.mark.parametrize("name", ["lps", "tips", "alias_free"])
def test_every_number_of_the_paper_is_that_of_its_file(name: str) -> None:
    paper = pipelines.paper(name)
    told: dict[tuple[str, str], set[float]] = {}
    for entry in paper.published.entries:
        for row in entry.rows:
            for model in row.models:
                for metric in COLUMNS.values():
                    if (value := row.number(metric)) is not None:
                        told.setdefault((model, metric), set()).add(value)
    head: list[str] = []
    found = 0
    for line in (paper.folder / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if any(cell.endswith(", paper") for cell in cells):
            head = cells
        elif not cells:
            head = []
        elif head and not re.fullmatch(r"[-:|\s]+", line):
            for title, cell in zip(head, cells, strict=True):
                if title.endswith(", paper"):
                    assert float(cell) in told[cells[0], COLUMNS[title.removesuffix(", paper")]], line
                    found += 1
    assert found >= 6
