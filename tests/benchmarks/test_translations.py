"""The contender that stands for the notebook's loader does what the notebook does to an image."""

from types import SimpleNamespace

import torch

from benchmarks.translations import MEAN, PADDING, STD, WINDOW, Pictures, items
from stillpoint.core.base.randomness import generator

IMAGES = torch.randint(1, 256, (6, 1, 28, 28), generator=generator("images"), dtype=torch.uint8)
SET = SimpleNamespace(images=IMAGES, labels=torch.arange(6))


def test_an_image_is_padded_then_cut_then_scaled_and_normalised():
    source = Pictures(SET)
    assert len(source) == 6
    for index in range(6):
        window, label = source[index]
        assert window.shape == (1, WINDOW, WINDOW) and label == index
        padded = torch.nn.functional.pad(IMAGES[index, 0], (PADDING,) * 4)
        places = padded.unfold(0, WINDOW, 1).unfold(1, WINDOW, 1)  # (29, 29, 56, 56)
        stored = (window[0] * STD + MEAN).mul(255).round().to(torch.uint8)
        assert (places == stored).all(3).all(2).any()


def test_both_data_sets_are_timed_and_the_ratio_is_theirs_to_ours():
    found = items(SET, rounds=2, count=20)
    assert set(found["microseconds"]) == {"arrays", "FashionMNIST class"}
    assert all(len(own) == 2 for own in found["all"].values())
    assert min(found["microseconds"].values()) > 0 and found["FashionMNIST class / arrays"] > 0
