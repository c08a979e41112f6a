"""Inverting a network gives back pictures, and says so when it cannot."""

import pytest
import torch

from stillpoint.core.base.errors import UserError
from stillpoint.pipelines.sdnet.config import Model
from stillpoint.pipelines.sdnet.models import build
from stillpoint.pipelines.sdnet.reconstruction import decode, encode, equalised, layers_up_to, reconstruct, stretched


def make(size: int = 32, **settings):
    torch.manual_seed(0)
    model = Model.model_validate({"NAME": "sdnet18_all", "SHORTCUT": False, **settings})
    return build(model, in_channels=3, num_classes=10, image_size=size).eval()


def picture(size: int = 32) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_inverse_of_a_batch_norm_with_eps_is_exact_and_without_it_is_not():
    net, x = make(), torch.randn(2, 64, 8, 8, generator=torch.Generator().manual_seed(1))
    norm = net.layer1[0].bn1
    norm.running_var.fill_(1e-3)
    norm.weight.uniform_(0.5, 1.5)
    z, sizes = encode([norm], x)
    torch.testing.assert_close(decode([norm], z, sizes), x, rtol=1e-4, atol=1e-5)
    assert (decode([norm], z, sizes, authors=True) - x).abs().max() > 1e-3


@torch.no_grad()
def test_more_iterations_and_a_smaller_penalty_keep_more_of_the_picture():
    x = picture()

    def lost(**settings) -> float:
        return float((reconstruct(make(**settings), x, 0, 0) - x).square().mean())

    assert lost(NUM_LAYERS=50, LAMBDA=0.001) < 0.1 * lost(LAMBDA=0.1)
    assert lost(NUM_LAYERS=50, LAMBDA=0.001) < 0.01


@torch.no_grad()
@pytest.mark.parametrize(("size", "settings"), [(15, {}), (66, {}), (16, {"POOLING": True}), (15, {"POOLING": True})])
def test_every_stage_comes_back_at_the_size_of_the_picture(size, settings):
    net, x = make(size, **settings), picture(size)
    for stage, block in [(0, 0), (2, 2)]:
        back = reconstruct(net, x, stage, block)
        assert back.shape == x.shape
        assert back.isfinite().all()


def test_what_has_no_inverse_is_refused_by_name():
    with pytest.raises(UserError, match="shortcut"):
        layers_up_to(make(SHORTCUT=True), 1, 1)
    with pytest.raises(UserError, match="stages 0 to 4, not 5"):
        layers_up_to(make(), 5, 1)
    with pytest.raises(UserError, match="blocks 1 to 2, not 3"):
        layers_up_to(make(), 2, 3)
    with pytest.raises(UserError, match="only an \\*_all network"):
        layers_up_to(make(224, NAME="sdnet18", SHORTCUT=True), 0, 0)
    with pytest.raises(ValueError, match="eval"):
        reconstruct(make().train(), picture(), 0, 0)


def test_stretching_reaches_0_and_1_in_every_channel_and_a_constant_channel_becomes_0():
    x = picture()
    x[0, 1] = 0.3
    out = stretched(x)
    assert out.amin((2, 3)).eq(0).all()
    assert torch.equal(out.amax((2, 3)) == 1, torch.tensor([[True, False, True], [True, True, True]]))


def test_equalisation_spreads_a_narrow_histogram_and_keeps_the_order_of_values():
    ramp = torch.linspace(0.4, 0.6, 1024).view(1, 1, 32, 32)
    out = equalised(ramp).flatten()
    assert out.max() - out.min() > 0.9
    assert (out.diff() >= 0).all()
    assert torch.equal((out * 255).round(), out * 255)
