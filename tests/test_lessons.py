"""Every lesson runs, here at a tenth of its length and as the plain program that it is too."""

import runpy
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

LESSONS = sorted((Path(__file__).parent.parent / "lessons").glob("*.py"))


def test_lessons_say_how_long_they_are() -> None:
    assert len(LESSONS) == 4
    assert not [path for path in LESSONS if 'os.environ.get("LESSON_LENGTH", "1")' not in path.read_text()]


def test_a_lesson_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LESSON_LENGTH", "0.1")
    matplotlib.use("Agg")
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: plt.close("all"))
    said = runpy.run_path(str(next(path for path in LESSONS if path.stem == "wavelets")))
    worst = {name: max(curve[:3]) for name, curve in said["curves"].items()}
    assert worst["modulus"] < worst["real part, blurred max-pool"] < worst["real part, max-pool"]
    assert "after one pixel" in capsys.readouterr().out
