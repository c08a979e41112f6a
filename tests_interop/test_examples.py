"""The examples run and say what the metrics say by themselves: make interop (needs the extra `interop`)."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from examples import bare_loop, hugging_face, lightning_module
from stillpoint import measure, metrics

ROOT = Path(__file__).parent.parent
COMMANDS = re.findall(r"^\$ python (.*)$", (ROOT / "docs" / "libraries.md").read_text(), re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_on_libraries_runs_in_a_clone(command):
    done = subprocess.run([sys.executable, *shlex.split(command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout and len(COMMANDS) == 3


def test_a_bare_loop_says_what_measure_says():
    tables = bare_loop.main(epochs=6)
    for found in tables:
        assert found["accuracy"] > 0.8 and found["worst_accuracy"] < found["accuracy"]
        assert 0 < found["flip_rate"] < 1 and 0 < found["consistency"] < 1
    torch.manual_seed(1)
    net, (images, labels) = bare_loop.network(), bare_loop.digits()
    alone = bare_loop.measured(net, images[:200], labels[:200])
    whole = measure(net, images[:200], labels[:200], max_shift=2, batch_size=100)
    assert alone["accuracy"] == whole["accuracy"] and alone["consistency"] == whole["circular_consistency"]
    assert abs(alone["logit_change"] / whole["circular_max_logit_change"] - 1) < 1e-4


def test_lightning_logs_the_metrics():
    found = lightning_module.main(epochs=2)
    assert set(found) == {"accuracy", "consistency", "logit_change"} and found["accuracy"] > 0.5
    assert 0.1 < found["consistency"] < 1


def test_lightnings_sums_are_those_of_the_metric(monkeypatch):
    kept = []
    monkeypatch.setattr(
        lightning_module.Classifier, "on_validation_epoch_end", lambda self: kept.append(self.net.state_dict())
    )
    found = lightning_module.main(epochs=1)
    images, _ = bare_loop.digits()
    net = bare_loop.network()
    net.load_state_dict(kept[-1])
    consistency, change = metrics.ShiftConsistency(max_shift=2), metrics.LogitChange(max_shift=2)
    for part in images[1500:].split(100):
        consistency.update(net, part)
        change.update(net, part)
    # Lightning keeps its numbers in float32
    assert abs(found["consistency"] - float(consistency.compute())) < 1e-6
    assert abs(found["logit_change"] / float(change.compute()) - 1) < 1e-6


def test_a_trainer_evaluates_arrays_and_shifts():
    found = hugging_face.main(epochs=2)
    assert found["eval_accuracy"] > 0.6
    assert 0 < found["eval_flip_rate"] < 1 and 0.2 < found["eval_consistency"] < 1 and found["eval_logit_change"] > 0


def test_a_segmentation_network_of_another_library_is_measured():
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    net = smp.Unet("resnet18", encoder_weights=None, classes=4)
    found = measure(net, torch.randn(2, 3, 64, 64))
    assert 0.2 < found["maps_agreement"] < 1 and found["images"] == 2
    # what does not stride moves exactly but for its border, which is that of zeros
    dense = nn.Sequential(nn.Conv2d(3, 4, 1))
    assert measure(dense, torch.randn(2, 3, 64, 64))["maps_agreement"] == 1
