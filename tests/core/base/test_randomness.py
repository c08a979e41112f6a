"""Draws are a function of their key."""

import torch

from stillpoint.core.base.randomness import generator, seed_for, uniform_integers


def test_the_same_key_gives_the_same_stream_and_another_key_another() -> None:
    draw = [
        torch.rand(8, generator=generator("order", seed, epoch)) for seed, epoch in ((0, 1), (0, 1), (1, 0), (0, 2))
    ]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    assert not torch.equal(draw[0], draw[3])
    assert seed_for("a", 1) != seed_for("a", 2) != seed_for("b", 1)


def test_the_numbers_are_frozen() -> None:
    # results of published runs hang on them
    drawn = uniform_integers(torch.tensor([0, 1, 7]), -3, 3, 4, "circular", 0, 0)
    assert drawn.tolist() == [[-3, 0, -3, -1], [-3, -3, -1, 2], [0, -1, -2, 1]]


def test_an_image_draws_the_same_in_any_batch() -> None:
    index = torch.arange(100)
    whole = uniform_integers(index, 0, 32, 4, "windows", 3)
    parts = torch.cat([uniform_integers(part, 0, 32, 4, "windows", 3) for part in index.split(7)])
    assert torch.equal(whole, parts)


def test_draws_are_uniform_and_independent_over_images_and_draws() -> None:
    drawn = uniform_integers(torch.arange(20_000), 0, 8, 2, "x", 0).double()
    expected = 2 * 20_000 / 8
    counts = torch.bincount(drawn.flatten().long(), minlength=8).double()
    # chi-square of 7 degrees of freedom is above 24.3 once in a thousand
    assert ((counts - expected).square() / expected).sum() < 24.3
    assert abs(torch.corrcoef(drawn.T)[0, 1]) < 0.03
    assert abs(torch.corrcoef(torch.stack([drawn[:-1, 0], drawn[1:, 0]]))[0, 1]) < 0.03
