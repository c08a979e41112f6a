"""The invariance of the reference's networks, measured on ours with their derived weights (facts of LPS, section 7)."""

import copy
from pathlib import Path

import pytest
import torch

from stillpoint.core.layers.gumbel import set_noise
from tests.parity import parity
from tests.parity.adapters import lps
from tests.parity.adapters.lps_layers import turned

CASES = Path(__file__).parent / "cases" / "lps"
SHIFTS = ((1, 0), (-3, 2), (16, 11))


@pytest.fixture(scope="module")
def case():
    return parity.load(CASES / "net_cifar_resnet18.json.gz")


def built(case, **kwargs):
    changed = copy.copy(case)
    changed["kwargs"] = case["kwargs"] | kwargs
    return lps.network(changed)


@torch.no_grad()
def jump(net, side=32, dtype=torch.float32, shifts=SHIFTS):
    """Largest relative change of a log-probability of two images under circular shifts."""
    x = parity.input_for("x", (2, 3, side, side)).to(dtype)
    net = net.to(dtype)
    still = net(x).float().log_softmax(1)
    moved = [net(x.roll(shift, (2, 3))).float().log_softmax(1) for shift in shifts]
    return max(float((m - still).abs().max() / still.abs().max()) for m in moved)


def test_hard_sampling_with_circular_padding_is_invariant(case):
    assert jump(built(case)) < 1e-6


@pytest.mark.parametrize(
    ("kwargs", "side", "least"),
    [
        ({"LPS_convex": True}, 32, 1e-3),  # soft mixtures
        ({"pad": "zeros"}, 32, 1e-2),  # the scorers' padding
        ({"padding": "zeros"}, 32, 1e-2),  # the network's
        ({}, 28, 1e-2),  # 28, 14, 7: an odd map is sampled
        ({}, 31, 1e-2),
    ],
)
def test_and_nothing_else_is(case, kwargs, side, least):
    assert jump(built(case, **kwargs), side) > least


def test_scores_in_float32_keep_the_choice_where_maps_are_in_bfloat16(case):
    """The reference scores in bfloat16, and its outputs change by 6e-2."""
    assert jump(built(case), dtype=torch.bfloat16) < 1e-2


def test_training_mixes_grids_and_is_invariant_for_whole_strides_alone(case):
    net = built(case).train()
    set_noise(net, 0)
    # statistics of the batch do not depend on where an image lies
    assert jump(net, shifts=((8, 8),)) < 1e-5 < 3e-3 < jump(net, shifts=((1, 0), (3, -5)))


def test_the_phase_order_is_converted_once():
    assert turned(torch.tensor([0, 1, 2, 3])).tolist() == [0, 2, 1, 3]
    torch.testing.assert_close(turned(torch.tensor([[0.1, 0.2, 0.3, 0.4]])), torch.tensor([[0.1, 0.3, 0.2, 0.4]]))
