"""From the sections of a configuration to loaders, on the handwritten digits and on class folders of photographs."""

import numpy as np
import pytest
import torch
from PIL import Image

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.merge import merge
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.data.augment import Crop, Erase, Flip, ResizedCrop, Roll, TurningFlip
from stillpoint.core.data.build import augmentation, images, loader, loaders


def configuration(*pairs: str) -> RunConfig:
    return merge(RunConfig, [{"TRAIN": {"KEEP": "last", "BATCH_SIZE": 64}}], list(pairs))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Where the digits are prepared once, and a few photographs lie in two classes."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.RandomState(0)
    for part, count in (("train", 6), ("val", 2)):
        for name in ("n02123045", "n02102040"):
            (folder / "imagenet" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.randint(0, 256, (40, 50, 3), np.uint8)
                Image.fromarray(pixels).save(folder / "imagenet" / part / name / f"{number}.png")
    return folder


def test_all_parts_have_their_images_and_none_twice(root):
    config = configuration("DATA.VALIDATION", "100")
    made = loaders(config, root)
    sizes = [len(part.image_set) for part in (made.train, made.validation, made.test)]
    assert sizes[1] == 100 and sum(sizes) == 1797
    seen = torch.cat([batch.indices for batch in made.train.epoch(3)])
    assert sorted(seen.tolist()) == list(range(sizes[0]))
    assert len(made.train) == -(-sizes[0] // 64)
    assert made.title.startswith("Digits")


def test_no_validation_images_make_no_loader(root):
    made = loaders(configuration(), root, parts=("train", "validation"))
    assert made.validation is None and made.test is None and made.train is not None


def test_the_digest_is_of_the_images_and_their_split(root):
    digests = [
        loaders(configuration(*pairs), root).digest
        for pairs in (
            (),
            ("DATA.VALIDATION", "9"),
            ("DATA.VALIDATION", "9", "DATA.SPLIT_SEED", "1"),
            ("DATA.LIMIT", "8"),
        )
    ]
    assert len(set(digests)) == 4
    assert loaders(configuration("SEED", "3", "TRAIN.LR", "1.0"), root).digest == digests[0]


def test_a_limit_takes_the_first_images_of_each_part(root):
    config = configuration("DATA.LIMIT", "10", "DATA.VALIDATION", "100")
    whole = configuration("DATA.VALIDATION", "100")
    for part in ("train", "validation", "test"):
        few = images(config, part, root)
        assert len(few) == 10 and torch.equal(few.images, images(whole, part, root).images[:10])


def test_the_first_images_can_be_held_out(root):
    config = configuration("DATA.VALIDATION", "20", "DATA.VALIDATION_CHOICE", "first")
    everything = images(configuration(), "train", root).images
    assert torch.equal(images(config, "validation", root).images, everything[:20])
    assert torch.equal(images(config, "train", root).images, everything[20:])


def test_mini_batches_are_the_accumulated_parts_of_a_batch(root):
    config = configuration("TRAIN.ACCUMULATE", "4")
    assert len(next(iter(loader(config, "train", root).epoch(0))).labels) == 16
    assert len(next(iter(loader(config, "test", root, batch_size=30).epoch(0))).labels) == 30


def test_processes_share_the_batch_of_one(root):
    config = configuration("AUGMENT.FLIP", "0.5", "AUGMENT.ROLL", "3")
    alone = next(iter(loader(config, "train", root).epoch(2)))
    parts = [next(iter(loader(config, "train", root, "cpu", rank, 2).epoch(2))) for rank in (0, 1)]
    assert torch.equal(torch.cat([part.images for part in parts]), alone.images)
    assert torch.equal(torch.cat([part.indices for part in parts]), alone.indices)


def test_augmentation_follows_the_order_of_the_section():
    config = configuration(
        *("AUGMENT.RESIZED_CROP", "[0.5, 1.0]", "AUGMENT.CROP_PADDING", "3", "AUGMENT.FLIP", "0.5"),
        *("AUGMENT.ROLL", "4", "AUGMENT.ROLL_PER", "batch", "AUGMENT.ERASE", "5"),
    )
    assert augmentation(config, training=True).steps == (
        (ResizedCrop(32, (0.5, 1.0)), "pixels"),
        (Crop(3), "pixels"),
        (Flip(0.5), "pixels"),
        (Roll(4, "batch", half_open=True), "pixels"),
        (Erase(5), "normalised"),
    )
    assert augmentation(config, training=False) is None
    turning = configuration("AUGMENT.FLIP", "0.5", "AUGMENT.FLIP_TURNS", "True")
    assert augmentation(turning, training=True).steps == ((TurningFlip(0.5), "pixels"),)
    assert augmentation(configuration(), training=True) is None


def test_rolls_are_drawn_from_the_papers_half_open_range(root):
    config = configuration("AUGMENT.ROLL", "2", "DATA.LIMIT", "512", "TRAIN.BATCH_SIZE", "512")
    augment = augmentation(config, training=True)
    (draws,) = augment.draw(512, 32, 32, torch.Generator().manual_seed(0))
    assert set(draws.flatten().tolist()) == {-2, -1, 0, 1}


def test_a_canvas_is_the_task_of_testing_too(root):
    config = configuration("AUGMENT.CANVAS_PADDING", "16", "DATA.IMAGE_SIZE", "48", "DATA.LIMIT", "64")
    for part in ("train", "test"):
        made = loader(config, part, root)
        first, again = (next(iter(made.epoch(0))).images for _ in range(2))
        assert first.shape == (64, 1, 48, 48) and torch.equal(first, again)
    assert len({tuple(image.flatten().tolist()) for image in first}) > 32


def test_validation_is_neither_shuffled_nor_changed(root):
    config = configuration("DATA.VALIDATION", "100", "AUGMENT.FLIP", "1.0", "AUGMENT.ERASE", "4")
    made = loader(config, "validation", root)
    batches = list(made.epoch(0))
    assert torch.equal(torch.cat([batch.indices for batch in batches]), torch.arange(100))
    own = made.image_set
    pixels = torch.cat([batch.images for batch in batches]) * own.std[0] + own.mean[0]
    assert torch.allclose(pixels * 255, own.images.float(), atol=1e-3)


def test_normalisation_can_be_another_than_the_data_sets_own(root):
    config = configuration("DATA.MEAN", "[0.0]", "DATA.STD", "[1.0]", "DATA.LIMIT", "64")
    batch = next(iter(loader(config, "test", root).epoch(0)))
    assert batch.images.min() == 0 and 0.9 < batch.images.max() <= 1


def test_photographs_are_cropped_at_random_in_training_and_in_the_middle_otherwise(root):
    pairs = (
        "DATA.NAME",
        "imagenet",
        "DATA.IMAGE_SIZE",
        "24",
        "AUGMENT.RESIZED_CROP",
        "[0.08, 1.0]",
        "AUGMENT.RESIZE",
        "28",
    )
    config = configuration(*pairs, "TRAIN.BATCH_SIZE", "4")
    made = loaders(config, root, parts=("train", "test"))
    first, second = (list(made.train.epoch(epoch)) for epoch in (0, 1))
    assert first[0].images.shape == (4, 3, 24, 24) and len(first) == 3
    assert not torch.equal(first[0].images, second[0].images)
    tested = [torch.cat([batch.images for batch in made.test.epoch(epoch)]) for epoch in (0, 1)]
    assert torch.equal(*tested) and tested[0].shape == (4, 3, 24, 24)


@pytest.mark.parametrize(
    "pairs, sentence",
    [
        (["DATA.IMAGE_SIZE", "40"], "only AUGMENT.CANVAS_PADDING"),
        (["DATA.IMAGE_SIZE", "40", "AUGMENT.CANVAS_PADDING", "2"], "more than 32"),
        (["AUGMENT.ERASE", "33"], "AUGMENT.ERASE 33 is larger than the images, 32x32"),
        (["AUGMENT.RESIZE", "36"], "AUGMENT.RESIZE is for photographs"),
        (["DATA.NAME", "imagenet", "AUGMENT.RESIZED_CROP", "[0.5, 1.0]"], "RESIZED_CROP of photographs"),
        (["DATA.NAME", "cifar10"], "CIFAR-10 is not in"),
    ],
)
def test_what_cannot_be_had_is_told_in_a_sentence(root, pairs, sentence):
    with pytest.raises(UserError, match=sentence):
        loader(configuration(*pairs), "train", root)


@pytest.mark.parametrize(
    "pairs, margin, sentence",
    [
        (("DATA.IMAGE_SIZE", "128"), 32, r"resized to 146 .* 128 \+ EVALUATE.MARGIN 32: set AUGMENT.RESIZE to 160 or"),
        (("AUGMENT.RESIZE", "200"), 0, r"resized to 200 pixels .* DATA.IMAGE_SIZE 224: set AUGMENT.RESIZE to 224 or"),
    ],
)
def test_photographs_get_no_black_border(root, pairs, margin, sentence):
    given = ("DATA.NAME", "imagenet", "AUGMENT.RESIZED_CROP", "[0.08, 1.0]", *pairs)
    with pytest.raises(UserError, match=sentence):
        loader(configuration(*given), "test", root, margin=margin)
    # a random crop of the whole photograph is resized itself
    assert loader(configuration(*given), "train", root) is not None
    given = ("DATA.NAME", "imagenet", *pairs, "AUGMENT.RESIZE", str(int(pairs[1]) + margin + 24))
    assert loader(configuration(*given), "test", root, margin=margin) is not None
