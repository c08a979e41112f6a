"""What needs a package that need not be installed: used where it is there, named in one sentence where it is not.

The packages are stood in for by modules of their own form, so the same is tested on every machine.
"""

import sys
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.data.build import images
from stillpoint.core.evaluation.attack import project
from stillpoint.core.evaluation.engine import Predictor
from stillpoint.core.evaluation.registry import View
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.sdnet import events
from stillpoint.pipelines.sdnet.evaluate import evaluations, measured


def configured(*pairs):
    return pipelines.configure("sdnet/sdnet18", "digits", ["MODEL.WIDTH", "0.05", *pairs])


class Writer:
    """The part of SummaryWriter that is used; keeps what it was given."""

    written: ClassVar[dict[str, np.ndarray]] = {}

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def add_images(self, tag, pictures, step):
        Writer.written[tag] = np.asarray(pictures)


@pytest.fixture
def run(tmp_path):
    run = Run("sdnet", "digits", "sdnet18_all_noshortcut", 0, tmp_path)
    run.folder.mkdir(parents=True)
    pixels = np.random.RandomState(0).normal(0.5, 0.4, (6, 3, 1, 32, 32))
    save_file({"trained/reconstructions_pixels": pixels}, run.maps)
    return run


def test_tensorboard_gets_the_stem_and_every_stage_in_three_ways(run, monkeypatch):
    stand_in = ModuleType("torch.utils.tensorboard")
    stand_in.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    monkeypatch.setattr(torch.utils, "tensorboard", stand_in, raising=False)
    Writer.written = {}
    config = configured("EVALUATE.TENSORBOARD", "True")
    assert "reconstructions" in evaluations(config)
    measured(config, run)
    places = ["stem", *(f"stage {k}" for k in (1, 2, 3, 4))]
    assert set(Writer.written) == {"image", *(f"{p}/{k}" for p in places for k in ("raw", "normalised", "equalised"))}
    assert all(
        found.shape == (3, 1, 32, 32) and 0 <= found.min() <= found.max() <= 1 for found in Writer.written.values()
    )
    stretched = Writer.written["stage 4/normalised"]
    assert stretched.min((1, 2, 3)).tolist() == [0] * 3 and stretched.max((1, 2, 3)).tolist() == [1] * 3
    Writer.written = {}
    measured(configured(), run)
    assert not Writer.written


def test_without_tensorboard_the_setting_is_refused_before_anything_is_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.delattr(torch.utils, "tensorboard", raising=False)
    with pytest.raises(
        UserError, match=r"EVALUATE.TENSORBOARD needs TensorBoard.*pip install 'stillpoint\[tensorboard\]'"
    ):
        evaluations(configured("EVALUATE.TENSORBOARD", "True"))
    assert "reconstructions" in evaluations(configured())


def test_a_network_without_reconstructions_writes_no_events(run, monkeypatch):
    stand_in = ModuleType("torch.utils.tensorboard")
    stand_in.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    save_file({"trained/other": np.zeros(1)}, run.maps)
    assert events.write(run) is None and not (run.folder / "tensorboard").exists()


def attacker(reach):
    """A package whose attack moves every picture by `reach` times what it may, and says how it was called."""
    module, calls = ModuleType("autoattack"), []

    class AutoAttack:
        def __init__(self, model, norm, eps, seed, version, device, verbose):
            calls.append({"norm": norm, "eps": eps, "version": version, "seed": seed})
            self.model, self.norm, self.eps = model, {"Linf": "linf", "L2": "l2"}[norm], eps

        def run_standard_evaluation(self, pixels, labels, bs):
            assert self.model(pixels).shape == (bs, 10) and 0 <= pixels.min() <= pixels.max() <= 1
            return pixels + reach * project(torch.ones_like(pixels), self.norm, self.eps)

    module.AutoAttack = AutoAttack
    module.__spec__ = type(sys.__spec__)("autoattack", None)
    return module, calls


def view(config, root):
    found = images(config, "test", root).sample(8)
    pixels = (found.images.float() / 255 - found.mean[0]) / found.std[0]
    net = pipelines.build(config).eval()
    return View(pixels, found.labels, torch.arange(8), Predictor(net), root=root, image_set=found)


def test_autoattack_is_run_on_some_images_in_both_norms_as_its_package_does(tmp_path, monkeypatch):
    module, calls = attacker(1.0)
    monkeypatch.setitem(sys.modules, "autoattack", module)
    config = configured("EVALUATE.LIMIT_ATTACK", "6")
    running = evaluations(config)["autoattack"](config.evaluate, 3)
    shown = view(config, tmp_path)
    running.update(shown)
    assert [(call["norm"], call["eps"], call["seed"]) for call in calls] == [("Linf", 8 / 255, 3), ("L2", 0.5, 3)]
    found = running.compute()
    assert found.pop("autoattack_authors_package") == 1
    assert set(found) == {"autoattack_linf_accuracy", "autoattack_l2_accuracy"}
    # six of the eight images: a share of sixths
    assert all((6 * value) == pytest.approx(round(6 * value)) for value in found.values())


def test_torchattacks_is_used_where_the_authors_package_is_not(tmp_path, monkeypatch):
    module, calls = ModuleType("torchattacks"), []

    class AutoAttack:
        def __init__(self, model, norm, eps, version, n_classes, seed):
            calls.append((norm, eps, version, n_classes, seed))
            self.model, self.norm, self.eps = model, {"Linf": "linf", "L2": "l2"}[norm], eps

        def __call__(self, pixels, labels):
            assert isinstance(self.model, torch.nn.Module) and not self.model.training
            assert not any(parameter.requires_grad for parameter in self.model.parameters())
            torch.manual_seed(7)
            return pixels + project(torch.ones_like(pixels), self.norm, self.eps)

    module.AutoAttack = AutoAttack
    module.__spec__ = type(sys.__spec__)("torchattacks", None)
    monkeypatch.setitem(sys.modules, "autoattack", None)
    monkeypatch.setitem(sys.modules, "torchattacks", module)
    config = configured()
    running, shown = evaluations(config)["autoattack"](config.evaluate, 3), view(config, tmp_path)
    before = torch.get_rng_state()
    running.update(shown)
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.requires_grad for parameter in shown.predict.net.parameters())
    assert calls == [("Linf", 8 / 255, "standard", 10, 3), ("L2", 0.5, "standard", 10, 3)]
    assert running.compute()["autoattack_authors_package"] == 0


def test_an_attack_that_leaves_its_ball_is_not_believed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "autoattack", attacker(1.5)[0])
    config = configured()
    running = evaluations(config)["autoattack"](config.evaluate, 0)
    with pytest.raises(UserError, match=r"more than the allowed 0\.0314"):
        running.update(view(config, tmp_path))


def test_the_euclidean_ball_is_checked_too(tmp_path, monkeypatch):
    module, _ = attacker(1.0)
    honest = module.AutoAttack.run_standard_evaluation

    def wide(self, pixels, labels, bs):
        found = honest(self, pixels, labels, bs)
        return pixels + 3 * (found - pixels) if self.norm == "l2" else found

    module.AutoAttack.run_standard_evaluation = wide
    monkeypatch.setitem(sys.modules, "autoattack", module)
    config = configured()
    running = evaluations(config)["autoattack"](config.evaluate, 0)
    with pytest.raises(UserError, match=r"by 1\.5000 in the l2 norm, more than the allowed 0\.5000"):
        running.update(view(config, tmp_path))


def test_without_its_package_autoattack_is_not_offered(monkeypatch):
    for package in ("autoattack", "torchattacks"):
        monkeypatch.setitem(sys.modules, package, None)
    config = configured()
    with pytest.raises(UserError, match="autoattack needs a package: pip install --no-deps torchattacks"):
        evaluations(config)["autoattack"](config.evaluate, 0)
