"""The authors' consistency on CIFAR-10, whose form is not that of ImageNet."""

import pytest
import torch
import torch.nn.functional as F

from stillpoint import pipelines
from stillpoint.core.base.randomness import generator
from stillpoint.core.evaluation.view import View
from stillpoint.pipelines.lps.evaluate import BatchPairs, StandardAndCircular, evaluations


def test_windows_and_rolls_of_one_size_are_drawn_for_a_batch():
    config = pipelines.recipe_config("lps", "cifar10_authors")
    made = evaluations(config)["standard_and_circular"]
    assert made is BatchPairs and config.data.validation_choice == "test" and config.train.keep == "best"
    assert (
        evaluations(pipelines.recipe_config("lps", "imagenet", ["EVALUATE.PROTOCOL", "authors"]))[
            "standard_and_circular"
        ]
        is StandardAndCircular
    )
    draws = torch.Generator().manual_seed(0)
    weights, x = torch.randn(5, 3, 8, 8, generator=draws), torch.randn(2, 6, 3, 8, 8, generator=draws)

    def predict(images):
        return torch.einsum("bchw,kchw->bk", images, weights)

    metric = made(config.evaluate, 4)
    for images in x:
        metric.update(View(images, torch.zeros(6), torch.arange(6), predict))
    random, want = generator("lps authors", 4), []
    for images in x:
        (a, b), (c, d) = (torch.randint(-3, 3, (2, 2), generator=random).tolist() for _ in range(2))
        padded = F.pad(images, (3,) * 4)
        windows = [predict(padded[:, :, 3 + i : 11 + i, 3 + j : 11 + j]).argmax(1) for i, j in (a, b)]
        rolls = [predict(images.roll(shift, (2, 3))).argmax(1) for shift in (c, d)]
        want.append([float((one == other).double().mean()) for one, other in (windows, rolls)])
    standard, rolled = torch.tensor(want, dtype=torch.float64).mean(0).tolist()
    assert metric.compute() == pytest.approx({"standard_consistency": standard, "rolled_consistency": rolled})
    assert 0 < standard < 1
