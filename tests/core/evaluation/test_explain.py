import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stillpoint.core.evaluation.explain import NO_BATCH, NO_MAP, PADDING, explain
from stillpoint.core.evaluation.interior import Interior
from stillpoint.core.layers.downsample import Subsample
from stillpoint.core.layers.lowpass import IdealLowPass2d
from stillpoint.core.layers.polyphase import PolyphaseDownsample2d
from stillpoint.core.surgery.antialias import POLICIES, antialias


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def net(sampling, padding_mode="circular"):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, padding_mode=padding_mode),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        sampling,
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )


def test_rows_follow_the_execution_and_say_shape_and_stride():
    found = explain(net(Subsample(4, 2)), noise(2, 3, 8, 8))
    assert [row.name for row in found.rows] == [*"012345678", "(network)"]
    assert [row.type for row in found.rows[:4]] == ["Conv2d", "BatchNorm2d", "ReLU", "Subsample"]
    assert [row.shape for row in found.rows][2:5] == [(4, 8, 8), (4, 4, 4), (4, 4, 4)]
    assert [row.stride for row in found.rows] == [1, 1, 1, 2, 2, 2, 8, None, None, None]
    assert [row.leaf for row in found.rows] == [True] * 9 + [False]


def test_a_fixed_grid_is_the_first_to_break():
    found = explain(net(Subsample(4, 2)), noise(2, 3, 8, 8))
    assert found.first_broken is not None
    assert found.first_broken.name == "3"
    assert found.first_broken.error > 0.05
    assert all(row.error < 1e-5 for row in found.rows[:3])


def test_nothing_breaks_with_adaptive_sampling():
    found = explain(net(PolyphaseDownsample2d(4, 2)), noise(2, 3, 8, 8), shifts=[(1, 0), (3, 5), (-2, 1)])
    assert found.first_broken is None
    assert max(row.error for row in found.rows) < 1e-5


@pytest.mark.parametrize("size", [6, 12, 30])
def test_an_odd_map_breaks_adaptive_sampling_where_it_is_sampled(size):
    halvings = nn.Sequential(*(PolyphaseDownsample2d(3, 2) for _ in range(3)))
    odd = next(k for k in range(3) if size >> k & 1)
    found = explain(halvings, noise(4, 3, size, size))
    assert found.first_broken is not None
    assert found.first_broken.name == str(odd)


def test_zero_padding_breaks_at_the_convolution_that_has_it_where_the_border_counts():
    found = explain(net(PolyphaseDownsample2d(4, 2), "zeros"), noise(2, 3, 8, 8), boundary="whole")
    assert found.first_broken is not None
    assert found.first_broken.name == "0"
    assert found.remedy.startswith("0 does not stride: its padding stays in place")


def test_what_no_filter_mends_is_told_with_its_cause_and_with_what_does():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5))
    found = explain(plain, noise(2, 3, 9, 9))
    assert found.remedy == "stillpoint.antialias leaves 1 as it is (AdaptiveAvgPool2d to 2 is not treated)"
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU())
    treated = nn.Sequential(pooled, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    antialias(treated, POLICIES, verbose=False)
    again = explain(treated, noise(2, 3, 32, 32))
    assert again.first_broken is not None and again.first_broken.name == "0.1.filter_behind"
    assert again.remedy.startswith("0.1.filter_behind is a low-pass filter already")


@pytest.mark.parametrize("padding", ["zeros", "reflect", "replicate", "circular"])
def test_away_from_its_border_a_padded_network_is_broken_by_its_first_stride(padding):
    torch.manual_seed(0)
    strided = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same", padding_mode=padding),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode=padding),
        nn.MaxPool2d(3, 2, 1),
        nn.AdaptiveAvgPool2d(1),
    )
    found = explain(strided, noise(2, 3, 16, 16))
    assert found.first_broken is not None and found.first_broken.name == "2"
    assert found.rows[1].error < 1e-5 < found.first_broken.error
    whole = explain(strided, noise(2, 3, 16, 16), boundary="whole").first_broken
    assert whole is not None and whole.name == ("2" if padding == "circular" else "0")


def test_aliasing_is_told_from_motion_by_half_a_pixel():
    """A band-limited map that is sampled moves by half a pixel; what is not band-limited has no such motion."""
    smooth, sharp = nn.Sequential(IdealLowPass2d(stride=2)), nn.Sequential(nn.Conv2d(3, 3, 1, stride=2))
    found = explain(smooth, noise(2, 3, 16, 16))
    assert found.first_broken is None and max(row.error for row in found.rows) < 1e-6
    assert found.remedy == "" and str(found) == "every module moves with its input"
    broken = explain(sharp, noise(2, 3, 16, 16))
    assert broken.first_broken is not None and broken.first_broken.error > 0.1
    # a nonlinearity makes frequencies that the coarse grid cannot hold
    curved = explain(nn.Sequential(IdealLowPass2d(stride=2), nn.ReLU()), noise(2, 3, 16, 16))
    assert curved.first_broken is not None and curved.first_broken.name == "1"


def test_shares_are_of_what_each_module_adds_and_the_call_that_mends_it_is_named():
    torch.manual_seed(0)
    strided = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, stride=2, padding=1),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, stride=2, padding=1),
        nn.AdaptiveAvgPool2d(1),
    )
    found = explain(strided, noise(2, 3, 16, 16))
    added = {row.name: row.share for row in found.rows}
    assert sum(added.values()) == pytest.approx(1)
    # between the strides a linear map adds nothing, though what it is given is broken
    assert added["1"] > 0.2 and added["3"] > 0.2 and added["2"] < 1e-3 and found.rows[2].error > 0.1
    assert found.worst is not None and found.worst.name in ("1", "3")
    assert found.remedy.startswith("stillpoint.antialias(net) filters 1")
    stem = explain(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU()), noise(2, 3, 16, 16))
    assert stem.remedy.startswith("stillpoint.antialias(net, policy=(") and "'stem'" in stem.remedy
    assert "filters 0" in stem.remedy and stem.remedy in str(stem)


def test_maps_with_their_channels_last_are_read_as_such():
    class Last(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1)

    torch.manual_seed(0)
    swin = nn.Sequential(nn.Conv2d(3, 12, 1), Last(), nn.LayerNorm(12), nn.Linear(12, 20), nn.GELU())
    found = explain(swin, noise(2, 3, 16, 16))
    assert [row.shape for row in found.rows] == [(12, 16, 16)] * 3 + [(20, 16, 16)] * 3
    assert {row.stride for row in found.rows} == {1.0} and found.first_broken is None
    patches = nn.Sequential(nn.Conv2d(3, 12, 4, stride=4), Last(), nn.LayerNorm(12))
    coarse = explain(patches, noise(2, 3, 16, 16))
    assert coarse.rows[1].stride == 4 and coarse.rows[1].share == 0
    assert coarse.first_broken is not None and coarse.first_broken.name == "0" and coarse.worst is coarse.rows[0]


def test_a_padding_goes_round_for_as_long_as_it_is_asked():
    torch.manual_seed(0)
    x = noise(2, 3, 8, 8)
    wrapped = F.pad(x, (1, 2, 1, 2), mode="circular")
    conv = nn.Conv2d(3, 4, 4, padding="same")
    plain = conv(x)
    with Interior():
        assert torch.equal(F.pad(x, (1, 2, 1, 2)), wrapped)
        assert torch.equal(F.max_pool2d(x, 3, 2, padding=1), F.max_pool2d(wrapped[..., :-1, :-1], 3, 2))
        assert torch.equal(nn.AvgPool2d(3, 1, 1)(x), F.avg_pool2d(wrapped[..., :-1, :-1], 3, 1))
        round_ = conv(x)
        # a channel that is added is no border
        assert torch.equal(F.pad(x, (0, 0, 0, 0, 1, 0))[:, 0], torch.zeros(2, 8, 8))
    assert torch.allclose(round_, F.conv2d(wrapped, conv.weight, conv.bias), atol=1e-6)
    assert torch.equal(conv(x), plain) and not torch.equal(plain, round_)


def test_shifts_by_the_whole_stride_are_kept_by_a_fixed_grid():
    assert explain(net(Subsample(4, 2)), noise(2, 3, 8, 8), shifts=[(2, 0), (4, 6)]).first_broken is None


def test_padding_modules_are_not_blamed_for_their_border():
    padded = nn.Sequential(nn.CircularPad2d(1), nn.Conv2d(3, 4, 3))
    found = explain(padded, noise(2, 3, 8, 8))
    assert found.left_out == {PADDING: 1}
    assert [row.name for row in found.rows] == ["1", "(network)"]
    assert found.first_broken is None


def test_a_module_that_runs_twice_has_two_rows_and_phases_are_no_maps():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()
            self.pool = PolyphaseDownsample2d(3, 2)

        def forward(self, x):
            y, _ = self.pool(self.act(x), return_grid=True)
            return self.act(-y)

    found = explain(Twice(), noise(2, 3, 8, 8))
    assert [row.name for row in found.rows] == ["act", "pool", "act", "(network)"]
    assert found.first_broken is None


def test_nan_counts_as_broken():
    class Nan(nn.Module):
        def forward(self, x):
            return x * float("nan")

    found = explain(nn.Sequential(Nan()), noise(1, 3, 4, 4))
    assert found.first_broken is not None


def test_the_network_and_its_hooks_are_left_as_they_were():
    model = net(Subsample(4, 2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explain(model, noise(2, 3, 8, 8))
    assert model.training
    assert all(not module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_explanation_becomes_json():
    found = explain(net(Subsample(4, 2)), noise(2, 3, 8, 8)).to_dict()
    assert json.loads(json.dumps(found))["first_broken"]["name"] == "3"


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 8, 8\)"):
        explain(net(Subsample(4, 2)), noise(3, 8, 8))
    with pytest.raises(ValueError, match="interior, whole, not 'crop'"):
        explain(net(Subsample(4, 2)), noise(2, 3, 8, 8), boundary="crop")
    with pytest.raises(ValueError, match=r"explain needs an nn\.Module, whose parts it watches, not function"):
        explain(lambda x: x, noise(2, 3, 8, 8))
    with pytest.raises(ValueError, match="at least one shift"):
        explain(net(Subsample(4, 2)), noise(2, 3, 8, 8), shifts=[])


def test_what_is_left_out_is_counted_with_its_reason():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(3)
            self.windows = nn.Identity()
            self.head = nn.Linear(3, 5)

        def forward(self, x):
            tokens = self.norm(x.flatten(2).mT)  # (B, N, C)
            self.windows(tokens.flatten(0, 1))
            return self.head(self.norm(tokens).mean(1))

    found = explain(Tokens(), noise(2, 3, 8, 8))
    assert [row.name for row in found.rows] == ["head", "(network)"]
    assert found.left_out == {NO_MAP: 2, NO_BATCH: 1}
    assert found.to_dict()["left_out"] == found.left_out
    assert explain(net(Subsample(4, 2)), noise(2, 3, 8, 8)).left_out == {}
