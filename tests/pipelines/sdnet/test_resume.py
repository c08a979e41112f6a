"""A training of sparse-coding layers that was stopped ends in the bits of one that was not."""

import pytest
from torch import nn

from stillpoint.core.base.interrupt import Interrupted
from stillpoint.core.layers.sparse_coding import SparseCoding2d
from stillpoint.core.runs.checkpoint import load_state
from tests.core.tiny import run_in, trained
from tests.core.training.test_train_resume import StopAfter, assert_same_run


def network(config):
    layers = [SparseCoding2d(1, 4, padding=1), nn.BatchNorm2d(4), SparseCoding2d(4, 6, stride=2, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3))


@pytest.mark.parametrize("stops", [(6, 1), (4, 4)])
def test_a_stopped_run_goes_on_from_the_same_eigenvectors(tmp_path, stops):
    trained(tmp_path / "whole", network=network)
    for steps in stops:
        with pytest.raises(Interrupted):
            trained(tmp_path / "parts", network=network, progress=StopAfter(steps))
    trained(tmp_path / "parts", network=network)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    buffers = load_state(run_in(tmp_path / "whole").state)[0]["buffers"]
    assert {name: tuple(value.shape) for name, value in buffers.items()} == {
        "0.eigenvector": (1, 4, 8, 8),
        "2.eigenvector": (1, 6, 4, 4),
    }


@pytest.mark.parametrize("stops", [(1,), (2, 1)])
def test_steps_at_a_rate_of_zero_are_gone_on_from_too(tmp_path, stops):
    # a warm-up from 0: the first step moves nothing, so the second forward meets the atoms of the first
    pairs = ["TRAIN.WARMUP", "before", "TRAIN.WARMUP_EPOCHS", "1", "TRAIN.MOMENTUM", "0"]
    trained(tmp_path / "whole", *pairs, network=network)
    for steps in stops:
        with pytest.raises(Interrupted):
            trained(tmp_path / "parts", *pairs, network=network, progress=StopAfter(steps))
        kept = load_state(run_in(tmp_path / "parts").state)[0]["between_steps"]
        assert sorted(kept) == (["0", "2"] if steps == stops[0] == 1 else [])
    trained(tmp_path / "parts", *pairs, network=network)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
