"""Every pretrained network: there without a network connection, what its card says, and giving its card's numbers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.catalogue import DATASETS
from stillpoint.core.data.datasets import load
from stillpoint.core.runs import cards
from stillpoint.core.runs.checkpoint import read_tensors, save_weights
from stillpoint.pipelines import networks
from stillpoint.pipelines.cli import main
from stillpoint.pipelines.commands.pretrained import SAMPLE, of_card, on_digits, probe, write_stand_in

ROOT = Path(__file__).parent.parent
FOLDER = networks.PRETRAINED
NAMES = cards.names(FOLDER)
#: what the store in the repository may hold, which every clone brings along for ever
LIMIT = 60 << 20


@pytest.fixture(scope="module")
def pulled() -> Path:
    if not all(cards.weights_path(FOLDER, name).is_file() for name in NAMES):
        # from the store in the repository: no connection is needed
        command = [
            sys.executable,
            "-m",
            "dvc",
            "pull",
            "--quiet",
            *(f"pretrained/{name}.safetensors.dvc" for name in NAMES),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return FOLDER


def test_the_store_is_small_and_every_entry_is_in_it() -> None:
    import yaml

    store = ROOT / ".dvc-store"
    assert NAMES and sum(path.stat().st_size for path in store.rglob("*") if path.is_file()) < LIMIT
    for name in NAMES:
        (out,) = yaml.safe_load(cards.weights_path(FOLDER, name).with_suffix(".safetensors.dvc").read_text())["outs"]
        assert (store / "files" / "md5" / out["md5"][:2] / out["md5"][2:]).stat().st_size == out["size"]


@pytest.mark.parametrize("name", NAMES)
def test_a_network_loads_by_its_name_and_says_what_its_card_says(pulled: Path, name: str) -> None:
    net, card = pipelines.pretrained(name), cards.read(pulled, name)
    assert not net.training and sum(p.numel() for p in net.parameters()) == card["parameters"]
    assert all(p.dtype == torch.float32 for p in net.parameters())
    found = probe(name, of_card(card), cards.weights(pulled, name))
    assert found == pytest.approx(card["probe"], abs=1e-3)
    assert len(set(found)) > 2


@pytest.mark.parametrize("name", NAMES)
def test_a_card_holds_together(name: str) -> None:
    card = cards.read(FOLDER, name)
    page = cards.weights_path(FOLDER, name).with_suffix(".md")
    assert page.read_text() == cards.page(card)
    assert card["model"] == name and card["training"]["commit"]
    # trained by the recipe that is there now, so that the card's last command makes it again
    config = of_card(card)
    assert config.digest() == pipelines.configure(name, card["recipe"], seed=card["seed"]).digest()
    assert not cards.changed(card["before_rounding"], card["metrics"])


@pytest.mark.parametrize("name", NAMES)
def test_every_network_gives_its_cards_numbers_on_digits_again(pulled: Path, name: str) -> None:
    # the data sets are not on every machine: stillpoint evaluate <name> --pretrained measures the others again
    card = cards.read(pulled, name)
    found = on_digits(of_card(card), cards.weights(pulled, name), device="cpu", threads=1)
    assert found.keys() == card["on_digits"].keys() and "circular_consistency" in found
    # 0.01 of 200 images: another processor's rounding may decide two near ties otherwise
    assert not cards.changed(card["on_digits"], found, tolerance=0.01)


def test_pulled_weights_leave_nothing_to_be_built(pulled: Path) -> None:
    entries = [f"pretrained/{name}.safetensors" for name in NAMES]

    def said(*words: str) -> str:
        command = [sys.executable, "-m", "dvc", *words, *(f"{entry}.dvc" for entry in entries)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert json.loads(said("status", "--json")) == {}
    stages = said("repro", "--dry")
    assert stages.count("didn't change, skipping") == len(entries) and "Running stage" not in stages
    # no stage and no rule makes or reads them: they cannot make anything else stale either
    assert "pretrained" not in (ROOT / "dvc.yaml").read_text()
    rules = [ROOT / "Snakefile", *ROOT.glob("core/**/*.smk"), *ROOT.glob("pipelines/**/*.smk")]
    assert not [path for path in rules if "pretrained" in path.read_text()]


@pytest.mark.parametrize(("name", "recipe"), [("aps/resnet20", "cifar10"), ("translations/cnn", "fashion_mnist")])
def test_digits_stand_in_for_any_data_set_of_small_images(tmp_path: Path, name: str, recipe: str) -> None:
    config = pipelines.configure(name, recipe)
    entry, found = DATASETS[recipe], load(recipe, write_stand_in(config, tmp_path), "test")
    assert found.images.shape == (SAMPLE, entry.channels, entry.size, entry.size)
    digits = load("digits", tmp_path, "test").evenly(SAMPLE)
    assert torch.equal(found.labels, digits.labels)
    margin = (32 - entry.size) // 2
    middle = digits.images[:, :, margin : 32 - margin, margin : 32 - margin]
    assert all(torch.equal(found.images[:, [channel]], middle) for channel in range(entry.channels))
    with pytest.raises(UserError, match="stand in for ImageNet"):
        write_stand_in(pipelines.configure("aps/resnet18_aps1", "imagenet"), tmp_path)


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """An entry of a run of a few steps, in a folder of its own."""
    data = str(tmp_path / "data")
    monkeypatch.setenv("STILLPOINT_DATA", data)
    monkeypatch.setattr(networks, "PRETRAINED", tmp_path / "pretrained")
    pairs = ["TRAIN.EPOCHS", "1", "DATA.LIMIT", "64", "MODEL.WIDTH", "0.25", "EVALUATE.METRICS", "['accuracy']"]
    where = ["--results", str(tmp_path), "--threads", "1"]
    assert main(["train", "aps/resnet20_aps3", *where, *pairs]) == 0
    run = tmp_path / "aps" / "digits" / "resnet20_aps3" / "seed0"
    assert main(["publish", str(run), "--to", str(tmp_path / "pretrained"), "--threads", "1"]) == 0
    return "aps/resnet20_aps3", tmp_path / "pretrained"


def test_a_run_is_published_in_half_precision_and_measured_again(
    entry: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    name, folder = entry
    tensors, about = read_tensors(cards.weights(folder, name))
    assert {t.dtype for t in tensors.values() if t.dim() > 1} == {torch.float16}
    assert not [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "aps"]
    assert tensors["bn1.running_var"].dtype == torch.float32
    assert about["precision"].startswith("float16")
    capsys.readouterr()
    assert main(["evaluate", name, "--pretrained", "--json", "--threads", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["differing"] == []

    # a card that claims more than its weights give is found out
    path = cards.weights_path(folder, name).with_suffix(".json")
    card = json.loads(path.read_text())
    card["metrics"]["accuracy"] += 0.05
    path.write_text(json.dumps(card))
    assert main(["evaluate", name, "--pretrained", "--threads", "1"]) == 1
    assert "in the card" in capsys.readouterr().out


def test_other_weights_than_the_cards_are_refused(entry: tuple[str, Path]) -> None:
    name, folder = entry
    path = cards.weights_path(folder, name)
    tensors, _ = read_tensors(path)
    save_weights(path, tensors, model=name, config_digest="", epoch=9)
    with pytest.raises(UserError, match="not the file that its card describes"):
        pipelines.pretrained(name)
    path.unlink()
    with pytest.raises(UserError, match="dvc pull"):
        pipelines.pretrained(name)
    with pytest.raises(UserError, match="there are no pretrained weights of aps/resnet20"):
        pipelines.pretrained("aps/resnet20")
