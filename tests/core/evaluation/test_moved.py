"""The evaluations of moved, warped and corrupted views, against what is plain or counted by hand."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.randomness import uniform_integers
from stillpoint.core.config import evaluations as catalogue
from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.data import streaming
from stillpoint.core.data.sets import FolderSet, ImageSet
from stillpoint.core.data.shifts import fourier_shift, roll
from stillpoint.core.data.streaming import StreamLoader
from stillpoint.core.evaluation.engine import Predictor, evaluate, one_pass
from stillpoint.core.evaluation.measure import InMemory
from stillpoint.core.evaluation.registry import EVALUATIONS
from stillpoint.core.evaluation.warps import warped

MEASURES = ("accuracy", "circular", "windows", "all_shifts", "worst_shift", "subpixel", "walk", "rotation", "scaling")


class Brightest(nn.Module):
    """The class is the place of the brightest of eight columns, so that a shift by one column is another class."""

    def forward(self, x):
        return x.sum((1, 2))[:, :8].softmax(1)


class Everywhere(nn.Module):
    """Sees the mean alone."""

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        return torch.stack([mean, -mean], 1)


def images(count=12, side=16, channels=1):
    x = torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))
    return x, torch.zeros(count, dtype=torch.int64)


def measured(net, x, labels, *metrics, batch_size=5, **settings):
    options = {"repeats": 2, "max_shift": 2, "limit_all_shifts": 4, "limit_dear": 6, "worst_shift": 1, **settings}
    config = EvaluateConfig(metrics=metrics, batch_size=batch_size, **options)
    return evaluate(net, InMemory(x, labels, batch_size), config)


def test_a_network_that_sees_the_mean_keeps_every_class_and_every_logit() -> None:
    x, labels = images()
    found = measured(Everywhere(), x, labels, *MEASURES)
    kept = [key for key in found if key.endswith("consistency")]
    assert len(kept) == 9 and all(found[key] == 1 for key in kept)
    assert found["walk_flip_rate"] == 0 and found["worst_shift_accuracy"] == found["accuracy"] == 1
    changes = [value for key, value in found.items() if key.endswith(("logit_change", "divergence"))]
    assert len(changes) == 8 and max(changes) < 1e-5
    assert found["walk_stability"] == pytest.approx(1, abs=1e-6)
    assert "worst_shift_example" not in found


def test_the_worst_shift_is_the_worst_of_all_and_its_example_is_one() -> None:
    x, _ = images()
    net = Brightest()
    labels = net(x).argmax(1)
    found = measured(net, x, labels, "worst_shift", limit_dear=9)
    right = torch.stack([net(roll(x[:9], (r, c))).argmax(1) == labels[:9] for r in (-1, 0, 1) for c in (-1, 0, 1)])
    assert found["worst_shift_accuracy"] == right.all(0).double().mean().item() < 1
    assert found["worst_shift_unshifted_accuracy"] == 1 and found["worst_shift_images"] == 9
    number, rows, columns, label, given = found["worst_shift_example"].tolist()
    assert (label, given) == (int(labels[number]), int(net(roll(x[number : number + 1], (rows, columns))).argmax()))
    assert label != given and max(abs(rows), abs(columns)) == 1
    assert torch.equal(found["worst_shift_example_image"], x[number])


def test_the_walks_numbers_are_those_counted_by_hand() -> None:
    x, labels = images()
    net = Brightest()
    found = measured(net, x, labels, "walk", max_shift=2)
    logits = torch.stack([net(roll(x, (k, k))) for k in range(5)], 1)
    classes, own = logits.argmax(2), logits.double().softmax(2)[:, :, 0]
    rates = [(classes[:, :-step] != classes[:, step:]).double().mean() for step in range(1, 5)]
    assert found["walk_flip_rate"] == pytest.approx(float(sum(rates)) / 4)
    assert found["walk_flip_rate_step1"] == pytest.approx(float(rates[0]))
    assert found["walk_stability"] == pytest.approx(1 - float(own.diff(dim=1).abs().mean()))


def test_fractional_shifts_are_drawn_for_each_image_and_the_law_is_tried_without_the_highest_frequency() -> None:
    x, labels = images()
    net = Brightest()
    found = measured(net, x, labels, "subpixel", repeats=1, max_shift=2)
    drawn = uniform_integers(torch.arange(12), -(2 << 16), 2 << 16, 2, "subpixel", 0, 0).double() / (1 << 16)
    same = net(fourier_shift(x, drawn)).argmax(1) == net(x).argmax(1)
    assert found["subpixel_random_consistency"] == pytest.approx(same.double().mean().item())

    class Energy(nn.Module):
        """Keeps to the law for images that have no highest frequency, and to no other."""

        def forward(self, x):
            energy = x.square().mean((1, 2, 3))
            return torch.stack([energy, -energy], 1)

    found = measured(Energy(), x, labels, "subpixel")
    assert found["subpixel_law_max_logit_change"] < 1e-6 < 1e-4 < found["subpixel_max_logit_change"]


def test_a_standard_error_is_that_of_the_images_means() -> None:
    x, labels = images()
    found = measured(Brightest(), x, labels, "circular", repeats=3)
    assert 0 < found["circular_divergence_standard_error"] < 1
    one = measured(Everywhere(), x, labels, "rotation")
    assert one["rotation_consistency_standard_error"] == 0


def test_a_rotation_turns_the_picture_and_a_scaling_shrinks_it() -> None:
    x = torch.zeros(1, 1, 33, 33)
    x[0, 0, 16, 26] = 1  # ten pixels to the right of the middle
    quarter = [[math.cos(math.pi / 2), math.sin(math.pi / 2)], [-math.sin(math.pi / 2), math.cos(math.pi / 2)]]
    assert warped(x, quarter)[0, 0].argmax() == 6 * 33 + 16  # ten above it
    assert warped(x, [[0.5, 0.0], [0.0, 0.5]])[0, 0].argmax() == 16 * 33 + 21
    assert torch.allclose(warped(x, [[1.0, 0.0], [0.0, 1.0]]), x, atol=1e-5)


def stored(channels: int) -> ImageSet:
    pixels = torch.randint(0, 256, (4, channels, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return ImageSet(
        pixels, torch.zeros(4, dtype=torch.int64), ("a", "b"), (0.5,) * channels, (0.25,) * channels, "", ""
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_corruptions_are_of_stored_pixels_and_grey_ones_have_three_alike(channels: int) -> None:
    config = EvaluateConfig(metrics=("corruptions",), limit_dear=2, batch_size=3)
    found = evaluate(Everywhere(), stored(channels), config)
    assert found["corruption_images"] == 2
    each = [value for key, value in found.items() if key.startswith("corruption_error_") and "standard" not in key]
    assert len(each) == 15 and found["corruption_error"] == pytest.approx(sum(each) / 15)
    with pytest.raises(UserError, match="corruptions needs stored pixels"):
        measured(Everywhere(), *images(), "corruptions")


def test_photographs_are_corrupted_as_the_network_sees_them(tmp_path: Path) -> None:
    """The same bytes from files and from memory give the same numbers, and each file is read once."""
    pixels = torch.randint(256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels, about = torch.tensor([0, 0, 1, 1]), (("a", "b"), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "", "")
    paths = tuple(str(tmp_path / f"{number}.png") for number in range(4))
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    config = EvaluateConfig(metrics=("accuracy", "corruptions"), limit_dear=3, batch_size=2)

    class Coloured(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))[:, :2] * torch.tensor([1.0, -1.0])

    streamed = StreamLoader(FolderSet(paths, labels, *about), 2, size=32, resize=32, crop="centre")
    read = []
    decode = streaming.decode_image
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "decode_image", lambda path, name: (read.append(name), decode(path, name))[1])
        found = evaluate(Coloured(), streamed, config)
    assert sorted(read) == sorted(paths)
    assert found == evaluate(Coloured(), ImageSet(pixels, labels, *about), config)
    assert 0 < found["corruption_error"] < 1 and found["corruption_images"] == 3


def test_no_batch_size_changes_a_number() -> None:
    x, labels = images()
    first, second = (measured(Brightest(), x, labels, *MEASURES, batch_size=size) for size in (3, 12))
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key], key


def test_the_views_that_the_catalogue_counts_are_those_that_are_shown() -> None:
    names = (*MEASURES, "crop", "flips", "erase", "fractional")
    x, labels = images()
    config = EvaluateConfig(
        metrics=names,
        repeats=2,
        max_shift=2,
        limit_all_shifts=4,
        limit_dear=6,
        worst_shift=1,
        erase=(2, 3),
        fractions=3,
    )
    # a network that fails at no shift needs them all
    predict = Predictor(Everywhere())
    one_pass(predict, InMemory(x, labels, 5), config, 0, EVALUATIONS, None)
    assert predict.images == catalogue.views(config, 12, 16)
    predict = Predictor(Everywhere())
    evaluations = EvaluateConfig(metrics=("corruptions",), limit_dear=3)
    from stillpoint.core.data.loading import DeviceLoader

    one_pass(predict, DeviceLoader(stored(1), 4), evaluations, 0, EVALUATIONS, None)
    # nothing there asks for the images as they are
    assert predict.images == catalogue.views(evaluations, 4, 32) - 4
