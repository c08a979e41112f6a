import copy
import inspect
import pickle

import pytest
import torch
from torch import nn

from stillpoint.core.config.slot import FILLINGS
from stillpoint.core.layers import (
    AdaptiveBlur2d,
    BlurPool2d,
    Downsample,
    PolyphaseDownsample2d,
    SoftGrid,
    Subsample,
    downsample_factory,
    mix_phases,
)
from stillpoint.core.layers.downsample import filling

OPTIONS = {"adaptive_blur": {"groups": 2}}


#: has weights of its own for every channel at stride 2: no grid is handed to it, and it hands none on
OWN = {"translation_invariant"}
SHARING = [kind for kind in FILLINGS if kind not in OWN]


def fillings(kinds=tuple(FILLINGS)):
    return [downsample_factory(kind, **OPTIONS.get(kind, {})) for kind in kinds]


@pytest.mark.parametrize("factory", fillings(SHARING), ids=SHARING)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("shape", [(8, 8), (9, 7), (6, 5)])
def test_every_filling_keeps_the_contract_of_the_slot(factory, stride, shape):
    x = torch.randn(3, 4, *shape)
    layer = factory(4, stride)
    size = (3, 4, *(-(-n // stride) for n in shape))
    y, grid = layer(x, return_grid=True)
    assert y.shape == size and layer.stride == (stride, stride)
    assert (grid is not None) is layer.chooses
    layer.eval()
    y = layer(x)
    assert torch.equal(y, layer(x, None))
    chosen = layer.choose(x)
    assert torch.equal(layer.sample(x, chosen), y)
    if layer.chooses:
        assert torch.equal(layer.scores(x).argmax(1), chosen)
    else:
        assert chosen is None
        with pytest.raises(ValueError, match="no scores"):
            layer.scores(x)
    given = torch.tensor([0, stride - 1, stride * stride - 1])
    y, returned = layer(x, given, return_grid=True)
    assert y.shape == size
    assert torch.equal(returned, given)


@pytest.mark.parametrize("factory", fillings(SHARING), ids=SHARING)
@pytest.mark.parametrize("stride", [1, 2, (3, 2)])
def test_every_filling_mixes_its_grids_by_soft_weights(factory, stride):
    x = torch.randn(3, 4, 9, 8)
    layer = factory(4, stride).eval()
    count = layer.stride[0] * layer.stride[1]
    weights = torch.randn(3, count).softmax(1)
    grid = SoftGrid(weights, weights.log())
    y, returned = layer(x, grid, return_grid=True)
    assert returned is grid
    phases = [layer(x, torch.full((3,), k)) for k in range(count)]
    torch.testing.assert_close(y, sum(weights[:, k, None, None, None] * phases[k] for k in range(count)))


@pytest.mark.parametrize("factory", fillings(SHARING), ids=SHARING)
def test_a_follower_has_the_filter_of_what_it_follows_and_no_parameter_that_idles(factory):
    x = torch.randn(2, 6, 8, 10)
    main, follower = factory(4, (2, 1)).eval(), factory(4, (2, 1)).follower(6)
    assert isinstance(follower, Downsample) and not follower.chooses and follower.stride == (2, 1)
    phase = torch.tensor([1, 0])
    y = follower(x, phase)
    if list(follower.parameters()):
        y.square().sum().backward()
        assert all(p.grad is not None for p in follower.parameters())
    else:
        assert torch.equal(y, factory(6, (2, 1))(x, phase))
    assert main(x[:, :4], phase).shape[2:] == y.shape[2:]


def test_the_weights_of_a_mixture_may_differ_by_channel():
    x, weights = torch.randn(2, 3, 6, 7), torch.randn(2, 3, 4).softmax(2)
    each = [mix_phases(x[:, c : c + 1], weights[:, c]) for c in range(3)]
    torch.testing.assert_close(mix_phases(x, weights), torch.cat(each, 1))
    with pytest.raises(ValueError, match=r"\(2, 4\) or \(2, 3, 4\), one for each phase, got \(2, 3\)"):
        mix_phases(x, weights[..., 0])


@pytest.mark.parametrize("kind", sorted(OWN))
@pytest.mark.parametrize("shape", [(8, 8), (9, 7), (6, 5)])
def test_a_filling_with_weights_of_its_own_hands_nothing_on(kind, shape):
    x = torch.randn(3, 4, *shape)
    layer = downsample_factory(kind)(4)
    y, grid = layer(x, return_grid=True)
    assert grid is None and not layer.chooses and y.shape == (3, 4, *(-(-n // 2) for n in shape))
    assert torch.equal(layer(x, torch.tensor([0, 3, 1])), y)
    with pytest.raises(ValueError, match="no scores"):
        layer.scores(x)
    follower = layer.follower(6)
    assert type(follower) is type(layer)
    follower(torch.randn(2, 6, 8, 8)).square().sum().backward()
    assert all(p.grad is not None for p in follower.parameters())
    with pytest.raises(ValueError, match="stride 2 only, got 3"):
        downsample_factory(kind)(4, 3)


@pytest.mark.parametrize("factory", fillings(), ids=FILLINGS)
def test_phase_zero_is_the_fixed_grid(factory):
    x = torch.randn(3, 4, 8, 6)
    layer = factory(channels=4).eval()
    y, phase = layer(x, return_grid=True)
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
    main = downsample_factory("polyphase", size=3)(3)
    follower = main.follower(3)
    _, grid = main(x, return_grid=True)
    linear = nn.Conv2d(3, 3, 1, bias=False)

    def energy(x, grid):  # a blur makes the mean of every phase alike, but not that of the squares
        return linear(follower(x, grid)).square().mean((2, 3))

    # the shortcut of a shifted image is the shifted shortcut only if it is sampled at the main branch's grid
    shortcut = energy(x, grid)
    moved = x.roll((1, 0), (2, 3))
    _, moved_grid = main(moved, return_grid=True)
    torch.testing.assert_close(energy(moved, moved_grid), shortcut)
    assert not torch.allclose(energy(moved, grid), shortcut)


def test_the_factory_passes_options_on():
    assert isinstance(downsample_factory("blur", size=5)(3), BlurPool2d)
    assert downsample_factory("blur", size=5)(3, 3).size == 5
    layer = downsample_factory("polyphase", criterion="l1", select="after_blur")(3)
    assert isinstance(layer, PolyphaseDownsample2d)
    assert (layer.criterion, layer.select) == ("l1", "after_blur")
    assert isinstance(downsample_factory("adaptive_blur", normalise="group")(16), AdaptiveBlur2d)


@pytest.mark.parametrize("kind", FILLINGS)
def test_the_table_of_fillings_says_their_options(kind):
    parameters = inspect.signature(filling(kind)).parameters
    assert list(parameters)[:2] == ["channels", "stride"]
    assert set(parameters) - {"channels", "stride", "device", "dtype"} == set(FILLINGS[kind].options)


def test_a_filling_of_one_s_own_is_named_by_its_module(tmp_path, monkeypatch):
    (tmp_path / "my_fillings.py").write_text(
        "from stillpoint.core.layers import Subsample\nclass Mine(Subsample): pass\nother = 1\n"
    )
    monkeypatch.chdir(tmp_path)
    assert type(downsample_factory("my_fillings:Mine")(3)).__name__ == "Mine"
    for kind, words in {
        "my_fillings:Other": "downsample my_fillings:Other: the module my_fillings has no Other",
        "my_fillings:other": "downsample my_fillings:other is not a filling",
        "no_fillings:Mine": "downsample no_fillings:Mine: there is no module no_fillings",
    }.items():
        with pytest.raises(ValueError, match=words):
            downsample_factory(kind)


def test_exceptions_name_the_choice():
    with pytest.raises(
        ValueError,
        match=f"{', '.join(FILLINGS)}, got 'max'",
    ):
        downsample_factory("max")
    with pytest.raises(ValueError, match="got 'polyphas'; nearest: polyphase"):
        downsample_factory("polyphas")
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
            self.main = factory(4)
            self.side = self.main.follower(4)

        def forward(self, x):
            y, grid = self.main(x, return_grid=True)
            return y + self.side(x, grid)

    net, x = Shortcut().train(training), torch.randn(2, 4, 8, 8)
    traced = pickle.loads(pickle.dumps(torch.fx.symbolic_trace(copy.deepcopy(net))))
    torch.manual_seed(0)
    want = net(x)
    torch.manual_seed(0)
    assert torch.equal(traced(x), want)
