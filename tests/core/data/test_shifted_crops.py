"""Views of one photograph: what is cut where."""

import numpy as np
import pytest
import torch
from PIL import Image

from stillpoint.core.data.shifted_crops import one_crop, shifted_crops, ten_crops


def photograph(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_one_crop_of_an_image_of_that_size_is_the_image() -> None:
    image = photograph(16, 16)
    assert torch.equal(one_crop(image, 16)[0], pixels(image))
    assert one_crop(photograph(20, 31), 16).shape == (1, 3, 16, 16)


def test_ten_crops_are_corners_and_centre_each_with_its_mirror() -> None:
    image = photograph(20, 24)
    x, views = pixels(image), ten_crops(image, 16, resize=20)
    want = [x[:, :16, :16], x[:, :16, 8:], x[:, 4:, :16], x[:, 4:, 8:], x[:, 2:18, 4:20]]
    for i, view in enumerate(want):
        assert torch.equal(views[2 * i], view)
        assert torch.equal(views[2 * i + 1], view.flip(-1))


@pytest.mark.parametrize(("direction", "down", "right"), [("horizontal", 0, 1), ("vertical", 1, 0), ("diagonal", 1, 1)])
def test_whole_pixel_shifts_are_windows(direction: str, down: int, right: int) -> None:
    image = photograph(12, 12)
    views = shifted_crops(image, 8, max_shift=4, direction=direction)
    assert len(views) == 5
    for k, view in enumerate(views):
        assert torch.equal(view, pixels(image)[:, k * down : k * down + 8, k * right : k * right + 8])


def test_all_shifts_have_the_vertical_one_outermost() -> None:
    image = photograph(10, 10)
    views = shifted_crops(image, 8, max_shift=2, direction="all").unflatten(0, (3, 3))
    assert torch.equal(views[1, 2], pixels(image)[:, 1:9, 2:10])


def test_two_steps_of_half_a_pixel_are_a_pixel() -> None:
    rows = torch.linspace(0, 250, 20).round().to(torch.uint8)
    image = Image.fromarray(rows[None, :, None].expand(20, 20, 3).numpy().copy())
    views = shifted_crops(image, 16, max_shift=4, divide=2, direction="horizontal").int()
    assert len(views) == 9
    # a ramp moved by k halves of a pixel is the ramp plus k halves of its slope, away from the border
    inner = views[..., 4:12]
    for k in range(9):
        assert (inner[k] - inner[0] - round(k * 250 / 19 / 2)).abs().max() <= 2


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="direction must be one of horizontal, vertical, diagonal, all, got 'up'"):
        shifted_crops(photograph(9, 9), 8, max_shift=1, direction="up")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="divide at least 1, got 1 and 0"):
        shifted_crops(photograph(9, 9), 8, max_shift=1, divide=0)
    with pytest.raises(ValueError, match="resize must be at least the crop's size 16, got 8"):
        ten_crops(photograph(20, 20), 16, resize=8)
