"""The base of an installation, without the packages of its extras: what it can do, and what it says of the rest."""

import os
from pathlib import Path

import pytest

from stillpoint.pipelines.extras import EXTRAS
from tests import fresh

#: hides packages as if they were not installed
HIDDEN = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
for name in [name for name in sys.modules if name.partition(".")[0] in {absent!r}]:
    del sys.modules[name]
"""
#: a network of one's own
NET = """
from torch import nn
net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
"""
COMMAND = "from stillpoint.pipelines.cli import main\nraise SystemExit(main({words!r}))"
#: what timm brings along
OF_TIMM = {"PIL", "timm", "torchvision"}


def said(folder: Path, program: str, *, absent: set[str], code: int = 0) -> str:
    """What a program prints without the packages `absent`, which ends with `code`."""
    (folder / "mine.py").write_text(NET)
    environment = {**os.environ, "PYTHONPATH": str(fresh.ROOT)}
    done = fresh.run(["-c", HIDDEN.format(absent=absent) + program], cwd=folder, env=environment, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def command(folder: Path, *words: str, absent: set[str], code: int = 0) -> str:
    return said(folder, COMMAND.format(words=list(words)), absent=absent, code=code)


def test_a_network_of_a_paper_names_the_extra_that_it_needs(tmp_path: Path) -> None:
    for call in ("create('aps/resnet20')", "pretrained('aps/resnet20_aps3')", "load('aps/resnet20')"):
        told = said(tmp_path, f"import stillpoint\nstillpoint.{call}", absent=set(EXTRAS), code=1)
        assert "ModuleNotFoundError: yacs is not installed: pip install 'stillpoint[pipelines]'" in told, call


def test_the_doctor_examines_the_base_of_an_installation(tmp_path: Path) -> None:
    told = command(tmp_path, "doctor", "--results", str(tmp_path), "--data", str(tmp_path), absent=set(EXTRAS))
    assert {"data", "disk", "weights", "terminal"} <= {line.split()[1] for line in told.splitlines()}


def test_names_are_listed_and_a_network_of_ones_own_is_explained(tmp_path: Path) -> None:
    assert "aps/resnet20" in command(tmp_path, "list", "aps/*", absent=set(EXTRAS))
    words = ("explain", "--model", "mine.py:net", "--size", "32")
    assert "first breaks in 0 (Conv2d)" in command(tmp_path, *words, absent=set(EXTRAS))


def test_a_network_is_measured_with_what_timm_brings(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (48, 40), "teal").save(tmp_path / "photo.png")
    words = ("measure", "--model", "mine.py:net", "--size", "32", "--image", "photo.png", "--max-shift", "1")
    told = command(tmp_path, *words, absent=set(EXTRAS) - OF_TIMM)
    assert "of 8 shifts" in told
    assert (
        "no figure: matplotlib is not installed: pip install 'stillpoint[pipelines]'" in told and "written" not in told
    )
    assert not (tmp_path / "photo_shifts.png").exists()


@pytest.mark.parametrize("words", [("measure", "--image", "photo.png"), ("explain",)])
def test_a_figure_that_cannot_be_drawn_is_refused_before_the_work(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "photo.png").touch()  # no picture: reading it would end in another sentence
    full = (*words, "--model", "nothing.py:net", "--output", "map.png")
    told = command(tmp_path, *full, absent={"matplotlib"}, code=2)
    assert told == "stillpoint: matplotlib is not installed: pip install 'stillpoint[pipelines]'\n"
    told = command(tmp_path, *full[:-1], "map.pdf", absent=set(), code=2)
    assert "figures are written as PNG: map.pdf must end in .png" in told
