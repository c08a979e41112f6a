import copy
import pickle

import pytest
import torch
from torch import nn

from stillpoint.core.layers import (
    FILLINGS,
    AdaptiveBlur2d,
    BlurPool2d,
    PolyphaseDownsample2d,
    Subsample,
    downsample_factory,
)

OPTIONS = {"adaptive_blur": {"groups": 2}}


def fillings():
    return [downsample_factory(kind, **OPTIONS.get(kind, {})) for kind in FILLINGS]


@pytest.mark.parametrize("factory", fillings(), ids=FILLINGS)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("shape", [(8, 8), (9, 7), (6, 5)])
def test_every_filling_keeps_the_contract_of_the_slot(factory, stride, shape):
    x = torch.randn(3, 4, *shape)
    layer = factory(4, stride)
    size = (3, 4, *(-(-n // stride) for n in shape))
    y, phase = layer(x, return_phase=True)
    assert y.shape == size
    assert phase is None or (phase.shape == (3,) and phase.dtype == torch.int64)
    layer.eval()
    assert torch.equal(layer(x), layer(x, None))
    given = torch.tensor([0, stride - 1, stride * stride - 1])
    y, returned = layer(x, given, return_phase=True)
    assert y.shape == size
    assert torch.equal(returned, given)


@pytest.mark.parametrize("factory", fillings(), ids=FILLINGS)
def test_phase_zero_is_the_fixed_grid(factory):
    x = torch.randn(3, 4, 8, 6)
    layer = factory(channels=4).eval()
    y, phase = layer(x, return_phase=True)
    at_zero = layer(x, torch.zeros(3, dtype=torch.int64))
    if phase is None:
        torch.testing.assert_close(y, at_zero)
    else:
        assert torch.equal(y[phase == 0], at_zero[phase == 0])


def test_subsample_is_a_slice():
    x = torch.randn(2, 3, 7, 6)
    assert torch.equal(Subsample(stride=(2, 3))(x), x[..., ::2, ::3])


def test_a_shortcut_stays_in_register():
    x = torch.randn(4, 3, 8, 8)
    factory = downsample_factory("polyphase", size=3)
    _, phase = factory(3)(x, return_phase=True)
    linear = nn.Conv2d(3, 3, 1, bias=False)
    # the shortcut of a shifted image is the shifted shortcut only if it is sampled at the main branch's phase
    shortcut = linear(factory(3)(x, phase)).mean((2, 3))
    moved = x.roll((1, 0), (2, 3))
    _, moved_phase = factory(3)(moved, return_phase=True)
    torch.testing.assert_close(linear(factory(3)(moved, moved_phase)).mean((2, 3)), shortcut)


def test_the_factory_passes_options_on():
    assert isinstance(downsample_factory("blur", size=5)(3), BlurPool2d)
    assert downsample_factory("blur", size=5)(3, 3).size == 5
    layer = downsample_factory("polyphase", criterion="l1", select="after_blur")(3)
    assert isinstance(layer, PolyphaseDownsample2d)
    assert (layer.criterion, layer.select) == ("l1", "after_blur")
    assert isinstance(downsample_factory("adaptive_blur", normalise="group")(16), AdaptiveBlur2d)


def test_exceptions_name_the_choice():
    with pytest.raises(ValueError, match="subsample, blur, adaptive_blur, polyphase, ideal_lowpass, got 'max'"):
        downsample_factory("max")
    with pytest.raises(ValueError, match=r"blur has the options size, padding, .*got filt_size"):
        downsample_factory("blur", filt_size=3)
    with pytest.raises(ValueError, match="subsample has the options device, dtype, got size"):
        downsample_factory("subsample", size=3)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("factory", fillings(), ids=FILLINGS)
def test_a_network_with_a_filling_is_still_traced(factory, training):
    class Shortcut(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.side = factory(4), factory(4)

        def forward(self, x):
            y, phase = self.main(x, return_phase=True)
            return y + self.side(x, phase)

    net, x = Shortcut().train(training), torch.randn(2, 4, 8, 8)
    traced = torch.fx.symbolic_trace(copy.deepcopy(net))
    assert torch.equal(pickle.loads(pickle.dumps(traced))(x), net(x))
