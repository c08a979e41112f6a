"""A network of one's own on the board, by the commands that a user gives: what is written, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from stillpoint.core.base.files import digest_of
from stillpoint.core.base.randomness import generator
from stillpoint.pipelines.board import cost
from stillpoint.pipelines.board.entries import read_entries
from stillpoint.pipelines.board.gather import kept_board
from stillpoint.pipelines.cli import main

PROGRAM = """
from torch import nn
def build():
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network, its weights, and an entry of it."""
    place = tmp_path_factory.mktemp("own")
    (place / "own.py").write_text(PROGRAM)
    torch.manual_seed(0)
    for name in ("w.pth", "others.pth"):
        torch.save(nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, 10)).state_dict(), place / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "TURNS", 1)
        assert main(["board", "add", *words(place), "--name", "mine", "--method", "a mean"]) == 0
    return place


def words(place: Path, weights: str = "w.pth") -> list[str]:
    return [f"{place}/own.py:build", "--weights", str(place / weights), "-o", str(place / "board")]


def changed(place: Path, file: str, /, **fields: Any) -> str:
    """An entry whose digest is right and whose content is another, as somebody may send it."""
    content = json.loads((place / "board" / "mine.json").read_text()) | fields
    content.pop("digest")
    path = place / f"{file}.json"
    path.write_text(json.dumps({**content, "digest": digest_of(content)}))
    return str(path)


def files(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (place / "board").iterdir()}


def test_it_stands_among_the_others_with_every_measure(place: Path) -> None:
    (own,) = read_entries(place / "board" / "mine.json")
    others = read_entries(kept_board("digits"))
    assert (own.name, own.method, own.images, own.protocol) == ("mine", "a mean", others[0].images, others[0].protocol)
    assert own.seeds[0].metrics.keys() == others[0].seeds[0].metrics.keys() and own.cost.keys() == others[0].cost.keys()
    page = (place / "board" / "board.html").read_text()
    assert all(f'"name":"{one.name}"' in page for one in (own, *others))


def test_its_weights_give_its_numbers_again_and_no_others(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, options = ["--model", f"{place}/own.py:build"], ["--weights", str(place / "w.pth")]
    (own,) = read_entries(place / "board" / "mine.json")
    seed = own.seeds[0].model_dump(mode="json")
    better = {**seed, "metrics": {**seed["metrics"], "accuracy": 0.99}}
    assert main(["board", "check", changed(place, "better", seeds=[better]), *model, *options]) == 2
    assert "better.json is refused: measuring its weights again gave accuracy 0." in capsys.readouterr().err
    assert main(["board", "check", str(place / "board" / "mine.json"), *model, *options]) == 0
    assert f"its weights reproduce its {len(seed['metrics'])} numbers" in capsys.readouterr().out
    options = ["--weights", str(place / "others.pth")]
    assert main(["board", "check", str(place / "board" / "mine.json"), *model, *options]) == 2
    assert "was measured with other weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--name", "mine"], "mine.json already exists"),
        (["--name", "aps3"], "the board already has an entry 'aps3'"),
        (["--name", "../x"], "../x is not an entry of the board"),
        (["--name", "new", "--recipe", "digit"], "board has no recipe 'digit'"),
        (["--name", "new", "--weights", "none.pth"], "there are no weights at none.pth"),
    ],
)
def test_what_cannot_be_added_is_told_and_nothing_is_overwritten(
    place: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    before = files(place)
    assert main(["board", "add", *words(place), *more]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and files(place) == before


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "strides"}, "two entries are called 'strides'"),
        ({"protocol": {"REPEATS": 5}}, "was measured by another protocol than strides"),
        ({"images": "0" * 64}, "was measured on other images"),
    ],
)
def test_an_entry_that_was_sent_and_cannot_share_the_board_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, Any], said: str
) -> None:
    page = place / "page.html"
    assert main(["board", "page", changed(place, "sent", **fields), "-o", str(page)]) == 2
    assert said in capsys.readouterr().err and not page.exists()


def test_nothing_is_added_beside_an_entry_that_was_edited(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited = place / "board" / "zz.json"
    edited.write_text((place / "board" / "mine.json").read_text().replace('"a mean"', '"the best"'))
    before = files(place)
    try:
        assert main(["board", "add", *words(place), "--name", "second"]) == 2
        assert "zz.json was changed by hand" in capsys.readouterr().err and files(place) == before
    finally:
        edited.unlink()


def test_photographs_have_a_board_and_a_part_of_them_is_not_to_be_cited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "TURNS", 1)
    monkeypatch.setattr(cost, "BATCH", 4)
    pixels = torch.randint(256, (2, 260, 270, 3), generator=generator("test", "photographs"), dtype=torch.uint8)
    for wnid, picture in zip(("n01440764", "n01443537"), pixels, strict=True):
        folder = tmp_path / "imagenet" / "val" / wnid
        folder.mkdir(parents=True)
        Image.fromarray(picture.numpy()).save(folder / "one.png")
    (tmp_path / "big.py").write_text(PROGRAM.replace("AvgPool2d(4)", "AvgPool2d(112)").replace("64, 10", "12, 1000"))
    net = nn.Sequential(nn.AvgPool2d(112), nn.Flatten(), nn.Linear(12, 1000))
    torch.save(net.state_dict(), tmp_path / "big.pth")
    asked = [
        f"{tmp_path}/big.py:build",
        "--weights",
        str(tmp_path / "big.pth"),
        "--recipe",
        "imagenet",
        "--name",
        "big",
    ]
    assert main(["board", "add", *asked, "--data", str(tmp_path), "-o", str(tmp_path / "board")]) == 0
    (own,) = read_entries(tmp_path / "board" / "big.json")
    # a network that takes 224 pixels saw 224, and windows of 256
    assert own.dataset == "ImageNet (2 of 1000 classes)" and own.count == 2 and own.law("whole") is None
    assert {"windows_consistency", "corruption_error", "worst_shift_accuracy"} <= own.seeds[0].metrics.keys()
    assert "Do not cite" in (tmp_path / "board" / "board.html").read_text()
