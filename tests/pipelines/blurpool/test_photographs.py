"""What the command line says of photographs that are not as they should be, and how often it reads each of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import stillpoint.core.data.streaming
from stillpoint import pipelines
from stillpoint.core.data.formats import decode_image
from stillpoint.core.runs.checkpoint import read_tensors
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.cli import main

SETTINGS = ["DATA.IMAGE_SIZE", "64", "MODEL.WIDTH", "0.125", "TRAIN.EPOCHS", "1", "TRAIN.BATCH_SIZE", "4"]
SETTINGS += ["EVALUATE.MARGIN", "8", "EVALUATE.REPEATS", "3", "EVALUATE.BATCH_SIZE", "3", "EVALUATE.UNTRAINED", "False"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Photographs in colour, in grey and in CMYK, three of each in three classes, in both parts."""
    random = np.random.RandomState(4)
    for part in ("train", "val"):
        for label, mode in enumerate(("RGB", "L", "CMYK")):
            folder = tmp_path / "imagenet" / part / ("n01440764", "n01443537", "n01484850")[label]
            folder.mkdir(parents=True)
            for k in range(3):
                image = Image.fromarray(random.randint(0, 256, (80, 90 + 5 * k, 3), np.uint8))
                image.convert(mode).save(folder / f"{k}.JPEG", "JPEG")
    return tmp_path


def train(root: Path, *more: str) -> int:
    places = ["--data", str(root), "--results", str(root / "results"), "--device", "cpu", "--recipe", "imagenet"]
    return main(["train", "blurpool/resnet18_lpf3", *places, *SETTINGS, *more])


def evaluate(root: Path, *more: str) -> int:
    folder = root / "results" / "blurpool" / "imagenet" / "resnet18_lpf3" / "seed0"
    return main(["evaluate", str(folder), "--data", str(root), "--device", "cpu", *more])


def test_every_photograph_is_read_once_for_all_windows(root: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert train(root) == 0
    read: list[str] = []

    def counted(path: Path, name: str) -> Image.Image:
        read.append(name)
        return decode_image(path, name)

    monkeypatch.setattr(stillpoint.core.data.streaming, "decode_image", counted)
    capsys.readouterr()
    assert evaluate(root, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    # grey and CMYK among them; three pairs of windows, a diagonal of nine and the middle crop, out of one reading
    assert sorted(read) == sorted(set(read)) and len(read) == found["images"] == 9
    assert found["trained"]["diagonal_images"] == 9 and "windows_consistency" in found["trained"]


def test_two_of_the_thousand_classes_are_scored_by_their_own_numbers_and_named(tmp_path: Path, capsys) -> None:
    for part in ("train", "val"):
        for wnid in ("n02102040", "n03445777"):
            folder = tmp_path / "imagenet" / part / wnid
            folder.mkdir(parents=True)
            Image.new("RGB", (90, 80)).save(folder / "0.JPEG")
        # what other programs leave, and what holds nothing, moves no number
        for name in (".ipynb_checkpoints", "n01440764"):
            (tmp_path / "imagenet" / part / name).mkdir()
        shutil.copy(folder / "0.JPEG", tmp_path / "imagenet" / part / ".ipynb_checkpoints")
    net = pipelines.build(pipelines.configure("blurpool/resnet18", "imagenet", SETTINGS))
    for parameter in net.parameters():
        parameter.data.zero_()
    # an answer to everything: class 217, which is n02102040
    list(net.parameters())[-1].data[217] = 1
    torch.save(net.state_dict(), tmp_path / "resnet18.pth")
    places = ["--data", str(tmp_path), "--results", str(tmp_path / "results"), "--device", "cpu"]
    words = [*SETTINGS, "TRAIN.FINETUNE", str(tmp_path / "resnet18.pth"), "TRAIN.EPOCHS", "0"]
    assert main(["train", "blurpool/resnet18", *places, "--recipe", "imagenet", *words]) == 0
    run = Run("blurpool", "imagenet", "resnet18", 0, tmp_path / "results")
    assert "on ImageNet (2 of 1000 classes)" in run.log.read_text()
    capsys.readouterr()
    assert main(["evaluate", str(run.folder), "--data", str(tmp_path), "--device", "cpu"]) == 0
    assert "2 of 1000 classes" in " ".join(capsys.readouterr().out.split())
    found = json.loads(run.metrics.read_text())
    assert found["trained"]["accuracy"] == 0.5 and found["dataset"] == "ImageNet (2 of 1000 classes)"
    words = ["blurpool", "--recipe", "imagenet", "--results", str(tmp_path / "results")]
    assert main(["table", *words]) == 0
    table = tmp_path / "results" / "blurpool" / "imagenet" / "table.md"
    assert "2 of 1000 classes" in table.read_text()


def test_a_corrupt_photograph_is_named_and_skipped_only_when_told(root: Path, capsys) -> None:
    broken = root / "imagenet" / "val" / "n01443537" / "1.JPEG"
    broken.write_bytes(broken.read_bytes()[:200])
    poor = root / "imagenet" / "train" / "n01484850" / "0.JPEG"
    whole = poor.read_bytes()
    poor.write_bytes(b"nothing")
    assert train(root, "DATA.SKIP_CORRUPT", "True") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"left out: the image {poor} cannot be decoded" in said and "photographs left out so far: 1" in said
    poor.write_bytes(whole)
    assert evaluate(root) == 0
    assert f"left out: the image {broken} cannot be decoded" in " ".join(capsys.readouterr().out.split())
    assert evaluate(root, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 8 and found["trained"]["diagonal_images"] == 8
    assert len(found["skipped"]) == 1 and str(broken) in found["skipped"][0]
    assert train(root, "--anew") == 0
    capsys.readouterr()
    assert evaluate(root) == 2
    said = capsys.readouterr().err
    assert f"{broken} cannot be decoded" in said and "DATA.SKIP_CORRUPT True" in said
    (root / "imagenet" / "train" / "n01440764" / "0.JPEG").write_bytes(b"nothing")
    assert train(root, "--anew") == 2
    assert "n01440764/0.JPEG cannot be decoded" in capsys.readouterr().err


def test_missing_folders_say_what_to_put_where(root: Path, capsys) -> None:
    assert train(root, "--data", str(root / "nowhere")) == 2
    said = capsys.readouterr().err
    assert "ImageNet is not in" in said and "one folder of photographs for each class" in said
    (root / "imagenet" / "val" / "n01443537").rename(root / "imagenet" / "val" / "n01491361")
    assert main(["prepare", "imagenet", "--root", str(root)]) == 2
    assert "has classes that are not in" in capsys.readouterr().err


def test_a_checkpoint_of_another_network_is_named_in_a_fine_tune(root: Path, capsys) -> None:
    assert train(root) == 0
    weights = root / "results" / "blurpool" / "imagenet" / "resnet18_lpf3" / "seed0" / "weights.safetensors"
    capsys.readouterr()
    assert train(root, "--seed", "1", "TRAIN.FINETUNE", str(weights), "MODEL.ARCH", "resnet50") == 2
    assert "the checkpoint is of another network" in capsys.readouterr().err
    assert train(root, "--seed", "1", "TRAIN.FINETUNE", str(weights), "MODEL.WIDTH", "0.25") == 2
    assert "of another shape" in capsys.readouterr().err


def test_weights_that_are_only_measured_need_no_photographs_to_train_on(root: Path, capsys) -> None:
    shutil.rmtree(root / "imagenet" / "train")
    net = pipelines.build(pipelines.configure("blurpool/resnet18", "imagenet", SETTINGS))
    torch.save(net.state_dict(), root / "resnet18.pth")
    places = ["--data", str(root), "--results", str(root / "results"), "--device", "cpu"]
    words = [*SETTINGS, "TRAIN.FINETUNE", str(root / "{arch}.pth"), "TRAIN.EPOCHS", "0"]
    assert main(["train", "blurpool/resnet18", *places, "--recipe", "imagenet_baseline", *words]) == 0
    run = Run("blurpool", "imagenet_baseline", "resnet18", 0, root / "results")
    assert main(["evaluate", str(run.folder), "--data", str(root), "--device", "cpu", "--json"]) == 0
    assert json.loads(run.metrics.read_text())["images"] == 9
    kept, _ = read_tensors(run.weights)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in net.state_dict().items())
    # an epoch of training does need them
    assert main(["train", "blurpool/resnet18", *places, "--recipe", "imagenet", *SETTINGS]) == 2
    assert "train not found" in capsys.readouterr().err
