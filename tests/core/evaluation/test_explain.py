import json

import pytest
import torch
from torch import nn

from stillpoint.core.evaluation.explain import NO_BATCH, NO_MAP, PADDING, explain
from stillpoint.core.layers.downsample import Subsample
from stillpoint.core.layers.polyphase import PolyphaseDownsample2d


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


def test_zero_padding_breaks_at_the_convolution_that_has_it():
    found = explain(net(PolyphaseDownsample2d(4, 2), "zeros"), noise(2, 3, 8, 8))
    assert found.first_broken is not None
    assert found.first_broken.name == "0"


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
    found = explain(net(Subsample(4, 2)), noise(2, 3, 8, 8)).to_json()
    assert json.loads(json.dumps(found))["first_broken"]["name"] == "3"


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 8, 8\)"):
        explain(net(Subsample(4, 2)), noise(3, 8, 8))
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
    assert found.to_json()["left_out"] == found.left_out
    assert explain(net(Subsample(4, 2)), noise(2, 3, 8, 8)).left_out == {}
