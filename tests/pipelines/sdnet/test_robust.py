"""Noise, lambda and the line between them."""

import numpy as np
import pytest
import torch

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.randomness import generator
from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.data.corruptions.prepare import MANIFEST
from stillpoint.core.data.loading import DeviceLoader
from stillpoint.core.evaluation.engine import Predictor, one_pass
from stillpoint.core.evaluation.registry import View
from stillpoint.core.layers.sparse_coding import SparseCoding2d
from stillpoint.pipelines.sdnet.evaluate import evaluations
from stillpoint.pipelines.sdnet.models import sparse_layers
from stillpoint.pipelines.sdnet.pixels import Pixels
from stillpoint.pipelines.sdnet.robust import (
    NOISES,
    Sweep,
    conditions,
    fit_line,
    inference_penalty,
    levels,
    noisy,
    reconstruction_errors,
)

PICTURES = np.random.RandomState(0).randint(60, 200, (8, 32, 32, 3)).astype(np.uint8)
NUMBERS = torch.arange(8)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def configured(model="sdnet18", *pairs):
    small = ["MODEL.WIDTH", "0.05", "EVALUATE.NOISE_LEVELS", "2", "EVALUATE.LAMBDAS", "[0.1,0.5]"]
    limits = [word for name in ("SWEEP", "CORRUPTIONS", "ATTACK") for word in (f"EVALUATE.LIMIT_{name}", "6")]
    return pipelines.configure(f"sdnet/{model}", "digits", [*small, *limits, "EVALUATE.ATTACK_STEPS", "2", *pairs])


def view(config, data, count=8):
    from stillpoint.core.data.build import images

    found = images(config, "test", data).sample(count)
    pixels = (found.images.float() / 255 - found.mean[0]) / found.std[0]
    net = pipelines.build(config).eval()
    return View(pixels, found.labels, torch.arange(count), Predictor(net), root=data, image_set=found)


def test_the_authors_levels_go_from_weak_to_strong():
    spread = {}
    for name, (_, known) in NOISES.items():
        changes = [np.abs(noisy(PICTURES, (name, level), NUMBERS).astype(float) - PICTURES).mean() for level in known]
        assert (np.diff(changes) > 0).all()
        spread[name] = len(known)
        assert levels(name, 2) == [known[0], known[-1]] and levels(name, 99) == list(known)
    assert spread == {"gaussian": 10, "shot": 10, "speckle": 6, "impulse": 10}
    assert conditions(3)[0] == ("clean", 0.0) and len(conditions(3)) == 13


def test_noise_is_a_function_of_key_and_image_and_not_of_the_batch():
    whole = noisy(PICTURES, ("gaussian", 0.1), NUMBERS, "test", 0)
    part = noisy(PICTURES[3:5], ("gaussian", 0.1), NUMBERS[3:5], "test", 0)
    assert np.array_equal(whole[3:5], part)
    for key in (("train", 0), ("test", 1)):
        assert not np.array_equal(whole, noisy(PICTURES, ("gaussian", 0.1), NUMBERS, *key))


def test_grey_and_colour_images_come_back_from_8_bits_as_they_were():
    for mean, std in (((0.17,), (0.29,)), ((0.49, 0.48, 0.45), (0.2, 0.21, 0.22))):
        stored = torch.randint(0, 256, (4, len(mean), 32, 32), generator=generator("pixels"), dtype=torch.uint8)
        pixels = Pixels(mean, std)
        seen = pixels.normalised(stored / 255)
        assert torch.allclose(pixels.seen(pixels.stored(seen), seen), seen, atol=1e-6)
        assert pixels.stored(seen).shape == (4, 32, 32, 3)
        for layout in (torch.contiguous_format, torch.channels_last):
            found = pixels.stored(seen.contiguous(memory_format=layout))
            assert found.flags.c_contiguous and found.flags.writeable


def test_the_fitted_line_is_that_of_the_points():
    errors = np.array([1.0, 2.0, 5.0])
    assert fit_line(errors, 0.3 * errors + 0.2) == pytest.approx((0.3, 0.2, 1.0))
    assert fit_line(np.ones(3), np.array([0.1, 0.2, 0.3])) == pytest.approx((0.0, 0.2, 0.0))
    assert fit_line(np.array([1.0, 2.0, 4.0]), np.full(3, 0.1)) == pytest.approx((0.0, 0.1, 0.0))


def test_lambda_is_the_best_of_each_condition_the_smallest_of_several_and_stays_within_what_was_tried():
    tried = (("clean", 0.0), ("gaussian", 0.1), ("gaussian", 0.2))
    accuracy = np.array([[0.9, 0.9, 0.5], [0.5, 0.8, 0.7], [0.2, 0.3, 0.6]])
    found = Sweep(tried, (0.1, 0.5, 1.0), accuracy, np.array([1.0, 5.0, 10.0]))
    assert list(found.chosen.values()) == [0.1, 0.5, 1.0]
    assert found.line("gaussian") == pytest.approx((0.1, 0.0, 1.0))
    assert found.penalty(5.5) == pytest.approx(0.547, abs=0.02)
    assert found.penalty(-100) == 0.1 and found.penalty(1e6) == 1.0


def test_lambda_is_set_for_a_while_and_the_error_grows_with_it():
    layer = SparseCoding2d(1, 8, padding=1).eval()
    x, errors = torch.randn(4, 1, 8, 8, generator=generator("x")), []
    for value in (0.0, 0.3, 1.0):
        with inference_penalty(layer, value):
            errors.append(float(reconstruction_errors(layer, x).mean()))
    assert errors == sorted(errors) and errors[0] < errors[-1] and layer.penalty == 0.1


def test_robustness_measures_all_corruptions_and_noises_and_tells_where_they_came_from(data):
    config = configured()
    running = evaluations(config)["robustness"](config.evaluate, 0)
    running.update(view(config, data))
    found = running.compute()
    assert found["robustness_images"] == 6 and found["robustness_prepared"] == found["robustness_photographs"] == 0
    severities = found["robustness_severities"]
    assert severities.shape == (19, 5)
    assert found["robustness_error"] == pytest.approx(1 - float(severities[:15].mean()))
    assert found["robustness_error_19"] == pytest.approx(1 - float(severities.mean()))
    assert found["robustness_sweep_accuracy"].shape == (9, 2) and found["robustness_sweep_lines"].shape == (5, 3)
    assert {f"robustness_levels_{how}{n}_accuracy" for how in ("", "chosen_", "line_") for n in NOISES} <= set(found)


def test_a_plain_network_has_no_lambda_and_no_line(data):
    config = configured("resnet18")
    for name in ("robustness", "attack"):
        running = evaluations(config)[name](config.evaluate, 0)
        running.update(view(config, data))
        assert not any("line" in key or "lambdas" in key or "curves" in key for key in running.compute())


class Noted(Predictor):
    """Remembers what lambdas the first layer had."""

    def __init__(self, net):
        super().__init__(net)
        self.lambdas = set()

    def __call__(self, images):
        self.lambdas.add(next(iter(sparse_layers(self.net).values())).penalty)
        return super().__call__(images)


def measured(config, data, size, count, monkeypatch):
    """The results of robustness by a line that is steep, in batches of `size`, and the lambdas that were used."""
    from stillpoint.core.data.build import images

    tried = tuple(conditions(2))
    steep = Sweep(tried, (0.1, 9.0), np.zeros((len(tried), 2)), np.zeros(len(tried)))
    monkeypatch.setattr(Sweep, "penalty", lambda self, error: 0.1 + error / 1e4)
    monkeypatch.setattr("stillpoint.pipelines.sdnet.robustness.sweep", lambda *given: steep)
    predict, found = Noted(pipelines.build(config)), images(config, "test", data).sample(count)
    own = config.evaluate.model_copy(update={"metrics": ("robustness",), "batch_size": size})
    loader = DeviceLoader(found, size)
    return one_pass(predict, loader, own, 0, evaluations(config), None, data), sorted(predict.lambdas)


def test_the_line_decides_for_a_condition_and_not_for_a_batch(data, monkeypatch):
    config = configured("sdnet18", "EVALUATE.LIMIT_CORRUPTIONS", "9", "EVALUATE.BATCH_SIZE", "4")
    whole, lambdas = measured(config, data, 12, 12, monkeypatch)
    parts, found = measured(config, data, 5, 12, monkeypatch)
    # of training, of clean images, of 8 noises and 95 corruptions
    assert len(lambdas) <= 2 + 8 + 95 and len(lambdas) > 60
    assert found == pytest.approx(lambdas, rel=1e-9)
    assert whole.keys() == parts.keys()
    assert all(float(whole[key]) == float(parts[key]) for key in whole if not isinstance(whole[key], torch.Tensor))


def test_the_line_is_told_the_error_of_as_many_images_as_it_was_fitted_on(data, monkeypatch):
    counts = []

    def errors(layer, seen):
        counts.append(len(seen))
        return torch.ones(len(seen))

    monkeypatch.setattr("stillpoint.pipelines.sdnet.robustness.reconstruction_errors", errors)
    config = configured("sdnet18", "EVALUATE.LIMIT_CORRUPTIONS", "4", "EVALUATE.LIMIT_SWEEP", "7")
    measured(config, data, 12, 12, monkeypatch)
    assert counts == [7] + [7] * 8 + [4] * 95


def test_the_authors_choose_lambda_on_the_noise_that_they_measure(data):
    config = configured("sdnet18", "EVALUATE.PROTOCOL", "authors", "DATA.LIMIT", "8")
    running = evaluations(config)["robustness"](config.evaluate, 0)
    running.update(view(config, data))
    best = running.sweep.accuracy[1:3].max(1).mean()
    assert running.compute()["robustness_levels_chosen_gaussian_accuracy"] == pytest.approx(best)


def test_an_attack_leaves_the_network_as_it_was_and_does_not_help(data):
    config = configured("sdnet18", "EVALUATE.ATTACK_LINF", "80")
    shown = view(config, data)
    before = {name: value.clone() for name, value in shown.predict.net.state_dict().items()}
    running = evaluations(config)["attack"](config.evaluate, 0)
    running.update(shown)
    found = running.compute()
    none, same, _ = found["attack_linf_curves"]
    assert found["attack_linf_accuracy"] == same[0] and (same <= none).all()
    assert found["attack_lambdas"].tolist() == [0.1, 0.4, 0.8]
    after = shown.predict.net.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.requires_grad for p in shown.predict.net.parameters())


def test_reconstructions_show_every_stage_of_the_network_that_can_be_inverted(data):
    config = configured("sdnet18_all_noshortcut", "EVALUATE.PICTURES", "3")
    shown, running = view(config, data), evaluations(config)["reconstructions"](config.evaluate, 0)
    running.update(shown)
    pictures = running.compute()["reconstructions_pixels"]
    assert pictures.shape == (6, 3, 1, 32, 32)
    assert torch.allclose(pictures[0].float(), shown.images[[0, 2, 5]] * 0.2906 + 0.1718, atol=1e-6)
    other = configured("sdnet18")
    running = evaluations(other)["reconstructions"](other.evaluate, 0)
    running.update(view(other, data))
    assert running.compute() == {}


@pytest.fixture
def colour(tmp_path):
    """CIFAR-10's form with arrays of one corruption, and a view of the images that they were made of."""
    config = pipelines.configure("sdnet/resnet18", "cifar10", ["MODEL.WIDTH", "0.05"])
    (tmp_path / "CIFAR-10-C").mkdir()
    np.save(
        tmp_path / "CIFAR-10-C" / "fog.npy",
        np.tile(PICTURES, (5, 1, 1, 1)) + np.repeat(range(5), 8)[:, None, None, None].astype(np.uint8),
    )
    np.save(tmp_path / "CIFAR-10-C" / "labels.npy", np.tile(np.arange(8, dtype=np.uint8), 5))
    pixels = Pixels.of(config)
    images = pixels.normalised(torch.from_numpy(PICTURES).permute(0, 3, 1, 2) / 255)
    return config, View(images, NUMBERS, NUMBERS, Predictor(pipelines.build(config).eval()), root=tmp_path), tmp_path


def test_the_files_of_cifar10_c_are_read_where_they_are_and_must_be_of_these_images(colour):
    config, shown, root = colour
    running = evaluations(config)["robustness"](config.evaluate, 0)
    stored = running._corrupted("fog", 3, PICTURES, shown, NUMBERS[2:5])
    assert np.array_equal(stored, PICTURES[2:5] + 2) and running.prepared
    for name in ("fog", "contrast"):
        running._corrupted(name, 1, PICTURES[2:5], shown, NUMBERS[2:5])
    assert running.published == {"fog"}
    assert running._corrupted("contrast", 3, PICTURES[2:5], shown, NUMBERS[2:5]).shape == (3, 32, 32, 3)
    assert not running.prepared
    (root / "CIFAR-10-C" / MANIFEST).write_text('{"fog": {"sha256": "", "bytes": 0, "settings": {"seed": 0}}}')
    running = evaluations(config)["robustness"](config.evaluate, 0)
    running._corrupted("fog", 1, PICTURES[2:5], shown, NUMBERS[2:5])
    assert not running.published
    shown.labels = NUMBERS.flip(0)
    with pytest.raises(UserError, match="other images than the test images"):
        running._corrupted("fog", 3, PICTURES, shown, NUMBERS)
    path = root / "CIFAR-10-C" / "fog.npy"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"fog\.npy is truncated"):
        running._corrupted("fog", 3, PICTURES, shown, NUMBERS)


def test_the_files_of_cifar10_c_are_read_under_a_limit_too(colour):
    config, _, root = colour
    config = pipelines.configure("sdnet/resnet18", "cifar10", ["MODEL.WIDTH", "0.05", "DATA.LIMIT", "4"])
    kept = NUMBERS[::2]  # they lie ordered by class, so a limit leaves every second of eight
    images = Pixels.of(config).normalised(torch.from_numpy(PICTURES[::2]).permute(0, 3, 1, 2) / 255)
    shown = View(images, kept, torch.arange(4), Predictor(pipelines.build(config).eval()), root=root)
    running = evaluations(config)["robustness"](config.evaluate, 0)
    assert np.array_equal(running._corrupted("fog", 3, PICTURES[::2], shown, torch.arange(4)), PICTURES[::2] + 2)
    assert np.array_equal(running._corrupted("fog", 5, PICTURES[2:5:2], shown, torch.arange(1, 3)), PICTURES[2:5:2] + 4)
    shown.indices = torch.arange(1, 5)
    with pytest.raises(UserError, match="other images than the test images"):
        running._corrupted("fog", 3, PICTURES[::2], shown, torch.arange(4))


def test_images_of_a_size_without_corruptions_are_refused():
    config = pipelines.configure("sdnet/resnet18", "digits", ["MODEL.WIDTH", "0.05"])
    net = Predictor(pipelines.build(config).eval())
    shown = View(torch.zeros(2, 1, 28, 28), torch.zeros(2, dtype=torch.int64), torch.arange(2), net)
    with pytest.raises(UserError, match="images of 32x32, 64x64, 224x224, not 28x28"):
        evaluations(config)["robustness"](config.evaluate, 0).update(shown)


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (["MODEL.LAMBDA", "-0.1"], "values of at least 0"),
        (["EVALUATE.LAMBDAS", "[-0.1,0.2]"], "values of at least 0"),
        (["EVALUATE.LAMBDAS", "[0.2,0.1]"], "increasing values"),
        (["EVALUATE.ATTACK_LAMBDAS", "[-1.0]"], "values of at least 0"),
        (["MODEL.WIDTH", "0"], "greater than 0"),
        (["DATA.VALIDATION_CHOICE", "test"], "needs EVALUATE.PROTOCOL authors"),
    ],
)
def test_bad_settings_are_told_in_a_sentence(pairs, sentence):
    with pytest.raises(UserError, match=sentence):
        configured("sdnet18", *pairs)


def test_a_list_of_lambdas_has_one_for_all_layers_or_one_for_each():
    with pytest.raises(
        UserError, match=r"MODEL\.LAMBDA must have 1 value or 17, one for each layer of sdnet18_all, not 2"
    ):
        pipelines.build(configured("sdnet18_all", "MODEL.LAMBDA", "[0.1,0.2]"))


def test_a_dictionary_with_a_zero_atom_is_refused(tmp_path):
    from safetensors.torch import save_file

    from stillpoint.core.runs.checkpoint import load_weights

    net = pipelines.build(configured())
    state = {name: value.clone() for name, value in net.state_dict().items()}
    state["stem.0.weight"][1] = 0
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises((UserError, RuntimeError), match=r"atoms \[1\] are zero"):
        load_weights(net, tmp_path / "weights.safetensors", model="sdnet/sdnet18")


def test_the_defaults_are_the_authors():
    config = pipelines.without_recipe("sdnet/sdnet18", "cifar10")
    assert isinstance(config.evaluate, EvaluateConfig)
    assert config.evaluate.lambdas == tuple(np.linspace(0.1, 1.4, 14).round(1)) and config.evaluate.noise_levels == 10
