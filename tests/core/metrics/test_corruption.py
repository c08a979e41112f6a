"""Mean corruption error by its definition."""

import pytest

from stillpoint.core.metrics.corruption import corruption_error, mean_corruption_error

ERRORS = {"fog": [0.1, 0.2, 0.3], "snow": [0.4, 0.4, 0.7]}
ALEXNET = {"fog": [0.2, 0.4, 0.6], "snow": [0.5, 0.5, 1.0]}


def test_without_a_baseline_it_is_the_mean_error():
    assert corruption_error(ERRORS["fog"]) == pytest.approx(0.2)
    assert mean_corruption_error(ERRORS) == pytest.approx((0.2 + 0.5) / 2)


def test_with_a_baseline_it_is_the_mean_of_ratios_of_sums():
    assert corruption_error(ERRORS["snow"], ALEXNET["snow"]) == pytest.approx(1.5 / 2.0)
    assert mean_corruption_error(ERRORS, ALEXNET) == pytest.approx((0.5 + 0.75) / 2)
    assert mean_corruption_error(ALEXNET, ALEXNET) == 1


def test_a_mean_over_severities_stands_for_each_of_them():
    means = {name: sum(row) / 3 for name, row in ALEXNET.items()}
    assert mean_corruption_error(ERRORS, means) == pytest.approx(mean_corruption_error(ERRORS, ALEXNET))


def test_the_relative_error_takes_the_clean_errors_off_both():
    relative = corruption_error(ERRORS["fog"], ALEXNET["fog"], clean=(0.1, 0.2))
    assert relative == pytest.approx((0.6 - 0.3) / (1.2 - 0.6))


def test_what_has_no_error_is_refused():
    with pytest.raises(ValueError, match="no baseline for snow"):
        mean_corruption_error(ERRORS, {"fog": 0.5})
    with pytest.raises(ValueError, match="as many severities as the baseline, got 3 and 2"):
        corruption_error(ERRORS["fog"], [0.1, 0.2])
    with pytest.raises(ValueError, match="nothing to divide by"):
        corruption_error(ERRORS["fog"], 0.0)
    for nothing in ({}, {"fog": []}):
        with pytest.raises(ValueError, match="at least one"):
            mean_corruption_error(nothing)
