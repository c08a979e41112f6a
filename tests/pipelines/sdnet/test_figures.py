"""The pictures can be read in grey: lines and points differ in more than colour."""

import numpy as np
import pytest

from stillpoint.pipelines.sdnet import figures
from stillpoint.pipelines.sdnet.robust import NOISES

MODELS = ("sdnet18", "sdnet18_all", "sdnet18_all_noshortcut")


@pytest.fixture
def kept(monkeypatch):
    found = []
    monkeypatch.setattr(figures, "save", lambda figure, path: (found.append(figure), path)[1])
    return found


def test_an_attack_s_lines_differ_in_marker_and_stroke(tmp_path, kept):
    curves = np.arange(6.0).reshape(3, 2) / 10
    maps = {"attack_lambdas": np.array([0.1, 0.5]), "attack_linf_curves": curves, "attack_l2_curves": curves}
    figures.attack({model: [maps] for model in MODELS}, ["resnet18", *MODELS], tmp_path / "a.png", title="t")
    for axis in kept[0].axes:
        looks = [(line.get_marker(), line.get_linestyle()) for line in axis.get_lines()]
        assert len(looks) == 9 and len(set(looks)) == 9


def test_each_noise_s_line_has_a_stroke_of_its_own(tmp_path, kept):
    maps = {
        "robustness_sweep_accuracy": np.eye(9, 3),
        "robustness_sweep_errors": np.arange(9.0),
        "robustness_sweep_conditions": np.array([[0, 0.0], *([n, level] for n in (1, 2, 3, 4) for level in (1, 2))]),
        "robustness_sweep_lambdas": np.array([0.1, 0.5, 1.0]),
        "robustness_sweep_lines": np.array([[0.1, 0.0, 0.5]] * 5),
    }
    figures.lambda_line({"sdnet18": [maps]}, tmp_path / "a.png", title="t")
    fitted = [line for line in kept[0].axes[0].get_lines() if line.get_marker() == "None"]
    # matplotlib's own name of a stroke does not tell two patterns of dashes apart
    strokes = {str(line._unscaled_dash_pattern) for line in fitted}
    assert len(fitted) == len(strokes) == len(NOISES) + 1
    figures.lambda_sweep({"sdnet18": [maps]}, tmp_path / "b.png", title="t")
    assert {axis.get_legend().get_title().get_text() for axis in kept[1].axes} == {"level"}
