"""measure and explain on the command line, with networks and pictures that are not of this house."""

import json
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillpoint import __version__
from stillpoint.core.base.errors import UserError
from stillpoint.pipelines.cli import main
from stillpoint.pipelines.commands.foreign import of_timm, of_torchvision, of_user
from tests import fresh

ROOT = Path(__file__).resolve().parents[2]
NETS = """
    import torch
    from torch import nn

    def cat():
        torch.manual_seed(0)
        head = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 9)
        return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), *head)

    class One(nn.Module):
        def forward(self, x):
            return torch.tensor([[0.0, 0.0, 1.0]]).expand(len(x), 3)

    one = One()
    maps = nn.Conv2d(3, 4, 3, 1, 1)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with networks and three pictures, one of them in a folder of its own."""
    (tmp_path / "mine.py").write_text(textwrap.dedent(NETS))
    random = np.random.default_rng(0)
    for number, name in enumerate(("photographs/a.png", "photographs/b.JPG", "photographs/inner/c.png")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20 + number, 24, 3), dtype=np.uint8)).save(path)
    (tmp_path / "photographs" / "notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("mine", None)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    assert main([str(word) for word in words]) == code
    out, err = capsys.readouterr()
    return " ".join((out if code == 0 else err).split())


def test_a_folder_of_pictures_is_measured_together(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("measure", "--model", "mine:cat", "--image", "photographs", "--size", "16", "--max-shift", "2")
    found = json.loads(said(capsys, *words, "--json"))
    assert found["images"] == 3 and 0 < found["circular_consistency"] <= 1 and "accuracy" not in found
    zeros = json.loads(said(capsys, *words, "--boundary", "zeros", "--json"))
    assert set(zeros) > {"crop_consistency", "crop_max_logit_change"}
    assert "mine:cat on 3 images of photographs" in said(capsys, *words)
    assert "needs a single image" in said(capsys, *words, "--boundary", "crop", code=2)
    (place / "empty").mkdir()
    assert "there is no image in empty" in said(capsys, *words[:3], "--image", "empty", code=2)
    maps = json.loads(said(capsys, "measure", "--model", "mine:maps", *words[3:], "--json"))
    assert 0 < maps["maps_agreement"] < 1


def test_one_class_for_everything_is_said_beside_its_consistency(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("measure", "--size", "16", "--max-shift", "1", "--image")
    many = said(capsys, *words, "photographs", "--model", "mine:one")
    assert "circular_consistency: 1 " in many and "the network assigns one class to all images" in many
    single = said(capsys, *words, "photographs/a.png", "--model", "mine:one")
    assert "(consistency 100.00%)" in single and "the network assigns the same class to a grey image, noise" in single
    assert json.loads(said(capsys, *words, "photographs/a.png", "--model", "mine:one", "--json"))["one_class"] is True


def test_names_are_shown_as_they_were_typed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "measure", "--model", "mine:cat", "--image", "photographs/a.png", "--size", "16")
    assert "mine:cat: class" in shown
    (place / "odd").mkdir()
    (place / "odd" / "[bold]nets.py").write_text((place / "mine.py").read_text())
    words = ("explain", "--model", "odd/[bold]nets.py:cat", "--size", "16")
    assert "odd/[bold]nets.py:cat at 16x16, untrained weights" in said(capsys, *words)


def test_explain_names_what_mends_and_draws_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("explain", "--model", "mine:cat", "--size", "16", "--output", "chart.png")
    told = said(capsys, *words)
    assert "away from the borders, shift equivariance first breaks in 0 (Conv2d)" in told
    assert "the largest share of the error, " in told and "comes from 0 (Conv2d)" in told
    assert "stillpoint.antialias(net, policy=(" in told and "written: chart.png" in told
    with Image.open("chart.png") as chart:
        assert min(chart.size) > 300
    found = json.loads(said(capsys, "explain", "--model", "mine:maps", "--size", "16", "--boundary", "whole", "--json"))
    assert found["boundary"] == "whole" and found["first_broken"]["name"] == "(network)"
    inside = json.loads(said(capsys, "explain", "--model", "mine:maps", "--size", "16", "--json"))
    assert inside["first_broken"] is None and inside["remedy"] == ""


def test_explain_lists_the_modules_of_a_network_that_nothing_breaks_in_where_it_is_asked(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "still.py").write_text("from torch import nn\nnet = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU())\n")
    for words, rows in (((), 0), (("--all",), 1)):
        told = said(capsys, "explain", "--model", "still:net", "--size", "16", *words)
        assert "every module moves with its input" in told and "Sequential" in told
        assert told.count("ReLU") == told.count("Conv2d") == rows


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"stillpoint {__version__}\n"


def test_a_project_may_have_packages_called_as_ours_are(tmp_path: Path) -> None:
    for package in ("core", "pipelines", "tests"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "pipelines" / "parts.py").write_text("from torch import nn\n\n\ndef block():\n    return nn.ReLU()\n")
    (tmp_path / "core" / "nets.py").write_text(
        "from torch import nn\nfrom pipelines.parts import block\n\n\n"
        "def build():\n    return nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), block(), nn.Flatten())\n"
    )
    words = ["explain", "--model", "core.nets:build", "--size", "8", "--json"]
    path = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = fresh.run(["-m", "stillpoint", *words], cwd=tmp_path, env=path)
    assert done.returncode == 0, done.stderr
    assert [row["type"] for row in json.loads(done.stdout)["rows"]] == ["Conv2d", "ReLU", "Flatten", "Sequential"]


def test_networks_of_timm_and_torchvision_are_had_by_name() -> None:
    assert type(of_timm("test_vit")).__name__ == "VisionTransformer"
    with pytest.raises(UserError, match="timm has no network 'resnet5'; nearest: resnet50"):
        of_timm("resnet5")
    assert type(of_torchvision("squeezenet1_1")).__name__ == "SqueezeNet"
    with pytest.raises(UserError, match="torchvision has no network 'resnet19'; nearest: resnet1"):
        of_torchvision("resnet19")


@pytest.mark.parametrize("network", [["--timm", "test_resnet"], ["--torchvision", "squeezenet1_1"]])
def test_an_untrained_network_of_a_library_is_the_same_at_every_call(network, capsys) -> None:
    said = []
    for _ in range(2):
        assert main(["explain", *network, "--size", "64", "--json"]) == 0
        said.append([row["error"] for row in json.loads(capsys.readouterr().out)["rows"]])
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("mine", "MODULE:FUNCTION"),
        ("mine:", "MODULE:FUNCTION"),
        ("mine:dog", "has no attribute 'dog'"),
        ("there/is/none.py:cat", "there is no file there/is/none.py"),
        ("json:dumps", "failed: TypeError"),
        ("pathlib:Path", "returned a PosixPath, not an nn.Module"),
    ],
)
def test_what_is_no_network_is_told_in_a_sentence(place: Path, words: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        of_user(words)
