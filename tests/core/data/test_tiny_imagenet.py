"""Tiny ImageNet's form, drawn: folders of training images, flat validation images with their annotations."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.merge import merge
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.data.build import loader
from stillpoint.core.data.datasets import load, prepare
from stillpoint.core.data.imagenet_validation import classes

WNIDS = classes()[::5]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Two images of each of the first, the 100th and the last class; wnids.txt in another order than the alphabet's."""
    home, random = tmp_path / "tiny-imagenet-200", np.random.RandomState(0)
    home.mkdir()
    (home / "wnids.txt").write_text("\n".join(random.permutation(WNIDS)) + "\n")
    (home / "val" / "images").mkdir(parents=True)
    rows = []
    for number, wnid in enumerate((WNIDS[199], WNIDS[99], WNIDS[0])):
        folder = home / "train" / wnid / "images"
        folder.mkdir(parents=True)
        (folder.parent / f"{wnid}_boxes.txt").write_text("of no use here")
        for k in range(2):
            pixels = random.randint(0, 256, (64, 64) if k else (64, 64, 3), np.uint8)  # some of its images are grey
            Image.fromarray(pixels).save(folder / f"{wnid}_{k}.JPEG")
            Image.fromarray(pixels).save(home / "val" / "images" / f"val_{2 * number + k}.JPEG")
            rows.append(f"val_{2 * number + k}.JPEG\t{wnid}\t0\t32\t44\t62")
    (home / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_classes_are_numbered_by_the_order_of_their_identifiers(tiny: Path) -> None:
    for split in ("train", "test"):
        found = load("tiny_imagenet", tiny, split)
        assert found.labels.tolist() == [0, 0, 99, 99, 199, 199] and found.classes == WNIDS
        assert found.title == "Tiny ImageNet (3 of 200 classes)"
    assert [Path(path).stem for path in found.paths] == [f"val_{k}" for k in (4, 5, 2, 3, 0, 1)]
    told = json.loads(prepare("tiny_imagenet", tiny).read_text())
    assert told["images"] == {"train": 6, "val": 6} and "not 10000 of 200" in told["incomplete"]
    held = load("tiny_imagenet", tiny, "val", val_size=3)
    assert held.labels.tolist() == [0, 99, 199] and "train" in held.paths[0]


def test_images_are_seen_as_they_are(tiny: Path) -> None:
    config = merge(RunConfig, [], ["DATA.NAME", "tiny_imagenet", "DATA.MEAN", "[0, 0, 0]", "DATA.STD", "[1, 1, 1]"])
    made = loader(config, "test", tiny)
    (batch,) = made.epoch(0)
    with Image.open(made.image_set.paths[0]) as image:
        assert np.allclose(np.asarray(image.convert("RGB")), batch.images[0].permute(1, 2, 0) * 255, atol=1e-3)


def test_hidden_folders_change_nothing_and_strange_ones_are_named(tiny: Path) -> None:
    home, before = tiny / "tiny-imagenet-200", load("tiny_imagenet", tiny).digest
    for name in (".ipynb_checkpoints", "__MACOSX", "n99999999"):
        (home / "train" / name / "images").mkdir(parents=True)
    picture = next((home / "train" / WNIDS[0] / "images").iterdir()).read_bytes()
    for name in (".ipynb_checkpoints", "__MACOSX"):
        (home / "train" / name / "images" / "0.JPEG").write_bytes(picture)
    (home / "val" / "images" / "._val_0.JPEG").write_bytes(picture)
    assert load("tiny_imagenet", tiny).digest == before and len(load("tiny_imagenet", tiny, "test")) == 6
    (home / "train" / "n99999999" / "images" / "0.JPEG").write_bytes(picture)
    with pytest.raises(UserError, match=r"that are not classes of wnids\.txt: n99999999"):
        load("tiny_imagenet", tiny)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("wnids.txt", lambda text: text[10:], "does not hold 200 classes of ImageNet"),
        ("wnids.txt", lambda text: "n99999999" + text[9:], "does not hold 200 classes of ImageNet"),
        ("wnids.txt", lambda text: None, r"wnids\.txt not found"),
        ("val/val_annotations.txt", lambda text: None, r"val_annotations\.txt not found"),
        ("val/val_annotations.txt", lambda text: text.replace("\t", " "), "a line without the class"),
        ("val/val_annotations.txt", lambda text: text.replace(WNIDS[0], "n99999999"), "a line without the class"),
        ("val/val_annotations.txt", lambda text: "\n".join(text.splitlines()[1:]), r"has no class for val_0\.JPEG"),
        ("val/val_annotations.txt", lambda text: text + text, "has the class of an image twice"),
    ],
)
def test_a_damaged_list_is_named(tiny: Path, file: str, change, said: str) -> None:
    path = tiny / "tiny-imagenet-200" / file
    content = change(path.read_text())
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=said):
        load("tiny_imagenet", tiny, "test")


def test_what_is_not_there_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unpack tiny-imagenet-200\.zip so that .* stillpoint prepare tiny_imagenet"):
        prepare("tiny_imagenet", tmp_path)
