import math

import pytest
import torch

from stillpoint.core.metrics import Tally, Values
from stillpoint.core.metrics.exact import exact_sum, from_ordered, ordered, rounded


def drawn(count, seed=1, spread=0):
    random = torch.Generator().manual_seed(seed)
    powers = torch.randint(-spread, spread + 1, (count,), generator=random).double()
    return torch.randn(count, dtype=torch.float64, generator=random) * 10.0**powers


@pytest.mark.parametrize("batch", [1, 3, 7, 40])
def test_tally_is_the_same_for_any_batch_size(batch):
    successes = torch.rand(40, 5, generator=torch.Generator().manual_seed(0)) < 0.7
    tally = Tally()
    for part in successes.split(batch):
        tally.update(part)
    assert tally.mean == float(tally.compute()) == int(successes.sum()) / 200
    per_image = successes.double().mean(1)
    assert tally.standard_error == pytest.approx(float(per_image.std()) / math.sqrt(40), rel=1e-12)


def test_tally_is_exactly_one_only_without_a_failure():
    tally = Tally()
    tally.update(torch.ones(10**6, dtype=torch.bool))
    assert (tally.mean, tally.standard_error) == (1.0, 0.0)
    tally.update(torch.zeros(1, dtype=torch.bool))
    assert tally.mean < 1.0


def test_images_have_as_many_trials():
    tally = Tally()
    tally.update(torch.ones(3, 2))
    with pytest.raises(ValueError, match="at least 1, got 5 trials after 2"):
        tally.update(torch.ones(3, 5))
    tally.reset()
    tally.update(torch.ones(3, 5))
    assert int(tally.trials) == 15
    with pytest.raises(ValueError, match="0 trials"):
        Tally().update(torch.ones(3, 0))


def test_values_do_not_depend_on_order_or_grouping():
    values = drawn(1000) * 1e8
    whole, cut = Values(), Values(reduce="max")
    whole.update(values)
    for part in values.flip(0).split(17):
        cut.update(part)
    assert (whole.mean, whole.max) == (cut.mean, cut.max) == (math.fsum(values.tolist()) / 1000, float(values.max()))
    assert (float(whole.compute()), float(cut.compute())) == (whole.mean, whole.max)


@pytest.mark.parametrize(
    "values",
    [
        drawn(5000, 2, spread=300),
        -drawn(100, 3).abs(),
        torch.tensor([1e308, 1.0, -1e308, 5e-324], dtype=torch.float64),
        torch.tensor([5e-324, -2.5e-320, 2.0**-1022], dtype=torch.float64),
        torch.tensor([1.7976931348623157e308, -1.7976931348623157e308, 0.1], dtype=torch.float64),
        torch.zeros(3, dtype=torch.float64),
    ],
)
def test_a_sum_is_that_of_real_numbers_rounded_once(values):
    total = math.fsum(values.tolist())
    assert rounded(exact_sum(values)) == total
    held = Values()
    for value in values.flip(0).split(7):
        held.update(value)
    assert held.mean * len(values) == pytest.approx(total, rel=1e-15)
    assert held.mean == total / len(values) and held.max == float(values.max())


def test_the_order_of_numbers_is_that_of_their_whole_numbers():
    values = torch.tensor([-math.inf, -1e300, -1.0, -5e-324, 0.0, 5e-324, 2.0, 1e300, math.inf], dtype=torch.float64)
    numbers = ordered(values)
    assert bool((numbers.diff() > 0).all())
    assert [from_ordered(number) for number in numbers.tolist()] == values.tolist()
    assert int(ordered(torch.tensor([-math.nan], dtype=torch.float64))) > int(numbers[-1])


def test_a_value_that_is_not_finite_is_not_lost():
    infinity, nothing = Values(), Values()
    infinity.update(torch.tensor([1.0, math.inf]))
    assert (infinity.mean, infinity.max) == (math.inf, math.inf)
    infinity.update(torch.tensor([-math.inf]))
    assert math.isnan(infinity.mean) and infinity.max == math.inf
    nothing.update(torch.tensor([1.0, math.nan, 3.0]))
    assert math.isnan(nothing.mean) and math.isnan(nothing.max)


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="no image"):
        _ = Tally().mean
    with pytest.raises(ValueError, match="no value"):
        _ = Values().mean
    with pytest.raises(ValueError, match="median"):
        Values(reduce="median")


def test_what_was_computed_is_not_told_again_after_more_was_counted():
    tally, values = Tally(), Values()
    tally.update(torch.ones(1))
    values.update(torch.ones(1))
    assert (float(tally.compute()), float(values.compute())) == (1, 1)
    tally.count(torch.zeros(1))
    values.take(torch.zeros(1))
    assert (float(tally.compute()), float(values.compute())) == (0.5, 0.5)
