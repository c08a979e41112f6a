"""What a shift does to the reference's networks, measured on ours with their derived weights (facts of TIPS, 6)."""

from pathlib import Path

import pytest
import torch

from stillpoint.core.layers.padding import PaddedConv2d
from tests.parity import parity
from tests.parity.adapters import tips

CASES = Path(__file__).parent / "cases" / "tips"
SHIFTS = ((1, 0), (-3, 2), (16, 11))


def built(pool):
    case = parity.load(CASES / "net_resnet18_down3.json.gz")
    state = case["state"]
    if pool != "tips":
        state = {name: t for name, t in state.items() if not (".downsample." in name or ".shortcut.0." in name)}
    return tips.network("resnet18", {"num_down": 3, pool: True}, state).eval()


@torch.no_grad()
def jump(net, shifts=SHIFTS):
    x = parity.input_for("x", (1, 3, 32, 32))
    still = net(x)
    return max(float((net(x.roll(s, (2, 3))) - still).abs().max() / still.abs().max()) for s in shifts)


@pytest.mark.parametrize(
    ("pool", "around"), [("tips", 3.6e-2), ("aps", 0.16), ("avgpool", 3.3e-2), ("maxpool", 5.1e-2)]
)
def test_no_pool_of_the_paper_makes_its_network_invariant(pool, around):
    assert around / 4 < jump(built(pool)) < around * 4


def test_quadrant_weights_cost_the_invariance_that_average_pooling_has():
    """With circular padding, for shifts by the total stride."""

    def wrapped(pool):
        net = built(pool)
        for module in net.modules():
            if isinstance(module, PaddedConv2d):
                module.padding_mode = "circular"
        return net

    whole = ((8, 8), (16, 16))
    assert jump(wrapped("avgpool"), whole) < 1e-6 < 5e-4 < jump(wrapped("tips"), whole)
