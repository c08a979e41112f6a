import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn import functional

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.randomness import generator
from stillpoint.core.data.augment import (
    STEPS,
    Crop,
    Erase,
    Flip,
    HalfTurn,
    ResizedCrop,
    Roll,
    build_augment,
    resized_crop,
)


def pixels(n: int = 5, channels: int = 3, height: int = 9, width: int = 7, key: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=generator("test", key))


def by_definition(name: str, image: Tensor, draw: Tensor, step: object) -> Tensor:
    """One image (C, H, W) changed in the plainest way."""
    height, width = image.shape[1:]
    if name == "flip":
        return torch.stack([image[:, :, width - 1 - j] for j in range(width)], 2) if draw else image
    if name == "half_turn":
        return torch.rot90(image, 2, (1, 2))
    row, column = draw.tolist()
    if name == "roll":
        return torch.roll(image, (row, column), (1, 2))
    if name == "crop":
        assert isinstance(step, Crop)
        canvas = functional.pad(image, (step.padding,) * 4)
        return canvas[:, row : row + (step.size or height), column : column + (step.size or width)]
    assert isinstance(step, Erase)
    erased = image.clone()
    erased[:, row : row + step.patch, column : column + step.patch] = 0
    return erased


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(
    "step",
    [
        Flip(),
        HalfTurn(),
        Roll(),
        Roll(3),
        Roll(3, per="batch", half_open=True),
        Crop(3),
        Crop(28, 20),
        Crop(0, 5),
        Crop(2, per="batch"),
        Erase(1),
        Erase(4),
        Erase(7, per="batch"),
    ],
)
def test_the_batch_equals_the_definition_image_by_image(step, dtype) -> None:
    images = pixels().to(dtype)
    draw = step.draw(5, 9, 7, generator("step", 1))
    changed = step.apply(images, draw)
    expected = torch.stack(
        [by_definition(step.name, image, row, step) for image, row in zip(images, draw, strict=True)]
    )
    assert changed.dtype == dtype and torch.equal(changed, expected)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_roll_keeps_every_pixel_at_any_size(height: int, width: int, key: int) -> None:
    images = pixels(3, 2, height, width, key)
    rolled = Roll().apply(images, Roll().draw(3, height, width, generator("roll", key)))
    assert torch.equal(rolled.flatten(2).sort().values, images.flatten(2).sort().values)


@pytest.mark.parametrize(
    ("step", "low", "high"),
    [
        (Roll(3), -3, 3),
        (Roll(3, half_open=True), -3, 2),
        (Roll(), 0, 27),
        (Crop(28, 56), 0, 28),
        (Crop(4), 0, 8),
        (Erase(8), 0, 20),
    ],
)
def test_offsets_are_uniform_over_their_range(step, low: int, high: int) -> None:
    n, places = 40_000, high - low + 1
    draw = step.draw(n, 28, 28, generator("uniform"))
    assert draw.shape == (n, 2) and draw.min() == low and draw.max() == high
    counts = torch.bincount((draw[:, 0] - low) * places + draw[:, 1] - low, minlength=places**2).double()
    expected = n / places**2
    chi_squared = ((counts - expected) ** 2 / expected).sum().item()
    freedom = places**2 - 1
    assert abs(chi_squared - freedom) < 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("step", [Roll(3, per="batch"), Crop(4, per="batch"), Erase(2, per="batch")])
def test_one_draw_serves_a_batch_when_asked(step) -> None:
    draw = step.draw(50, 20, 20, generator("batch"))
    assert draw.shape == (50, 2) and (draw == draw[0]).all()


def test_flip_has_its_probability() -> None:
    assert abs(Flip(0.3).draw(20_000, 1, 1, generator("p")).double().mean().item() - 0.3) < 0.02


@pytest.mark.parametrize("shape", [(32, 32), (20, 45), (60, 8)])
def test_random_boxes_fit_and_keep_their_ranges(shape: tuple[int, int]) -> None:
    height, width = shape
    top, left, h, w = ResizedCrop().draw(20_000, height, width, generator("boxes")).unbind(1)
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= height).all() and (left + w <= width).all()
    assert (h > 0).all() and (w > 0).all()
    if height == width:
        area = (h * w).double() / (height * width)
        assert area.min() > 0.06 and area.max() <= 1 and abs(area.mean().item() - 0.5) < 0.03
        assert len(torch.unique(top)) > 15 and len(torch.unique(left)) > 15


def test_an_image_too_narrow_for_any_attempt_is_cropped_at_its_centre() -> None:
    boxes = ResizedCrop(scale=(1.0, 1.0)).draw(10, 8, 64, generator("narrow"))
    assert (boxes == torch.tensor([0, 26, 8, 11])).all()  # 11 = round(8 * 4 / 3)


@pytest.mark.parametrize("target", [32, 20, 57])
def test_resized_crop_is_pillows_within_a_level(target: int) -> None:
    images = pixels(40, 3, 48, 40)
    boxes = ResizedCrop().draw(40, 48, 40, generator("pillow"))
    ours = resized_crop(images, boxes, target, target)
    for image, box, result in zip(images, boxes.tolist(), ours, strict=True):
        top, left, height, width = box
        cut = Image.fromarray(image.permute(1, 2, 0).numpy()).crop((left, top, left + width, top + height))
        expected = np.asarray(cut.resize((target, target), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        assert np.abs(result.numpy().astype(int) - expected.astype(int)).max() <= 1


def test_a_box_of_the_whole_image_at_its_own_size_changes_nothing() -> None:
    images = pixels(4, 3, 12, 10)
    assert torch.equal(resized_crop(images, torch.tensor([[0, 0, 12, 10]]).expand(4, 4), 12, 10), images)


SPEC = [
    {"name": "resized_crop"},
    {"name": "crop", "padding": 4, "size": 12},
    {"name": "flip"},
    {"name": "roll"},
    {"name": "erase", "patch": 3, "stage": "normalised"},
]


def test_a_generator_decides_everything() -> None:
    augment = build_augment(SPEC)
    assert augment is not None
    images = pixels(6, 3, 12, 12)
    first, again = augment(images, generator("a", 1)), augment(images, generator("a", 1))
    assert torch.equal(first, again) and not torch.equal(first, augment(images, generator("a", 2)))


def test_draws_cut_into_parts_give_the_parts_of_the_whole() -> None:
    augment = build_augment(SPEC)
    assert augment is not None
    images = pixels(7, 3, 12, 12)
    draws = augment.draw(7, 12, 12, generator("a"))
    whole = augment.apply(images, draws)
    parts = [augment.apply(images[part], [d[part] for d in draws]) for part in (slice(0, 3), slice(3, 3), slice(3, 7))]
    assert torch.equal(torch.cat(parts), whole)


def test_zero_means_black_before_normalisation_and_the_mean_after() -> None:
    images = torch.full((2, 1, 4, 4), 100, dtype=torch.uint8)
    for stage, value in (("pixels", -0.5), ("normalised", 0.0)):
        augment = build_augment([{"name": "erase", "patch": 4, "stage": stage}])
        assert augment is not None
        draws = augment.draw(2, 4, 4, generator("a"))
        assert (augment.apply(images, draws, lambda x: x.float() / 255 - 0.5) == value).all()


def test_an_empty_list_is_no_augmentation() -> None:
    assert build_augment([]) is None


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "flop"}, "unknown augmentation 'flop'.*nearest: flip"),
        ({}, "unknown augmentation None"),
        ({"name": "crop", "pad": 4}, "crop has no option 'pad': choose from padding, size, per, stage"),
        ({"name": "crop", "padding": -1}, "augmentation crop: padding must be at least 0, got -1"),
        ({"name": "roll", "per": "epoch"}, "per='epoch': choose 'image' or 'batch'"),
        ({"name": "roll", "max_shift": 0}, "max_shift=0"),
        ({"name": "flip", "p": 2}, "p=2"),
        ({"name": "flip", "stage": "late"}, "stage 'late'"),
        ({"name": "erase", "patch": 0}, "patch=0"),
        ({"name": "resized_crop", "scale": [0.5, 2]}, "scale="),
    ],
)
def test_a_wrong_step_is_one_sentence(entry: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_augment([entry])


def test_a_step_on_pixels_cannot_follow_a_normalised_one() -> None:
    with pytest.raises(UserError, match="cannot follow"):
        build_augment([{"name": "erase", "stage": "normalised"}, {"name": "flip"}])


@pytest.mark.parametrize("step", [Crop(0, 10), Erase(10)])
def test_what_does_not_fit_is_refused(step) -> None:
    with pytest.raises(ValueError, match="larger than a 8x8 image"):
        step.draw(1, 8, 8, generator("a"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"padding": -1}, "padding must be at least 0, got -1"), ({"size": 0}, "size must be at least 1, got 0")],
)
def test_a_crop_of_nothing_is_refused(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Crop(**options)


def test_every_step_can_be_built_by_name_and_keeps_an_empty_batch() -> None:
    for name in STEPS:
        augment = build_augment([{"name": name}])
        assert augment is not None
        assert augment(pixels(0, 3, 16, 16), generator("a")).shape == (0, 3, 16, 16)
