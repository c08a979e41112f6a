"""What lps, tips and alias_free cannot do, each said in one sentence with the number and what is allowed."""

import pytest
import torch

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.layers import (
    LearnablePolyphaseDownsample2d,
    TranslationInvariantDownsample2d,
    mix_phases,
    phase_weights,
)
from stillpoint.core.layers.gumbel import set_tau
from stillpoint.core.layers.phase_scorers import ConvScorer
from stillpoint.core.metrics import SegmentationScores
from stillpoint.core.training.loss import pixel_losses


def built(network: str, *pairs: str) -> object:
    config = pipelines.configure(network, "digits", list(pairs))
    return pipelines.build(config)


SCORES = torch.zeros(2, 4)
LAYER = LearnablePolyphaseDownsample2d(4)
CASES = {
    "a size without the law": (
        lambda: built("alias_free/convnext_nano_afc", "DATA.IMAGE_SIZE", "30"),
        r"multiples of its total stride, 4, not 30 pixels; MODEL.ANY_SIZE True accepts them",
    ),
    "halvings of another network": (
        lambda: built("tips/resnet20_tips_down2", "MODEL.NUM_DOWN", "6"),
        "MODEL.NUM_DOWN of resnet20 must be 2, got 6",
    ),
    "halvings of too small an image": (
        lambda: built("tips/resnet18_tips_down5", "DATA.NAME", "cifar10", "DATA.IMAGE_SIZE", "16"),
        "images of 16 pixels are too small to be halved 5 times",
    ),
    "another stride of tips": (lambda: TranslationInvariantDownsample2d(4, 3), "stride 2 only, got 3"),
    "no quadrants": (lambda: TranslationInvariantDownsample2d(4)(torch.zeros(1, 4, 1, 8)), "must be at least 2"),
    "odd sides of a scorer": (
        lambda: ConvScorer(4)(torch.zeros(1, 4, 7, 8)),
        r"a map of 7x8 has no phases of one size at stride \(2, 2\): its sides must be multiples of the stride",
    ),
    "an extension that is none": (
        lambda: built("lps/resnet20_lps", "MODEL.FILLING", "[extension=mirror]"),
        "extension must be one of circular, zeros, got 'mirror'",
    ),
    "tau of zero": (lambda: set_tau(LAYER, 0.0), "tau must be positive and finite, got 0.0"),
    "tau of zero in a recipe": (
        lambda: built(
            "lps/resnet20_lps", "TRAIN.TAU", "linear", "TRAIN.TAU_MILESTONES", "[2]", "TRAIN.TAU_TEMPERATURES", "[0.0]"
        ),
        "TRAIN.TAU_TEMPERATURES must be at least 1e-06, got 0.0",
    ),
    "noise of another shape": (
        lambda: phase_weights(SCORES, tau=1.0, noise=torch.zeros(2, 3)),
        r"noise must have the scores' shape \(2, 4\), got \(2, 3\)",
    ),
    "noise of another batch": (
        lambda: LAYER.train()(torch.zeros(2, 4, 8, 8), noise=torch.zeros(1, 4)), r"shape \(2, 4\), got \(1, 4\)"
    ),
    "weights of another shape": (
        lambda: mix_phases(torch.zeros(2, 4, 8, 8), torch.zeros(2, 3)), r"one for each phase, got \(2, 3\)"
    ),
    "label maps of another size": (
        lambda: pixel_losses(torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 9, dtype=torch.int64)),
        "the network returns maps of 8x8, but the label maps are 8x9",
    ),
    "label maps of another batch": (
        lambda: SegmentationScores(3).update(torch.zeros(2, 8, 8).long(), torch.zeros(1, 8, 8).long()),
        r"predicted maps of shape \(2, 8, 8\) for labels of shape \(1, 8, 8\)",
    ),
    "an unknown scorer": (
        lambda: built("lps/resnet20_lps", "MODEL.FILLING", "[scorer=sorting]"),
        "scorer must be one of conv, residual_conv, attention, normalised_attention, graph, perceptron, got 'sorting'",
    ),
    "a scorer without units": (
        lambda: built("lps/resnet20_lps", "MODEL.FILLING", "[hidden=0]"), "hidden must be a positive number of channels"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_is_said_in_one_sentence(name: str) -> None:
    work, said = CASES[name]
    with pytest.raises((UserError, ValueError), match=said) as caught:
        work()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 240
