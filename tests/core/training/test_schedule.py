"""The rate against the papers' numbers and against torch's own schedulers."""

import math

import pytest
import torch

from stillpoint.core.config.schema import TrainConfig
from stillpoint.core.training.schedule import rate, side


def recipe(**settings: object) -> TrainConfig:
    return TrainConfig.model_validate({key.upper(): value for key, value in settings.items()})


def torch_rates(make, moves: int, lr: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = make(optimizer)
    rates = []
    for _ in range(moves):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_aps_cifar10_divides_by_ten_every_hundred_epochs():
    train = recipe(epochs=250, lr=0.1, schedule="step", step_epochs=100)
    rates = [rate(train, epoch, 3, 176) for epoch in (0, 99, 100, 199, 200, 249)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_blurpool_finetuning_has_two_rates():
    train = recipe(epochs=60, lr=0.01, schedule="step", step_epochs=30)
    assert [rate(train, epoch, 0, 10) for epoch in (0, 29, 30, 59)] == pytest.approx([0.01, 0.01, 0.001, 0.001])


def test_blurpool_cosine_is_one_epoch_ahead_and_ends_at_zero():
    train = recipe(epochs=150, lr=0.05, schedule="cosine", cosine_offset=1)
    expected = [0.05 / 2 * (1 + math.cos(math.pi * (epoch + 1) / 150)) for epoch in range(150)]
    assert [rate(train, epoch, 7, 10) for epoch in range(150)] == pytest.approx(expected, abs=1e-15)
    assert rate(train, 75, 0, 10) == pytest.approx(0.02448, abs=5e-6)
    assert rate(train, 0, 0, 10) < 0.05
    assert rate(train, 149, 0, 10) == 0


def test_sdnet_cosine_moves_at_every_step_to_its_lowest_rate():
    train = recipe(epochs=4, lr=0.1, lr_min=1e-6, schedule="cosine", schedule_per="step")
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20, 1e-6), 20, 0.1)
    assert [rate(train, step // 5, step % 5, 5) for step in range(20)] == pytest.approx(expected)


@pytest.mark.parametrize("per", ["epoch", "step"])
def test_multistep_decays_at_its_milestones(per):
    train = recipe(epochs=200, lr=0.1, schedule="multistep", milestones=(100, 150), gamma=0.1, schedule_per=per)
    rates = [rate(train, epoch, 9, 10) for epoch in (0, 99, 100, 149, 150, 199)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_poly_is_torchs_and_stops_at_its_smallest_rate():
    train = recipe(epochs=4, lr=0.1, schedule="poly", schedule_per="step", poly_power=0.9, lr_min=1e-3)
    want = torch_rates(lambda o: torch.optim.lr_scheduler.PolynomialLR(o, total_iters=400, power=0.9), 400, 0.1)
    found = [rate(train, n // 100, n % 100, 100) for n in range(400)]
    assert found == pytest.approx([max(value, 1e-3) for value in want], rel=1e-9)
    assert found[-1] == 1e-3 and want[-1] < 1e-3


def test_constant_stays():
    train = recipe(epochs=10, lr=0.01, schedule="constant")
    assert {rate(train, epoch, step, 3) for epoch in range(10) for step in range(3)} == {0.01}


@pytest.mark.parametrize("per, moves", [("step", 42), ("epoch", 6)])
def test_one_cycle_is_torchs(per, moves):
    train = recipe(epochs=6, lr=0.4, schedule="one_cycle", schedule_per=per)
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    expected = torch_rates(lambda o: one_cycle(o, 0.4, moves, cycle_momentum=False), moves, 0.4)
    places = [divmod(move, 7) if per == "step" else (move, 0) for move in range(moves)]
    assert [rate(train, epoch, step, 7) for epoch, step in places] == pytest.approx(expected)


def test_one_cycle_of_a_single_step_has_a_rate():
    assert 0 < rate(recipe(epochs=1, lr=0.4, schedule="one_cycle", schedule_per="step"), 0, 0, 1) <= 0.4


def test_warm_up_rises_linearly_from_one_step_to_the_full_rate():
    train = recipe(epochs=10, lr=0.1, schedule="constant", warmup_epochs=1.5)
    rates = [rate(train, step // 4, step % 4, 4) for step in range(8)]
    assert rates == pytest.approx([0.1 * part / 6 for part in (1, 2, 3, 4, 5, 6, 6, 6)])


def test_warm_up_multiplies_the_schedule():
    plain = recipe(epochs=4, lr=0.1, schedule="cosine", schedule_per="step")
    warm = recipe(epochs=4, lr=0.1, schedule="cosine", schedule_per="step", warmup_epochs=1)
    assert rate(warm, 0, 1, 5) == pytest.approx(rate(plain, 0, 1, 5) * 2 / 5)
    assert rate(warm, 2, 1, 5) == rate(plain, 2, 1, 5)


def test_a_line_after_a_rise_is_a_triangle():
    triangle = {"schedule": "linear", "schedule_per": "step", "warmup_epochs": 2, "warmup": "before"}
    train = recipe(epochs=6, lr=1.0, lr_min=0.2, **triangle)
    rates = [rate(train, move // 5, move % 5, 5) for move in range(30)]
    assert rates[:10] == pytest.approx([move / 9 for move in range(10)])
    assert rates[10:] == pytest.approx([1 - 0.8 * move / 20 for move in range(20)])


def test_a_line_over_epochs_stands_still_within_them():
    train = recipe(epochs=4, lr=1.0, schedule="linear")
    assert [rate(train, epoch, 3, 5) for epoch in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_sides_share_the_epochs():
    assert [side(recipe(epochs=7, sides=(16, 24, 32)), epoch) for epoch in range(7)] == [16, 16, 16, 24, 24, 32, 32]
    assert side(recipe(epochs=7), 3) is None
