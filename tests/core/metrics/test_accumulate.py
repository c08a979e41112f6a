import math

import pytest
import torch

from stillpoint.core.metrics import Tally, Values


@pytest.mark.parametrize("batch", [1, 3, 7, 40])
def test_tally_is_the_same_for_any_batch_size(batch):
    successes = torch.rand(40, 5, generator=torch.Generator().manual_seed(0)) < 0.7
    tally = Tally(5)
    for part in successes.split(batch):
        tally.update(part)
    assert tally.mean == int(successes.sum()) / 200
    per_image = successes.double().mean(1)
    assert tally.standard_error == pytest.approx(float(per_image.std()) / math.sqrt(40), rel=1e-12)


def test_tally_is_exactly_one_only_without_a_failure():
    tally = Tally()
    tally.update(torch.ones(10**6, dtype=torch.bool))
    assert (tally.mean, tally.standard_error) == (1.0, 0.0)
    tally.update(torch.zeros(1, dtype=torch.bool))
    assert tally.mean < 1.0


def test_values_do_not_depend_on_order_or_grouping():
    values = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1e8
    whole, cut = Values(), Values()
    whole.update(values)
    for part in values.flip(0).split(17):
        cut.update(part)
    assert (whole.mean, whole.max) == (cut.mean, cut.max) == (math.fsum(values.tolist()) / 1000, float(values.max()))


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="no image"):
        _ = Tally().mean
    with pytest.raises(ValueError, match="no value"):
        _ = Values().mean
    with pytest.raises(ValueError, match="0"):
        Tally(0)
