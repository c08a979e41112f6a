import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.randomness import uniform_integers
from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.data.sets import ImageSet
from stillpoint.core.evaluation.engine import evaluate
from stillpoint.core.evaluation.erase import erased
from stillpoint.core.evaluation.measure import InMemory
from stillpoint.core.evaluation.registry import EVALUATIONS, View


class Sums(nn.Module):
    """Logits that float32 computes exactly for whole numbers, so that no batch size can round them differently."""

    def __init__(self, shape=(2, 8, 8), classes=10, seed=0):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randint(-3, 4, (math.prod(shape), classes), generator=random).float())

    def forward(self, x):
        return x.flatten(1) @ self.weight


class Mean(nn.Module):
    """Shift-invariant, and exact for whole numbers."""

    def forward(self, x):
        return x.sum((2, 3)) @ (torch.arange(20.0).view(2, 10) - 9)


def images(count=23, channels=2, size=8, seed=0):
    random = torch.Generator().manual_seed(seed)
    x = torch.randint(-5, 6, (count, channels, size, size), generator=random).float()
    return x, torch.randint(0, 10, (count,), generator=random)


EVERYTHING = EvaluateConfig(
    metrics=("accuracy", "circular", "crop", "erase", "flips", "all_shifts"),
    erase=(2, 3),
    max_shift=3,
    repeats=3,
    limit_all_shifts=9,
    batch_size=7,
)


def equal(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[k], second[k]) if isinstance(first[k], torch.Tensor) else first[k] == second[k] for k in first
    )


@pytest.mark.parametrize("batch", [1, 5, 23])
def test_no_result_depends_on_the_batch_size(batch):
    wanted = evaluate(Sums(), InMemory(*images(), 7), EVERYTHING)
    config = EVERYTHING.model_copy(update={"batch_size": batch})
    assert equal(evaluate(Sums(), InMemory(*images(), batch), config), wanted)


def test_circular_results_are_those_of_a_loop_over_images():
    (x, labels), net = images(), Sums().requires_grad_(False)
    got = evaluate(net, InMemory(x, labels, 7), EVERYTHING, seed=5)
    pairs, unshifted, changes = [], [], []
    for i in range(len(x)):
        plain = net(x[i : i + 1])[0]
        for repeat in range(3):
            draw = uniform_integers(torch.tensor([i]), -3, 3, 4, "circular", 5, repeat)[0].tolist()
            views = [net(x[i : i + 1].roll(s, (2, 3)))[0] for s in (draw[:2], draw[2:])]
            pairs.append(int(views[0].argmax()) == int(views[1].argmax()))
            for view in views:
                unshifted.append(int(view.argmax()) == int(plain.argmax()))
                changes.append(float((view.double() - plain.double()).abs().max() / plain.double().abs().max()))
    assert got["circular_consistency"] == sum(pairs) / len(pairs)
    assert got["circular_unshifted_consistency"] == sum(unshifted) / len(unshifted)
    assert got["circular_max_logit_change"] == max(changes)
    assert got["circular_mean_logit_change"] == pytest.approx(np.mean(changes), rel=1e-12)
    assert got["accuracy"] == float((net(x).argmax(1) == labels).double().mean())
    assert 0 < got["circular_consistency"] < 1


def test_crop_moves_windows_over_zeros():
    (x, labels), net = images(), Sums()
    got = evaluate(net, InMemory(x, labels, 7), EVERYTHING)
    padded, pairs = torch.nn.functional.pad(x, (3, 3, 3, 3)), []
    for i in range(len(x)):
        for repeat in range(3):
            a, b, c, d = (3 + uniform_integers(torch.tensor([i]), -3, 3, 4, "crop", 0, repeat)[0]).tolist()
            first, second = (padded[i : i + 1, :, r : r + 8, s : s + 8] for r, s in ((a, b), (c, d)))
            pairs.append(int(net(first).argmax()) == int(net(second).argmax()))
    assert got["crop_consistency"] == sum(pairs) / len(pairs)


def test_all_shifts_are_those_of_a_loop_over_shifts():
    (x, labels), net = images(), Sums()
    got = evaluate(net, InMemory(x, labels, 7), EVERYTHING)
    x, labels = x[:9], labels[:9]
    plain = net(x).argmax(1)
    right, kept = torch.zeros(8, 8, 9, dtype=torch.bool), torch.zeros(8, 8, 9, dtype=torch.bool)
    for r in range(8):
        for c in range(8):
            found = net(x.roll((r, c), (2, 3))).argmax(1)
            right[r, c], kept[r, c] = found == labels, found == plain
    assert torch.equal(got["all_shifts_accuracy_map"], right.float().mean(2))
    assert torch.equal(got["all_shifts_consistency_map"], kept.float().mean(2))
    assert got["all_shifts_mean_accuracy"] == int(right.sum()) / right.numel()
    assert got["all_shifts_worst_accuracy"] == float(right.all(0).all(0).double().mean())
    assert got["all_shifts_consistency"] == int(kept.sum()) / kept.numel()
    assert got["all_shifts_images"] == 9
    assert got["all_shifts_logit_change_map"][0, 0] == 0


def test_an_invariant_network_is_exactly_consistent_everywhere():
    config = EVERYTHING.model_copy(update={"metrics": ("circular", "flips", "all_shifts")})
    got = evaluate(Mean(), InMemory(*images(), 8), config)
    for name in ("circular_consistency", "flips_consistency", "all_shifts_consistency", "all_shifts_always_consistent"):
        assert got[name] == 1.0
    assert got["circular_max_logit_change"] == got["all_shifts_max_logit_change"] == 0.0


def test_erased_square_lies_where_it_was_drawn_and_within_the_image():
    x = torch.ones(50, 1, 6, 9)
    corners = torch.stack([torch.arange(50) % 4, torch.arange(50) % 7], 1)
    got = erased(x, corners, 3)
    for image, (row, column) in zip(got, corners.tolist(), strict=True):
        assert image.sum() == 54 - 9
        assert image[0, row : row + 3, column : column + 3].sum() == 0


def test_fractional_shifts_end_at_the_whole_pixel():
    x, labels = images()
    config = EvaluateConfig(metrics=("fractional",), fractions=4)
    got = evaluate(Sums(), InMemory(x, labels, 8), config)
    curve = got["fractional_consistency_curve"]
    whole = Sums()(x.roll((1, 1), (2, 3))).argmax(1) == Sums()(x).argmax(1)
    assert curve.shape == (4,)
    assert float(curve[-1]) == pytest.approx(float(whole.double().mean()))
    assert got["fractional_consistency"] == pytest.approx(float(curve[:-1].mean()))
    assert got["fractional_worst_consistency"] == pytest.approx(float(curve[:-1].min()))


def test_another_seed_draws_other_shifts():
    first, second = (evaluate(Sums(), InMemory(*images(), 8), EVERYTHING, seed=s) for s in (0, 1))
    assert first["accuracy"] == second["accuracy"]
    assert first["circular_mean_logit_change"] != second["circular_mean_logit_change"]


def test_unshifted_logits_are_computed_once_and_every_view_once():
    counted = Sums()
    seen = []
    counted.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    config = EvaluateConfig(metrics=("accuracy", "circular", "crop"), repeats=2)
    evaluate(counted, InMemory(*images(), 8), config)
    assert sum(seen) == 23 * (1 + 2 * 2 * 2)


def test_the_network_is_put_back_into_the_mode_it_was_in():
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, 10)).train()
    config = EvaluateConfig(metrics=("accuracy",))
    first, second = (evaluate(net, InMemory(*images(), 8), config) for _ in range(2))
    assert first == second
    assert net.training and net[1].training


def test_bfloat16_runs_the_network_and_keeps_metrics_in_float32():
    kinds = []

    class Watched(nn.Linear):
        def forward(self, x):
            out = super().forward(x.flatten(1))
            kinds.append(out.dtype)
            return out

    config = EvaluateConfig(metrics=("accuracy",))
    evaluate(Watched(128, 10), InMemory(*images(), 8), config, precision="bfloat16")
    assert set(kinds) == {torch.bfloat16}
    with pytest.raises(ValueError, match="float16"):
        evaluate(Sums(), InMemory(*images(), 8), config, precision="float16")


def test_unknown_evaluation_names_the_nearest():
    with pytest.raises(UserError, match="circular"):
        evaluate(Sums(), InMemory(*images(), 8), EvaluateConfig(metrics=("circlar",)))


def test_a_diverged_network_is_refused_rather_than_called_consistent():
    class Broken(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :10] * float("nan")

    with pytest.raises(UserError, match="not finite"):
        evaluate(Broken(), InMemory(*images(), 8), EvaluateConfig(metrics=("circular",)))


@pytest.mark.parametrize(("sides", "words"), [((), "EVALUATE.ERASE"), ((9,), "9 pixels")])
def test_erasing_needs_sides_that_fit(sides, words):
    with pytest.raises(UserError, match=words):
        evaluate(Sums(), InMemory(*images(), 8), EvaluateConfig(metrics=("erase",), erase=sides))


def test_no_images_is_an_error():
    with pytest.raises(UserError, match="no image"):
        evaluate(Sums(), InMemory(*images(0), 8), EvaluateConfig(metrics=("accuracy",)))


def test_an_image_set_is_read_in_batches_and_normalised():
    pixels = torch.randint(0, 256, (20, 2, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 10
    whole = ImageSet(pixels, labels, tuple("0123456789"), (0.0, 0.0), (1 / 255, 1 / 255), "test", "digest")
    got = evaluate(Sums(), whole, EvaluateConfig(metrics=("accuracy",), batch_size=6))
    assert got["accuracy"] == float((Sums()(pixels.float()).argmax(1) == labels).double().mean())


def test_progress_ends_at_its_total():
    told = []
    evaluate(Sums(), InMemory(*images(), 8), EVERYTHING, progress=lambda *step: told.append(step))
    assert told[-1] == ("images", 3, 3)
    assert ("all shifts", 64 * 8, 64 * 8) in told
    assert all(0 <= done <= total for _, done, total in told)


def test_a_pipeline_may_add_an_evaluation():
    class Count:
        def __init__(self, config, seed):
            self.count = 0

        def update(self, view):
            self.count += len(view.images)

        def compute(self):
            return {"count": float(self.count)}

    got = evaluate(
        Sums(), InMemory(*images(), 8), EvaluateConfig(metrics=("count",)), evaluations={**EVALUATIONS, "count": Count}
    )
    assert got == {"count": 23.0}


def test_a_dear_measurement_of_a_set_that_lies_by_class_sees_every_class_whatever_the_batches():
    ordered = SimpleNamespace(labels=torch.arange(4).repeat_interleave(5))
    for size in (3, 20):
        seen = []
        for numbers in torch.arange(20).split(size):
            view = View(torch.zeros(len(numbers), 1, 2, 2), numbers, numbers, lambda x: x, image_set=ordered)
            seen += numbers[view.sample(4)].tolist()
        assert seen == [0, 5, 10, 15]
    alone = View(torch.zeros(3, 1, 2, 2), torch.arange(3), torch.arange(3), lambda x: x)
    assert alone.sample(2).tolist() == [0, 1] and len(alone.sample(None)) == 3
