"""A training in bfloat16 is advised against where float32 was measured to be faster, and nowhere else."""

import pytest
import torch

from stillpoint.core.base import bfloat16
from stillpoint.core.base.bfloat16 import Speeds, advice, speeds

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_the_advice_names_the_ratio_and_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "speeds", lambda: Speeds(50e9, 4e9))
    said = advice("bfloat16", CPU)
    assert "12.5 times as long" in said and "TRAIN.PRECISION float32" in said and "another run" in said


@pytest.mark.parametrize(("float32", "lower", "told"), [(1.31, 1.0, True), (1.29, 1.0, False), (180, 350, False)])
def test_only_a_clear_difference_is_told(
    monkeypatch: pytest.MonkeyPatch, float32: float, lower: float, told: bool
) -> None:
    monkeypatch.setattr(bfloat16, "speeds", lambda: Speeds(float32, lower))
    assert bool(advice("bfloat16", CPU)) is told


def test_nothing_is_measured_in_float32_or_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured() -> Speeds:
        raise AssertionError("measured")

    monkeypatch.setattr(bfloat16, "speeds", measured)
    assert advice("float32", CPU) == advice("bfloat16", GPU) == ""


def test_measuring_draws_no_random_number_and_leaves_the_modes() -> None:
    bfloat16._speeds.cache_clear()
    before = torch.random.get_rng_state()
    with torch.no_grad():
        found = speeds()
        assert not torch.is_grad_enabled()
    assert min(found) > 0 and torch.equal(torch.random.get_rng_state(), before)
    assert speeds() is found and not torch.is_autocast_enabled("cpu")
