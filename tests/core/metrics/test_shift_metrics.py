"""The metrics against plain loops, for any batches, in a collection, over two processes, and beside the engine."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics import MetricCollection

from stillpoint.core.base.randomness import uniform_integers
from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.data.corruptions import corrupt
from stillpoint.core.data.shifts import crop_window, fourier_shift, roll
from stillpoint.core.evaluation.engine import evaluate
from stillpoint.core.evaluation.measure import InMemory
from stillpoint.core.metrics import (
    Accuracy,
    CorruptionError,
    FlipRate,
    FractionalConsistency,
    LogitChange,
    ShiftConsistency,
    ShiftDivergence,
    WorstShiftAccuracy,
)
from tests import fresh

ROOT = Path(__file__).resolve().parents[3]
COUNT, SIZE, CLASSES = 11, 8, 5


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, CLASSES)
    ).double()


def data(seed=1):
    random = torch.Generator().manual_seed(seed)
    images = torch.randn(COUNT, 3, SIZE, SIZE, generator=random, dtype=torch.float64)
    return images, torch.randint(0, CLASSES, (COUNT,), generator=random)


def classes(net, images):
    with torch.no_grad():
        return net(images).float().argmax(1)


def metrics():
    return {
        "accuracy": Accuracy(),
        "circular": ShiftConsistency(repeats=3),
        "crop": ShiftConsistency(repeats=3, boundary="zeros"),
        "flip": FlipRate(max_shift=4),
        "diagonal": FlipRate(max_shift=4, step=2, direction="diagonal"),
        "divergence": ShiftDivergence(repeats=3),
        "change": LogitChange(repeats=3),
        "mean_change": LogitChange(repeats=3, reduce="mean"),
        "worst": WorstShiftAccuracy(batch_size=50),
        "fractional": FractionalConsistency(fractions=4),
    }


def by_hand():
    """Each metric by loops over images and shifts."""
    net, (images, labels) = network(), data()
    logits = net(images).detach().float()
    plain = logits.argmax(1)
    numbers = torch.arange(COUNT)
    kept, divergences, changes = {"circular": [], "crop": []}, [], []
    for boundary, same in kept.items():
        for repeat in range(3):
            drawn = uniform_integers(numbers, -3, 3, 4, boundary, 0, repeat).tolist()
            for n, (r1, c1, r2, c2) in enumerate(drawn):
                image = images[n : n + 1]
                if boundary == "circular":
                    views = [roll(image, (r1, c1)), roll(image, (r2, c2))]
                else:
                    padded = nn.functional.pad(image, (3, 3, 3, 3))
                    views = [crop_window(padded, (3 + r, 3 + c), SIZE) for r, c in ((r1, c1), (r2, c2))]
                found = [net(view).detach().float()[0] for view in views]
                same.append(bool(found[0].argmax() == found[1].argmax()))
                if boundary == "circular":
                    for one in found:
                        p, q = logits[n].double().softmax(0), one.double().softmax(0)
                        divergences.append(float((p * (p / q).log()).sum()))
                        changes.append(float((one.double() - logits[n].double()).abs().max() / logits[n].abs().max()))
    horizontal = torch.stack([classes(net, roll(images, (0, k))) for k in range(5)], 1)
    diagonal = torch.stack([classes(net, roll(images, (k, k))) for k in range(5)], 1)
    every = torch.stack([classes(net, roll(images, (r, c))) == labels for r in range(SIZE) for c in range(SIZE)])
    halves = torch.stack([classes(net, fourier_shift(images, (k / 4, k / 4))) == plain for k in range(1, 4)])
    return {
        "accuracy": float((plain == labels).double().mean()),
        "circular": sum(kept["circular"]) / len(kept["circular"]),
        "crop": sum(kept["crop"]) / len(kept["crop"]),
        "flip": float((horizontal[:, 1:] != horizontal[:, :-1]).double().mean()),
        "diagonal": float((diagonal[:, 2:] != diagonal[:, :-2]).double().mean()),
        "divergence": sum(divergences) / len(divergences),
        "change": max(changes),
        "mean_change": sum(changes) / len(changes),
        "worst": float(every.all(0).double().mean()),
        "fractional": float(halves.double().mean()),
    }


@pytest.mark.parametrize("batch", [COUNT, 4, 1])
def test_a_network_is_measured_as_a_loop_measures_it_whatever_the_batches(batch):
    net, (images, labels) = network(), data()
    collection = MetricCollection(metrics())
    for part, right in zip(images.split(batch), labels.split(batch), strict=True):
        collection.update(net, part, labels=right)
    found, expected = collection.compute(), by_hand()
    assert set(found) == set(expected)
    # the network's own rounding depends on the batch; float64 leaves 1e-7 of float32 logits
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert 0 < expected["circular"] < 1 and 0 < expected["flip"] < 1 and 0 < expected["fractional"] < 1


def test_the_draws_follow_the_numbers_that_images_are_given():
    net, (images, _) = network(), data()
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(3))
    plain, shuffled = ShiftConsistency(repeats=3), ShiftConsistency(repeats=3)
    plain.update(net, images)
    for part in order.split(4):
        shuffled.update(net, images[part], indices=part)
    assert shuffled.compute() == plain.compute() and shuffled.standard_error == plain.standard_error > 0


def test_forward_gives_the_batch_and_goes_on_numbering():
    net, (images, _) = network(), data()
    one, two = ShiftConsistency(repeats=3), ShiftConsistency(repeats=3)
    parts = [one(net, part) for part in images.split(4)]
    two.update(net, images)
    assert one.compute() == two.compute()
    weights = [4, 4, 3]
    assert sum(w * float(p) for w, p in zip(weights, parts, strict=True)) / COUNT == pytest.approx(float(two.compute()))
    one.reset()
    one.update(net, images)
    assert one.compute() == two.compute()


def test_logits_are_measured_as_they_are_arrays_too():
    first = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 0.5], [1.0, 1.0, 0.0], [np.nan, 0.0, 1.0]])
    second = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 0.9], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    same = ShiftConsistency()
    same.update(first, second)
    same.update(torch.from_numpy(first[:1]), torch.from_numpy(first[:1]))
    assert float(same.compute()) == 3 / 5
    flip = FlipRate()
    flip.update(first, second)
    assert float(flip.compute()) == 2 / 4
    flip.reset()
    flip.update(np.array([[0, 0, 1, 1, 0]]))
    assert float(flip.compute()) == 2 / 4
    flip.reset()
    flip.update(np.stack([first[:2], second[:2], first[:2]], 1))
    assert float(flip.compute()) == 2 / 4
    change = LogitChange()
    change.update(first[:3], second[:3])
    assert float(change.compute()) == 1.0
    change.update(first[:3], np.stack([first[:3], 4 * first[:3]], 1))
    assert float(change.compute()) == 3.0
    divergence = ShiftDivergence()
    divergence.update(np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]]))
    assert float(divergence.compute()) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3), rel=1e-12)
    right = Accuracy(top_k=2)
    right.update(first[:3], [2, 2, 1])
    assert float(right.compute()) == 2 / 3
    worst = WorstShiftAccuracy()
    worst.update(np.stack([first[:3], second[:3]], 1), [0, 1, 0])
    assert float(worst.compute()) == 2 / 3
    halves = FractionalConsistency(fractions=2)
    halves.update(first[:3], np.stack([second[:3], first[:3]], 1))
    assert (float(halves.compute()), halves.curve) == (2 / 3, [2 / 3, 1.0])


def test_the_engine_and_a_metric_say_the_same():
    net, (images, labels) = network().float(), data()
    images = images.float()
    config = EvaluateConfig(metrics=("accuracy", "circular", "crop", "all_shifts", "fractional"), repeats=3)
    found = evaluate(net, InMemory(images, labels, 4), config)
    alone = MetricCollection(
        {
            "accuracy": Accuracy(),
            "circular_consistency": ShiftConsistency(repeats=3),
            "crop_consistency": ShiftConsistency(repeats=3, boundary="zeros"),
            "circular_max_logit_change": LogitChange(repeats=3),
            "crop_mean_logit_change": LogitChange(repeats=3, boundary="zeros", reduce="mean"),
            "all_shifts_worst_accuracy": WorstShiftAccuracy(),
            "fractional_consistency": FractionalConsistency(),
        }
    )
    for part, right in zip(images.split(4), labels.split(4), strict=True):
        alone.update(net, part, labels=right)
    got = {name: float(value) for name, value in alone.compute().items()}
    assert got == pytest.approx({name: found[name] for name in got}, rel=1e-5, abs=1e-12)


def test_two_metrics_that_agree_on_the_first_batch_stay_two():
    """torchmetrics takes metrics of equal states for one: both fractions are 1 at first, and one falls."""
    net, images = network(), torch.zeros(2, 3, SIZE, SIZE, dtype=torch.float64)
    pair = MetricCollection({"circular": ShiftConsistency(), "crop": ShiftConsistency(boundary="zeros")})
    pair.update(net, images)
    assert len(pair.compute_groups) == 2
    images[:, :, :1] = 30.0
    pair.update(net, images)
    alone = ShiftConsistency(boundary="zeros")
    alone.update(net, torch.zeros_like(images))
    alone.update(net, images)
    assert float(pair.compute()["crop"]) == float(alone.compute()) != float(pair.compute()["circular"])


def test_a_network_is_left_in_the_mode_it_was_in():
    net = network().train()
    net[0].eval()
    ShiftConsistency().update(net, data()[0])
    assert net.training and not net[0].training


def test_corruptions_are_made_of_stored_pixels():
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 32, 32), generator=random, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (6,), generator=random)
    net = network().float()
    names = ("fog", "gaussian_noise")
    made, given = CorruptionError(corruptions=names), CorruptionError(corruptions=names)
    with pytest.raises(ValueError, match="fog, gaussian_noise"):
        made.compute()
    for part, right in zip(images.split(4), labels.split(4), strict=True):
        made.update(net, part, labels=right)
    expected = {name: [] for name in names}
    for name in names:
        for severity in range(1, 6):
            pixels = corrupt(images.permute(0, 2, 3, 1).numpy(), name, severity)
            logits = net(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255).detach()
            given.update(logits.numpy(), labels, corruption=name, severity=severity)
            expected[name].append(float((logits.argmax(1) != labels).double().mean()))
    assert made.errors == given.errors == expected
    assert float(made.compute()) == pytest.approx(sum(map(sum, expected.values())) / 10)
    relative = CorruptionError(corruptions=names[:1], baselines={"fog": 0.5})
    relative.update(net, images, labels)
    assert float(relative.compute()) == pytest.approx(sum(expected["fog"]) / 2.5)
    with pytest.raises(ValueError, match="uint8"):
        made.update(net, images.float(), labels)
    with pytest.raises(ValueError, match="got 'fog' and 6"):
        made.update(logits, labels, corruption="fog", severity=6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ShiftConsistency(boundary="mirror"), "circular, zeros"),
        (lambda: ShiftConsistency(max_shift=0), "max_shift and repeats must be at least 1, got 0"),
        (lambda: FlipRate(step=9), "from 1 to max_shift=8, not 9"),
        (lambda: FlipRate(direction="up"), "horizontal, vertical, diagonal"),
        (lambda: FractionalConsistency(fractions=1), "at least 2, not 1"),
        (lambda: Accuracy(top_k=0), "at least 1, not 0"),
        (lambda: Accuracy().update(network(), data()[0]), "labels=labels"),
        (lambda: WorstShiftAccuracy().update(torch.zeros(2, 3), torch.zeros(2).long()), r"\(B, S, K\)"),
        (lambda: FlipRate(step=3).update(torch.zeros(2, 3, 4)), "more than 3 views"),
        (lambda: FractionalConsistency().update(torch.zeros(2, 3), torch.zeros(2, 3, 3)), r"\(2, 8, K\)"),
        (lambda: ShiftConsistency().update(network(), data()[0], indices=[1]), "each of 11 images needs an index"),
        (lambda: FractionalConsistency().compute(), "no image"),
    ],
)
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_what_cannot_be_measured_is_refused_in_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def program(path: Path) -> None:
    """One of two processes: rank 0 sees 7 of the images, rank 1 the other 4, which are two batches."""
    rank, store = int(os.environ["RANK"]), f"file://{os.environ['STORE']}"
    torch.distributed.init_process_group("gloo", store, rank=rank, world_size=2)
    net, (images, labels) = network(), data()
    collection = MetricCollection(metrics())
    for part in (torch.arange(7),) if rank == 0 else torch.arange(7, COUNT).split(3):
        collection.update(net, images[part], labels=labels[part], indices=part)
    found = {name: float(value) for name, value in collection.compute().items()}
    found |= {"error": collection["circular"].standard_error, "mean": collection["change"].mean}
    found |= {"curve": collection["fractional"].curve, "own": int(collection["accuracy"].images)}
    path.with_name(f"rank{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def test_two_processes_say_what_one_does(tmp_path):
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "STORE": str(tmp_path / "store")}
    words = [__file__, tmp_path / "seen"]
    both = [fresh.start(words, env=os.environ | own | {"RANK": str(rank)}, timeout=120) for rank in range(2)]
    for done in [process.wait() for process in both]:
        assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert (first.pop("own"), second.pop("own")) == (7, 4)
    assert first == second
    net, (images, labels) = network(), data()
    collection = MetricCollection(metrics())
    for part in (slice(0, 7), slice(7, 10), slice(10, COUNT)):
        collection.update(net, images[part], labels=labels[part])
    alone = {name: float(value) for name, value in collection.compute().items()}
    alone |= {"error": collection["circular"].standard_error, "mean": collection["change"].mean}
    # to the last bit: the same batches went through the network
    assert first == alone | {"curve": collection["fractional"].curve}


if __name__ == "__main__":
    program(Path(sys.argv[1]))
