"""The paper's sets of shifts, and the evaluations over them."""

import pytest
import torch

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.evaluation.view import View
from stillpoint.pipelines.alias_free import grids


def test_the_sets_of_shifts() -> None:
    assert len(grids.integer_grid(32)) == 961 and (0, 1) not in grids.integer_grid(32)
    assert grids.half_grid(3) == [(-0.5, -0.5), (-0.5, -1.5), (-1.5, -0.5), (-1.5, -1.5)]
    # 2 divides 4, so its halves are among the quarters
    assert len(grids.fraction_grid(4)) == 13 and (-1 / 3, -2 / 3) in grids.fraction_grid(4)
    assert len(grids.fraction_grid(2)) == 1


def first_pixel(x: torch.Tensor) -> torch.Tensor:
    """Class 1 where the first pixel is bright, else class 0."""
    bright = x[:, 0, 0, 0]
    return torch.stack([0.5 - bright, bright - 0.5], 1)


def test_an_image_counts_where_it_is_right_as_it_is_and_after_every_shift() -> None:
    images, labels = torch.zeros(3, 1, 4, 4), torch.tensor([0, 0, 1])
    images[1, 0, 2, 2] = 1  # moved by two pixels it comes to the first place
    images[2] = 1
    assert grids.right_under_all(first_pixel, images, labels, grids.integer_grid(2)).tolist() == [True, True, True]
    assert grids.right_under_all(first_pixel, images, labels, grids.integer_grid(3)).tolist() == [True, False, True]


def test_a_translation_by_nothing_is_the_image_unless_sampled_as_the_authors_do() -> None:
    x = torch.rand(1, 1, 8, 6)
    torch.testing.assert_close(grids.translate_bilinear(x, (0, 0)), x)
    assert (grids.translate_bilinear(x, (0, 0), rule="authors") - x).abs().max() > 0.01
    up = grids.translate_bilinear(x, (1 / 8, 0))
    torch.testing.assert_close(up[..., :-1, :], x[..., 1:, :])
    assert not up[..., -1, :].any()
    with pytest.raises(ValueError, match="got 'paper'"):
        grids.translate_bilinear(x, (0, 0), rule="paper")


def view(config, predict, images: torch.Tensor, labels: torch.Tensor, wide: torch.Tensor | None = None) -> View:
    return View(images, labels, torch.arange(len(images)), predict, wide=wide)


def evaluated(name: str, pairs: list[str], images: torch.Tensor, labels: torch.Tensor, wide=None) -> dict:
    config = pipelines.configure("alias_free/convnext_nano_base", "digits", [*pairs, "EVALUATE.METRICS", f"[{name}]"])
    found = pipelines.paper("alias_free").evaluations(config)[name](config.evaluate, 0)
    half = len(images) // 2
    for part in (slice(None, half), slice(half, None)):
        found.update(view(config, first_pixel, images[part], labels[part], None if wide is None else wide[part]))
    return found.compute()


def test_the_grids_as_evaluations_do_not_depend_on_batches() -> None:
    images, labels = torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64)
    images[1, 0, 6, 6] = 1
    pairs = ["EVALUATE.GRID_SHIFT", "3"]
    assert evaluated("integer_grid", pairs, images, labels) == {
        "integer_grid_accuracy": 0.75,
        "integer_grid_images": 4.0,
    }


def test_crops_leave_out_what_the_authors_leave_out() -> None:
    wide, labels = torch.zeros(2, 1, 6, 6), torch.zeros(2, dtype=torch.int64)
    wide[0, 0, 0, 0] = 1  # the first pixel of the window furthest up and left alone
    images = wide[..., 1:5, 1:5]
    pairs = ["EVALUATE.CROP_SHIFT", "1", "EVALUATE.MARGIN", "2"]
    assert evaluated("crop_grid", pairs, images, labels, wide)["crop_grid_accuracy"] == 0.5
    pairs += ["EVALUATE.PROTOCOL", "authors"]
    assert evaluated("crop_grid", pairs, images, labels, wide)["crop_grid_accuracy"] == 1.0
    with pytest.raises(UserError, match=r"set EVALUATE\.MARGIN to at least 6"):
        pipelines.configure("alias_free/convnext_nano_base", "digits", ["EVALUATE.METRICS", "[crop_grid]"])
