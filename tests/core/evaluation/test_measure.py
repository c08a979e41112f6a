import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stillpoint.core.base.errors import UserError
from stillpoint.core.evaluation.measure import measure, measure_image
from stillpoint.core.metrics import ShiftConsistency


class Corner(nn.Module):
    """Sees the top left quarter only."""

    def __init__(self, classes=4):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, classes, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        h, w = x.shape[2] // 2, x.shape[3] // 2
        return x[:, :, :h, :w].mean((2, 3)) @ self.weight


def picture(size=12, seed=1):
    return torch.randn(2, size, size, generator=torch.Generator().manual_seed(seed))


def shifted(image, r, c, boundary, m):
    """By definition, with NumPy."""
    x = image.numpy()
    h, w = x.shape[1:]
    if boundary == "circular":
        return np.roll(x, (r, c), (1, 2))
    if boundary == "crop":
        return x[:, m - r : h - m - r, m - c : w - m - c]
    out = np.zeros_like(x)
    for i in range(h):
        for j in range(w):
            if 0 <= i - r < h and 0 <= j - c < w:
                out[:, i, j] = x[:, i - r, j - c]
    return out


@pytest.mark.parametrize("boundary", ["circular", "zeros", "crop"])
@pytest.mark.parametrize("batch", [4, 64])
def test_each_entry_is_the_network_on_the_picture_shifted_so(boundary, batch):
    net, image, m = Corner(), picture(), 2
    got = measure_image(net, image, max_shift=m, boundary=boundary, batch_size=batch)
    logits = {
        (r, c): net(torch.from_numpy(shifted(image, r, c, boundary, m).copy())[None])[0].detach().double()
        for r in range(-m, m + 1)
        for c in range(-m, m + 1)
    }
    plain = logits[0, 0]
    for (r, c), own in logits.items():
        at = (m + r, m + c)
        assert got.prediction[at] == int(own.argmax())
        assert got.change[at] == pytest.approx(float((own - plain).abs().max() / plain.abs().max()), abs=1e-5)
        assert got.probability[at] == pytest.approx(float(own.softmax(0)[plain.argmax()]), abs=1e-6)
    assert got.unshifted == int(plain.argmax())
    assert got.change[m, m] == 0
    same = sum(int(own.argmax() == plain.argmax()) for own in logits.values()) - 1
    assert got.consistency == same / 24


def test_the_map_becomes_a_dictionary_of_plain_values():
    found = measure_image(Corner(), picture(), max_shift=1)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["prediction"] == found.prediction.tolist()


@pytest.mark.parametrize(
    ("image", "options", "words"),
    [
        (torch.zeros(1, 2, 8, 8), {}, "image must be"),
        (torch.zeros(2, 8, 8), {"boundary": "mirror"}, "mirror"),
        (torch.zeros(2, 8, 8), {"max_shift": 0}, "at least 1"),
        (torch.zeros(2, 8, 8), {"max_shift": 4, "boundary": "crop"}, "8x8"),
    ],
)
def test_impossible_pictures_and_options_are_refused(image, options, words):
    with pytest.raises(ValueError, match=words):
        measure_image(Corner(), image, **options)


def test_a_network_that_gives_nan_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        measure_image(Corner(), torch.full((2, 8, 8), float("nan")), max_shift=1)


def test_any_network_can_be_measured_on_tensors():
    net = Corner().train()
    images = torch.randn(30, 2, 8, 8, generator=torch.Generator().manual_seed(2))
    labels = net(images).argmax(1)
    labels[:10] = (labels[:10] + 1) % 4
    got = measure(net, images, labels, evaluations=("accuracy", "circular"), max_shift=2, repeats=2, batch_size=11)
    assert got["accuracy"] == 20 / 30
    assert 0 < got["circular_consistency"] < 1
    assert net.training


def test_without_labels_the_networks_own_class_counts_as_right():
    images = torch.randn(12, 2, 8, 8, generator=torch.Generator().manual_seed(2))
    got = measure(Corner(), images, evaluations=("accuracy", "all_shifts"), limit_all_shifts=12)
    assert "accuracy" not in got
    assert got["all_shifts_mean_accuracy"] == got["all_shifts_consistency"]
    assert got["all_shifts_accuracy_map"][0, 0] == 1


def test_labels_of_another_number_are_refused():
    with pytest.raises(ValueError, match=r"labels must be \(N,\)"):
        measure(Corner(), torch.zeros(3, 2, 8, 8), torch.zeros(2, dtype=torch.int64))


def test_a_network_that_gives_images_has_no_prediction_to_follow():
    with pytest.raises(ValueError, match="not one logit per class"):
        measure_image(torch.nn.Identity(), torch.rand(1, 8, 8), max_shift=1)


def test_a_papers_protocol_is_refused_where_it_is_not_known():
    with pytest.raises(ValueError, match="protocol='authors' needs a paper's pipeline"):
        measure(torch.nn.Flatten(), torch.zeros(2, 1, 4, 4), protocol="authors")


class Gives(nn.Module):
    """A network that is a function of its images."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x.flatten(1)[:, :1], r"logits \((6|4|25), 1\).* at least 2 classes"),
        (lambda x: x.flatten(1)[:, :0], "at least 2 classes"),
        (lambda x: x[:, 0, 0, 0], "not logits"),
        (lambda x: x.flatten(2).flatten(0, 1), "not logits"),
        (
            lambda x: {"first": x, "aux": x},
            r"of type dict \(first, aux\).*called logits or out: say which with output=",
        ),
        (lambda x: (x, x), "a tuple that holds 2 tensors: give the position of the logits with output="),
    ],
)
def test_a_network_without_logits_is_refused_in_a_sentence(function, words):
    images = torch.randn(6, 2, 8, 9)
    for labels in (None, torch.zeros(6, dtype=torch.int64)):
        with pytest.raises(ValueError, match=words):
            measure(Gives(function), images, labels, max_shift=2, batch_size=4)
    with pytest.raises(ValueError, match=words):
        measure_image(Gives(function), images[0], max_shift=2)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("cat", "a tensor or an array .* not str"),
        ([0] * 5, r"one for each of 6 images, not of shape \(5,\)"),
        (torch.zeros(6), "integer class numbers, not torch.float32"),
        (torch.zeros(6, dtype=torch.bool), "integer class numbers, not torch.bool"),
        (torch.zeros(6, 1, dtype=torch.int64), r"not of shape \(6, 1\)"),
        (torch.tensor([0, 1, 2, -1, 0, 0]), "of at least 0, not -1"),
        (torch.tensor([0, 1, 2, 106, 0, 0]), "label 106 is not a class of the network, whose classes are 0 to 3"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, words):
    with pytest.raises(ValueError, match=words):
        measure(Corner(), torch.randn(6, 2, 8, 8), labels)


def test_labels_may_be_integers_of_any_size():
    images, labels = torch.randn(6, 2, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1])
    assert measure(Corner(), images, labels.to(torch.uint8)) == measure(Corner(), images, labels)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(6, 2, 8, 8, dtype=torch.int64), "or uint8 if it takes stored pixels, not torch.int64"),
        (torch.zeros(2, 8, 8, 8, 1), "not of shape"),
    ],
)
def test_images_of_another_form_are_refused(images, words):
    with pytest.raises(ValueError, match=words):
        measure(Corner(), images)
    with pytest.raises(ValueError, match=words):
        measure_image(Corner(), images[0])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("pictures", "a Dataset, or a DataLoader, not str"),
        (nn.Flatten(), "not Flatten"),
        ([{"picture": torch.zeros(2, 2, 8, 8)}], "has the keys picture; images must be one of pixel_values, images"),
        ([3], "a dictionary of them, not int"),
    ],
)
def test_data_of_another_kind_is_refused(data, words):
    with pytest.raises(ValueError, match=words):
        measure(Corner(), data)
    with pytest.raises(ValueError, match="provides its own"):
        measure(Corner(), [torch.zeros(2, 2, 8, 8)], torch.zeros(2))


def kinds(net, images, labels):
    """One network, its images and labels in every form that is taken."""
    pairs = TensorDataset(images, labels)
    named = [{"pixel_values": image, "labels": label} for image, label in pairs]
    example = images[:3].contiguous()
    half = torch.export.Dim("half", min=1, max=64)
    return {
        "plain": (net, images, labels, {}),
        "arrays": (net, images.numpy(), labels.numpy(), {}),
        "a Dataset": (net, pairs, None, {}),
        "a DataLoader": (net, DataLoader(pairs, batch_size=4), None, {}),
        "dictionaries": (net, DataLoader(named, batch_size=5), None, {}),
        "a function": (lambda x: net(x), images, labels, {}),
        "a scripted module": (torch.jit.script(net), images, labels, {}),
        "a traced module": (torch.jit.trace(net, example), images, labels, {}),
        "an exported program": (torch.export.export(net, (example,)), images, labels, {}),
        "an exported module": (
            torch.export.export(net, (example,), dynamic_shapes=({0: half},)).module(),
            images,
            labels,
            {},
        ),
        "an exported module of a fixed batch": (torch.export.export(net, (example,)).module(), images, labels, {}),
        "a dictionary": (Gives(lambda x: {"logits": net(x), "hidden": x}), images, labels, {}),
        "a tuple": (Gives(lambda x: (x, net(x))), images, labels, {"output": 1}),
        "a function of the output": (Gives(lambda x: [[net(x)]]), images, labels, {"output": lambda y: y[0][0]}),
    }


def test_every_kind_of_network_and_data_is_measured_alike():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4)).eval()
    random = torch.Generator().manual_seed(1)
    images, labels = torch.randn(11, 2, 8, 8, generator=random), torch.randint(0, 4, (11,), generator=random)
    found = {
        kind: measure(of, data, right, evaluations=("accuracy", "circular", "all_shifts"), batch_size=4, **options)
        for kind, (of, data, right, options) in kinds(net, images, labels).items()
    }
    plain = found.pop("plain")
    assert 0 < plain["circular_consistency"] < 1 and plain["images"] == 11 and 1 < plain["classes_given"] <= 4
    # counts are whole numbers; logits may differ by rounding between kinds
    real = [key for key in plain.to_dict() if "logit_change" in key or "divergence" in key]
    for kind, other in found.items():
        numbers, exact = other.to_dict(), plain.to_dict()
        assert {k: v for k, v in numbers.items() if k not in real} == {
            k: v for k, v in exact.items() if k not in real
        }, kind
        for key in real:
            assert np.asarray(numbers[key]) == pytest.approx(np.asarray(exact[key]), rel=1e-4, abs=1e-6), (kind, key)


def test_stored_pixels_are_shifted_before_they_are_prepared():
    stored = torch.randint(0, 256, (6, 2, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    inside = measure(Gives(lambda x: Corner()(x.float() / 255)), stored)
    beside = measure(Corner(), stored, preprocess=lambda x: x.float() / 255)
    assert inside == beside == measure(Corner(), stored.float() / 255)
    for name in ("fractional", "subpixel", "rotation", "scaling"):
        with pytest.raises(ValueError, match=f"leave {name} out for uint8"):
            measure(Corner(), stored, evaluations=name, preprocess=lambda x: x.float())
    with pytest.raises(ValueError, match="does not accept uint8 images: pass preprocess= to convert them \\("):
        measure(nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten()), stored)
    one = measure_image(Corner(), stored[0], max_shift=1, preprocess=lambda x: x.float() / 255)
    assert np.array_equal(one.prediction, measure_image(Corner(), stored[0].float() / 255, max_shift=1).prediction)


def test_signals_move_along_their_one_axis():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(28, 4))
    signals = torch.randn(9, 3, 16)
    found = measure(net, signals, evaluations=("circular", "crop", "all_shifts", "fractional"), limit_all_shifts=9)
    with torch.no_grad():
        plain = net(signals).argmax(1)
        rolled = torch.stack([net(signals.roll(s, 2)).argmax(1) == plain for s in range(16)])
    assert found["all_shifts_consistency"] == float(rolled.double().mean())
    assert found["all_shifts_consistency_map"].shape == (1, 16)
    # zeros enter at the ends alone: a signal of ones keeps a one wherever it is shown
    edge = Gives(lambda x: torch.stack([x.sum((1, 2)), 40 * torch.ones(len(x))], 1))
    assert measure(edge, torch.ones(3, 4, 16), evaluations="crop", max_shift=3)["crop_consistency"] == 1
    alone = ShiftConsistency()
    alone.update(net, signals)
    assert float(alone.compute()) == found["circular_consistency"]


def test_a_network_that_gives_one_class_to_everything_is_said_to():
    constant = measure(Gives(lambda x: torch.tensor([[0.0, 1.0]]).expand(len(x), 2)), torch.randn(6, 2, 8, 8))
    assert constant["circular_consistency"] == 1 and constant.one_class
    assert str(constant).endswith("assigns one class to all images: its consistency is meaningless")
    assert not measure(Corner(), torch.randn(6, 2, 8, 8)).one_class


def test_the_size_of_a_batch_is_at_least_one():
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        measure_image(Corner(), picture(), batch_size=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_shfit": 3}, "unknown setting 'max_shfit'.*nearest: max_shift"),
        ({"metrics": ("crop",)}, "unknown setting 'metrics'"),
        ({"max_shift": 0}, "max_shift: .*greater than or equal to 1 .given: 0."),
        ({"batch_size": 0}, "batch_size: .*given: 0"),
        ({"evaluations": 3}, "metrics: .*given: 3"),
        ({"evaluations": "circle"}, "unknown evaluation 'circle'.*circular"),
    ],
)
def test_settings_out_of_range_are_told_in_a_sentence(options, words):
    with pytest.raises(UserError, match=words) as told:
        measure(Corner(), torch.randn(6, 2, 8, 8), **options)
    assert "\n" not in str(told.value) and "http" not in str(told.value)


def test_one_evaluation_may_be_named_alone():
    images = torch.randn(6, 2, 8, 8)
    assert measure(Corner(), images, evaluations="circular") == measure(Corner(), images, evaluations=("circular",))


def test_measuring_wakes_no_module_that_is_frozen_in_eval_mode():
    net = nn.Sequential(nn.Sequential(nn.BatchNorm2d(2), nn.Dropout()), Corner()).train()
    net[0][0].eval()
    before = [module.training for module in net.modules()]
    measure(net, torch.randn(6, 2, 8, 8))
    measure_image(net, picture(), max_shift=1)
    with pytest.raises(ValueError, match="maps"):
        measure_image(net[0], picture())
    assert [module.training for module in net.modules()] == before == [True, True, False, True, True]
