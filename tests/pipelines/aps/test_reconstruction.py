import pytest
import torch
from torch import nn
from torch.nn import functional

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.randomness import generator
from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.data.pairs import PairLoader, PairSet
from stillpoint.core.data.shifts import roll
from stillpoint.core.evaluation.engine import evaluate
from stillpoint.core.metrics import psnr
from stillpoint.pipelines.aps.reconstruction import EVALUATIONS, FINEST
from stillpoint.pipelines.cli import main


class Blur(nn.Module):
    """Moves with its input exactly."""

    def forward(self, x):
        return (x + x.roll(1, 3)) / 2


class Fixed(nn.Module):
    """Does not move: every second column is set to its neighbour."""

    def forward(self, x):
        return functional.interpolate(x[..., ::2, ::2], scale_factor=2)


def pairs(count=6):
    inputs = torch.rand(count, 1, 16, 16, generator=generator("u-net"))
    return PairSet(inputs, inputs * 2, "", "")


def measured(net, *names, batch_size=4, repeats=3):
    config = EvaluateConfig(metrics=names or tuple(EVALUATIONS), max_shift=5, repeats=repeats)
    return evaluate(net, PairLoader(pairs(), batch_size), config, evaluations=EVALUATIONS)


def test_what_moves_exactly_reaches_the_finest_decibels_and_nothing_infinite():
    found = measured(Blur())
    names = [name for name in found if name.endswith("_psnr") and name.startswith("equivariance")]
    assert len(names) == 4
    for name in names:
        assert found[name] == pytest.approx(FINEST) and found[name.replace("psnr", "nmse")] == 0
    assert 138 < FINEST < 139 and found["equivariance_psnr_change"] < 1e-9


def test_a_fixed_grid_does_not_move_and_the_definition_says_by_how_much():
    found = measured(Fixed())
    assert found["equivariance_psnr"] < 40 and found["equivariance_psnr_change"] > 0
    config, net, images = EvaluateConfig(metrics=("equivariance",), max_shift=1, repeats=1), Fixed(), pairs().inputs
    small = evaluate(net, PairLoader(pairs(), 4), config, evaluations=EVALUATIONS)
    # shifts by -1 or 0 on each axis: the mean is between the best and the worst of the four
    each = [
        psnr(roll(net(images), s), net(roll(images, s))).clamp(max=FINEST).mean()
        for s in ((0, 0), (-1, 0), (0, -1), (-1, -1))
    ]
    assert min(each) <= small["equivariance_psnr"] <= max(each)


def test_quality_is_that_of_the_output_against_the_target():
    class Twice(nn.Module):
        def forward(self, x):
            return x * 2

    found = measured(Twice(), "reconstruction")
    assert found["reconstruction_nmse"] == 0 and found["reconstruction_ssim"] == pytest.approx(1)
    found = measured(Blur(), "reconstruction")
    blurred = Blur()(pairs().inputs)
    assert found["reconstruction_psnr"] == pytest.approx(float(psnr(pairs().labels, blurred).mean()))


def test_results_do_not_depend_on_the_batch_size():
    assert measured(Fixed(), batch_size=1) == measured(Fixed(), batch_size=6)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("fastmri", {"EPOCHS": 50, "BATCH_SIZE": 16, "LR": 1e-3, "STEP_EPOCHS": 5, "GAMMA": 0.5, "CLAMP": 6.0}),
        ("lodopab", {"EPOCHS": 20, "BATCH_SIZE": 8, "LR": 0.01, "STEP_EPOCHS": 5, "GAMMA": 0.1, "CLAMP": None}),
    ],
)
def test_recipes_say_what_the_paper_did(recipe, expected):
    for variant, rolled in ((recipe, 0), (f"{recipe}_shifted", 16)):
        config = pipelines.configure("aps/UNet_4down_aps", variant).dump()
        assert {key: config["TRAIN"][key] for key in expected} == expected
        assert config["TRAIN"]["OPTIMIZER"] == "adam" and config["TRAIN"]["LOSS"] == "mse"
        assert config["TRAIN"]["CLIP_NORM"] == 1 and config["AUGMENT"]["ROLL"] == rolled
        assert config["MODEL"]["CONV_PADDING"] == "circular" and config["EVALUATE"]["MAX_SHIFT"] == 16


def test_u_nets_are_trained_and_measured_by_the_command_line(tmp_path, capsys):
    tiny = [
        "TRAIN.EPOCHS",
        "1",
        "DATA.LIMIT",
        "32",
        "MODEL.WIDTH",
        "0.03125",
        "TRAIN.BATCH_SIZE",
        "16",
        "EVALUATE.REPEATS",
        "1",
    ]
    place = ["--data", str(tmp_path / "data"), "--device", "cpu"]
    for name in ("UNet_3down", "UNet_3down_aps"):
        words = [f"aps/{name}", "--recipe", "digits_undersampled", "--results", str(tmp_path / "results")]
        assert main(["train", *words, *place, *tiny]) == 0
        run = tmp_path / "results" / "aps" / "digits_undersampled" / name / "seed0"
        assert main(["evaluate", str(run), *place]) == 0
    told = capsys.readouterr().out
    assert "training loss" in told and "accuracy" not in told
    options = ["aps", "--recipe", "digits_undersampled", "--results", str(tmp_path / "results")]
    assert main(["table", *options]) == 0 and main(["figures", *options]) == 0
    folder = tmp_path / "results" / "aps" / "digits_undersampled"
    head = (folder / "table.md").read_text()
    assert "PSNR of shifted against shifting (dB)" in head and "accuracy" not in head
    assert {path.name for path in (folder / "figures").iterdir()} == {"equivariance_quality.png", "learning_curves.png"}


def test_classifiers_and_u_nets_do_not_share_data_or_protocols():
    with pytest.raises(UserError, match="does not support digits"):
        pipelines.configure("aps/UNet_3down", "digits")
    with pytest.raises(UserError, match="does not support fastmri"):
        pipelines.configure("aps/resnet18", "fastmri")
    with pytest.raises(UserError, match="aps has only one protocol"):
        pipelines.configure("aps/UNet_4down", "fastmri", ["EVALUATE.PROTOCOL", "authors"])
