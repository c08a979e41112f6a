"""What a workflow would cost: the estimate counts steps, images and sides right, for every kind of data set."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from stillpoint import pipelines
from stillpoint.pipelines.cli import main
from stillpoint.pipelines.commands import dry_run


class Counting(nn.Module):
    """A classifier whose clock goes on by the pixels it is given; three times as much with gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(10))
        self.clock, self.batches = 0, []

    def forward(self, x: Tensor) -> Tensor:
        self.clock += x[:, 0].numel() * (3 if torch.is_grad_enabled() else 1)
        self.batches.append(len(x))
        return x.mean((1, 2, 3))[:, None] * self.scale


@pytest.mark.parametrize(("batch", "sides", "area"), [(64, "[]", 1024), (512, "[]", 1024), (512, "[16, 32]", 640)])
def test_a_step_is_timed_on_few_images_of_every_side(monkeypatch, batch, sides, area):
    pairs = ["TRAIN.BATCH_SIZE", str(batch), "TRAIN.EPOCHS", "6", "TRAIN.SIDES", sides]
    config = pipelines.configure("aps/resnet20", "digits", pairs=pairs)
    net = Counting()
    monkeypatch.setattr(pipelines, "build", lambda config: net)
    monkeypatch.setattr(dry_run, "time", SimpleNamespace(process_time=lambda: net.clock))
    told = []
    found = dry_run.cost(config, 1000, 100, lambda *told_now: told.append(told_now))
    assert [done for _, done, _ in told] == list(range(told[0][2])) and told[0][0] == "timings of this network"
    assert max(net.batches) <= dry_run.IMAGES
    assert found.step == 3 * batch * area and found.steps == -(-1000 // batch) * 6 and found.view == 1024


@pytest.mark.parametrize(
    ("network", "recipe", "pairs"),
    [
        ("aps/UNet_3down_aps", "lodopab", ["MODEL.WIDTH", "0.0625", "DATA.IMAGE_SIZE", "32"]),
        ("lps/deeplab_resnet20_lps3", "digits_segmentation", []),
        ("sdnet/sdnet18", "digits", []),
        ("translations/TwoConvTwoFullNet", "digits", []),
        ("wavelet_twins/R18zh3wyC_mod", "digits", []),
    ],
)
def test_every_kind_of_target_is_timed(network, recipe, pairs):
    config = pipelines.configure(network, recipe, pairs=[*pairs, "TRAIN.BATCH_SIZE", "4"])
    found = dry_run.cost(config, 8, 8)
    assert found.training > 0 and found.measuring > 0


def test_the_command_tells_at_once_and_trains_nothing(tmp_path, capsys):
    given = ["--results", str(tmp_path), "--seeds", "2", "GRID", "[strides, blur3]", "TRAIN.BATCH_SIZE", "16"]
    assert main(["run", "board", "--dry-run", *given]) == 0
    said = capsys.readouterr().out
    assert said.startswith("timing a few steps") and "2 networks with 2 seeds would take" in said and "0.00" not in said
    assert "strides" in said and "blur3" in said and not list(tmp_path.rglob("*.safetensors"))
