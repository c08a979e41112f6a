import pytest

from stillpoint.core.training.annealing import multistep, piecewise_linear, step_decay


def test_step_decay_falls_to_its_least():
    assert [step_decay(n, every=10, gamma=0.85) for n in (0, 9, 10, 25)] == pytest.approx([1, 1, 0.85, 0.7225])
    assert step_decay(1000, every=10, gamma=0.85, least=0.025) == 0.025
    assert step_decay(3, every=1, gamma=0.5, start=0.8) == pytest.approx(0.1)


def test_multistep_jumps_at_its_milestones_one_at_a_step():
    values = [multistep(n, milestones=[2, 2, 5], temperatures=[0.7, 0.5, 0.2]) for n in range(7)]
    assert values == [1.0, 1.0, 0.7, 0.5, 0.5, 0.2, 0.2]


def test_piecewise_linear_is_that_of_the_imagenet_recipe():
    options = {"milestones": [62, 82, 90], "temperatures": [0.5, 0.05, 0.01]}
    values = {n: piecewise_linear(n, **options) for n in (0, 1, 2, 9, 62, 82, 90, 130)}
    want = {0: 1.0, 1: 1.0, 2: 0.9918, 9: 0.9344, 62: 0.5, 82: 0.05, 90: 0.01, 130: 0.01}
    assert values == pytest.approx(want, abs=1e-4)


def test_a_first_milestone_at_the_start_takes_its_place():
    early = [piecewise_linear(n, milestones=[0, 60], temperatures=[0.8, 0.2]) for n in (0, 30, 60)]
    assert early == pytest.approx([1.0, 0.5, 0.2])
    one = [piecewise_linear(n, milestones=[1, 4], temperatures=[0.5, 0.1]) for n in range(6)]
    assert one == pytest.approx([1.0, 0.5, 0.36667, 0.23333, 0.1, 0.1], abs=1e-4)


@pytest.mark.parametrize("schedule", [multistep, piecewise_linear])
def test_tables_that_do_not_fit_are_refused(schedule):
    for milestones, temperatures in (([1, 2], [0.5]), ([], []), ([5, 2], [0.5, 0.1])):
        with pytest.raises(ValueError, match="milestones must not decrease"):
            schedule(1, milestones=milestones, temperatures=temperatures)
