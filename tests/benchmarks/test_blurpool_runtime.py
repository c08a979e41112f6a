"""The picture of run times."""

import json
from pathlib import Path

import pytest

from benchmarks.blurpool_runtime import HERE, draw


def test_every_bar_says_its_taps_so_that_it_is_read_in_grey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    monkeypatch.setattr("stillpoint.core.reporting.figures.save", lambda figure, path: (kept.append(figure), path)[1])
    draw(json.loads((HERE / "results" / "blurpool_runtime-cpu.json").read_text()), tmp_path / "a.png")
    (axis,) = kept[0].axes
    assert len(axis.patches) == 16
    centres = [bar.get_x() + bar.get_width() / 2 for bar in axis.patches]
    assert [text.get_position()[0] for text in axis.texts] == pytest.approx(centres)
    assert [text.get_text() for text in axis.texts] == ["2"] * 4 + ["3"] * 4 + ["4"] * 4 + ["5"] * 4
