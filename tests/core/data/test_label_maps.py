"""Sets with a class for each pixel: made of digits, and VOC's form on a few drawn photographs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.merge import merge
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.data.build import loader, loaders
from stillpoint.core.data.datasets import load, prepare
from stillpoint.core.data.sets import LabelMapFiles, LabelMapSet
from stillpoint.core.data.sources.digits import DATASET as DIGITS
from stillpoint.core.data.sources.digits_segmentation import BRIGHT, DRAWN, scattered
from tests.core.voc import drawn_voc


def settings(*pairs: str) -> RunConfig:
    return merge(RunConfig, [{"TRAIN": {"BATCH_SIZE": 8}}], list(pairs))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


def test_scattered_digits_are_the_same_on_every_machine(root: Path) -> None:
    told = json.loads(prepare("digits_segmentation", root).read_text())
    assert told["images"] == {"train": 1200, "test": 300} and told["classes"] == 11
    assert told["digests"] == {
        "train": "30c756998b768d08a0136cb0b128a4a32e19242aa38c553c860852f59b5c63cf",
        "test": "a20e18133f2ec2c0040fcad9936b47d5b2733bfb0263cac47940abb7bb9a4e8f",
    }
    train, val = (load("digits_segmentation", root, split) for split in ("train", "val"))
    assert isinstance(train, LabelMapSet) and (len(train), len(val)) == (1080, 120)
    assert train.labels.shape == (1080, 64, 64) and train.labels.dtype == torch.uint8
    assert set(train.labels.unique().tolist()) == {*range(11), 255}
    whole = load("digits_segmentation", root, val_size=0)
    scaled = whole.images.double() / 255
    assert abs(scaled.mean() - whole.mean[0]) < 5e-5 and abs(scaled.std(correction=0) - whole.std[0]) < 5e-5


def test_a_map_follows_its_definition_pixel_by_pixel() -> None:
    drawn = np.zeros((2, DRAWN, DRAWN), np.uint8)
    drawn[:, 8:16, 8:16] = BRIGHT - 1
    drawn[:, 10:14, 10:14] = BRIGHT
    images, maps = scattered(drawn, np.array([3, 7]), 200, 0, "train")
    assert set(np.unique(images)) == {0, BRIGHT - 1, BRIGHT} and set(np.unique(maps)) == {0, 4, 8, 255}
    assert np.array_equal(images[:, 0] == 0, maps == 0) and np.array_equal(images[:, 0] == BRIGHT - 1, maps == 255)
    # one to four digits of 64 pixels, fewer where one lies over another
    sizes = (maps != 0).sum((1, 2))
    assert sizes.min() == 64 and 192 < sizes.max() <= 256
    # a function of the seed, the part and the image alone
    again = scattered(drawn, np.array([3, 7]), 50, 0, "train")
    assert np.array_equal(again[0], images[:50]) and np.array_equal(again[1], maps[:50])
    for other in ((1, "train"), (0, "test")):
        assert not np.array_equal(scattered(drawn, np.array([3, 7]), 50, *other)[0], images[:50])


def test_test_images_are_made_of_digits_that_training_never_saw(root: Path) -> None:
    parts = DIGITS.decode(root, lambda *told: None).parts
    seen = {image.tobytes() for image in parts["train"][0]}
    assert not [image for image in parts["test"][0] if image.tobytes() in seen]


def test_whatever_moves_an_image_moves_its_map(root: Path) -> None:
    pairs = (
        "DATA.NAME",
        "digits_segmentation",
        "AUGMENT.FLIP",
        "0.5",
        "AUGMENT.ROLL",
        "9",
        "AUGMENT.CROP_PADDING",
        "6",
    )
    made = loader(settings(*pairs, "DATA.LIMIT", "48"), "train", root)
    for batch in made.epoch(1):
        assert batch.labels.dtype == torch.int64 and batch.labels.shape == (8, 64, 64)
        assert batch.images.shape == (8, 1, 64, 64) and batch.images.dtype == torch.float32
        pixels = ((batch.images[:, 0] * made.image_set.std[0] + made.image_set.mean[0]) * 255).round()
        # the digits lie where their labels say, at every pixel
        inside = batch.labels != 255
        assert torch.equal((pixels >= BRIGHT)[inside], (batch.labels > 0)[inside])
        assert bool((pixels[~inside] < BRIGHT).all())
    # what enters at the edge is black and has no class
    entered = torch.cat([batch.labels[:, 0, :] for batch in made.epoch(2)])
    assert bool((entered == 255).all(1).any())


def test_maps_are_not_resized_nor_erased(root: Path) -> None:
    name = ("DATA.NAME", "digits_segmentation")
    for pairs, said in (
        (("AUGMENT.RESIZED_CROP", "[0.5, 1.0]"), "are not resized"),
        (("AUGMENT.ERASE", "4"), "AUGMENT.ERASE would erase pixels"),
    ):
        with pytest.raises(UserError, match=said):
            loader(settings(*name, *pairs), "train", root)
    with pytest.raises(UserError, match="MARGIN is for photographs with one class"):
        loader(settings(*name), "test", root, margin=4)


def test_an_epoch_goes_on_from_any_step_and_is_shared_by_processes(root: Path) -> None:
    config = settings("DATA.NAME", "digits_segmentation", "AUGMENT.ROLL", "5", "DATA.LIMIT", "24")
    whole = list(loader(config, "train", root).epoch(1))
    rest = list(loader(config, "train", root).epoch(1, 1))
    assert torch.equal(whole[1].images, rest[0].images) and torch.equal(whole[1].labels, rest[0].labels)
    parts = [next(iter(loader(config, "train", root, rank=r, world_size=2).epoch(1))) for r in range(2)]
    assert torch.equal(torch.cat([part.labels for part in parts]), whole[0].labels)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return drawn_voc(tmp_path)


def test_voc_is_read_where_it_lies_and_says_which_maps_it_trains_on(voc: Path) -> None:
    told = json.loads(prepare("voc2012", voc).read_text())
    assert told["images"] == {"train": 3, "val": 2} and told["training"] == "train.txt"
    assert told["title"] == "PASCAL VOC 2012 (2 of 1,449 images)" and "2 of 1,449" in told["incomplete"]
    test = load("voc2012", voc, "test")
    assert isinstance(test, LabelMapFiles) and [Path(path).stem for path in test.paths] == [
        "2007_000005",
        "2007_000006",
    ]
    assert test.classes[15] == "person" and len(test.classes) == 21
    assert (len(load("voc2012", voc, "val", val_size=1)), len(load("voc2012", voc, "train", val_size=1))) == (1, 2)
    lists = voc / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    (lists / "trainaug.txt").write_text("\n".join(f"2007_{k:06}" for k in range(5)))
    told = json.loads(prepare("voc2012", voc).read_text())
    assert told["images"] == {"train": 5, "val": 2} and told["training"] == "trainaug.txt"
    train = load("voc2012", voc)
    assert "augmented maps, 5 of 10,582" in train.title and all("ClassAug" in path for path in train.maps)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("part", ["train", "test"])
def test_photographs_and_maps_are_cut_alike(voc: Path, part: str, workers: int) -> None:
    pairs = (
        "DATA.NAME",
        "voc2012",
        "DATA.IMAGE_SIZE",
        "32",
        "AUGMENT.RESIZED_CROP",
        "[0.08, 1.0]",
        "AUGMENT.FLIP",
        "0.5",
    )
    made = loader(settings(*pairs, "AUGMENT.RESIZE", "48"), part, voc, workers=workers)
    seen = []
    for epoch in (0, 1):
        (batch,) = made.epoch(epoch)
        assert batch.images.shape == (len(made.image_set), 3, 32, 32) and batch.labels.dtype == torch.int64
        red = (batch.images[:, 0] * made.image_set.std[0] + made.image_set.mean[0]) * 255
        # away from the edges between classes, where the photograph is smooth, colour and class agree
        inside = batch.labels != 255
        close = (red - 20 * batch.labels).abs() < 30
        assert float(close[inside].float().mean()) > 0.8
        assert set(batch.labels.unique().tolist()) <= {0, 3, 7, 12, 255}
        seen.append(batch.labels[batch.indices.argsort()])
    assert torch.equal(*seen) == (part == "test")


def test_a_scaled_window_cuts_both_alike_and_what_is_beyond_has_no_class(voc: Path) -> None:
    """Sides of 64 to 125 pixels times 0.5 to 2, in windows of 96."""
    pairs = ("DATA.NAME", "voc2012", "DATA.IMAGE_SIZE", "96", "AUGMENT.SCALE", "[0.5, 2.0]")
    made, beyond = loader(settings(*pairs), "train", voc), []
    for epoch in range(6):
        (batch,) = made.epoch(epoch)
        red, _, blue = ((batch.images[:, k] * made.image_set.std[k] + made.image_set.mean[k]) * 255 for k in range(3))
        inside = batch.labels != 255
        assert float(((red - 20 * batch.labels).abs() < 30)[inside].float().mean()) > 0.8
        beyond.append((~inside).float().mean((1, 2)))
        assert float(blue.abs().max()) < 40  # nothing but black comes in
    # the two rows above the classes, or most of a window that is larger than its image
    assert torch.cat(beyond).min() < 0.1 < torch.cat(beyond).max()
    assert torch.equal(next(iter(made.epoch(5))).labels, batch.labels)
    whole = loader(settings(*pairs), "test", voc)
    assert torch.equal(next(iter(whole.epoch(0))).labels, next(iter(whole.epoch(1))).labels)


def test_one_window_is_chosen(voc: Path) -> None:
    with pytest.raises(UserError, match="each choose the window"):
        settings("AUGMENT.SCALE", "[0.5, 2]", "AUGMENT.RESIZED_CROP", "[0.08, 1.0]")
    with pytest.raises(UserError, match=r"from the smaller factor to the larger, not \[2.0, 0.5\]"):
        settings("AUGMENT.SCALE", "[2, 0.5]")
    for name in ("digits", "digits_segmentation"):
        with pytest.raises(UserError, match=r"AUGMENT.SCALE is for photographs; images of \w+ all have one size"):
            loader(settings("DATA.NAME", name, "AUGMENT.SCALE", "[0.5, 2]"), "train", voc)


def test_a_label_map_of_another_size_is_refused_in_a_sentence(voc: Path) -> None:
    path = voc / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "2007_000005.png"
    with Image.open(path) as picture:
        picture.crop((0, 0, 50, 40)).save(path)
    config = settings("DATA.NAME", "voc2012", "DATA.IMAGE_SIZE", "32")
    with pytest.raises(UserError, match=r"2007_000005\.png is 50x40, but its image 105x104: each pixel needs its own"):
        list(loader(config, "test", voc).epoch(0))
    skipping = loader(merge(RunConfig, [config.dump()], ["DATA.SKIP_CORRUPT", "True"]), "test", voc)
    assert [len(batch.labels) for batch in skipping.epoch(0)] == [1] and len(skipping.skipped) == 1


def test_a_class_that_there_is_not_is_refused(voc: Path) -> None:
    path = voc / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "2007_000006.png"
    with Image.open(path) as picture:
        classes = np.array(picture)
    classes[5, 5] = 37
    Image.fromarray(classes).save(path)
    with pytest.raises(UserError, match=r"holds the class 37: classes are 0 to 20, and 255 marks unlabelled pixels"):
        list(loader(settings("DATA.NAME", "voc2012", "DATA.IMAGE_SIZE", "32"), "test", voc).epoch(0))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("val.txt", "2007_000005\n../../2007_000006\n", "names '../../2007_000006', which is not a valid image name"),
        ("val.txt", "2007_000005\n2007_000005\n", "names an image twice"),
        ("val.txt", "", "names no image"),
        ("val.txt", "2007_000005\n2008_000001\n", r"2008_000001\.jpg, which val\.txt names, not found"),
        ("val.txt", "2007_000000\n2007_000006\n", "1 images are in the lists for both training and validation"),
        ("trainaug.txt", "2007_000003\n2007_000006\n", "1 images are in the lists for both training and validation"),
    ],
)
def test_a_damaged_list_is_named(voc: Path, file: str, content: str, said: str) -> None:
    (voc / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / file).write_text(content)
    with pytest.raises(UserError, match=said):
        prepare("voc2012", voc)


def test_the_parts_of_a_configuration_are_loaded(voc: Path) -> None:
    made = loaders(settings("DATA.NAME", "voc2012", "DATA.IMAGE_SIZE", "32", "DATA.VALIDATION", "1"), voc)
    assert [len(part.image_set) for part in (made.train, made.validation, made.test)] == [2, 1, 2]
    assert made.digest and made.title.startswith("PASCAL VOC 2012")
