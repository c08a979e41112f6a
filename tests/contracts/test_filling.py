"""A filling of the slot is its own file and one line, or none: a toy with parameters, and another in training than in
evaluation, comes to a cell of a table, and every paper's networks take it as they are."""

import csv
import json
import subprocess
from pathlib import Path

import pytest
import torch

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.slot import FILLINGS, Filling
from stillpoint.core.layers import Downsample, SoftGrid
from stillpoint.pipelines.cli import main

ROOT = Path(__file__).resolve().parents[2]
FILE = '''"""Mixes the grids by what it learns in training, and takes the best one otherwise."""

from torch import nn

from stillpoint.core.layers import Downsample, SoftGrid, Subsample, polyphase_components, sample_at


class Learned(Downsample):
    chooses = True

    def __init__(self, channels, stride=2, *, hidden=4, device=None, dtype=None):
        super().__init__()
        self.stride = (stride, stride)
        self.first = nn.Linear(channels, hidden, device=device, dtype=dtype)
        self.second = nn.Linear(hidden, 1, device=device, dtype=dtype)

    def scores(self, x):
        means = polyphase_components(x.abs(), stride=self.stride).double().mean((3, 4)).to(x.dtype)
        return self.second(self.first(means).relu())[..., 0]

    def choose(self, x):
        scores = self.scores(x)
        return SoftGrid(scores.softmax(1), scores) if self.training else scores.argmax(1)

    def sample(self, x, grid=None):
        return sample_at(x, grid, stride=self.stride)

    def follower(self, channels):
        return Subsample(channels, self.stride)
'''
TINY = ["TRAIN.EPOCHS", "1", "DATA.LIMIT", "64", "MODEL.WIDTH", "0.25", "TRAIN.LR", "0.01", "EVALUATE.REPEATS", "2"]


@pytest.fixture(params=["toy", "toy_filling:Learned"])
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the toy: by its line in the table, or by its module alone."""
    (tmp_path / "toy_filling.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "toy_filling", raising=False)
    if request.param == "toy":
        monkeypatch.setitem(FILLINGS, "toy", Filling("toy_filling:Learned", ("hidden",)))
    return request.param


def _repository() -> str:
    return subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout


def test_it_comes_to_a_cell_of_a_table_and_changes_no_file(kind: str, tmp_path: Path) -> None:
    before = _repository()
    pairs = [*TINY, "MODEL.DOWNSAMPLE", kind, "MODEL.FILLING", "[hidden=3]"]
    place = ["--data", str(tmp_path / "data"), "--device", "cpu"]
    assert main(["train", "aps/resnet20", *place, *pairs]) == 0
    run = tmp_path / "results" / "aps" / "digits" / "resnet20" / "seed0"
    assert main(["evaluate", str(run), *place]) == 0
    assert main(["table", "aps", *pairs]) == 0
    measured = json.loads((run / "metrics.json").read_text())["trained"]
    with (run.parents[1] / "table.csv").open() as file:
        rows = {(row["network"], row["state"], row["metric"]): row for row in csv.DictReader(file)}
    cell = rows["resnet20", "trained", "circular_consistency"]
    # what it chooses in evaluation moves with the image
    assert float(cell["mean"]) == 100 * measured["circular_consistency"] == 100
    net = pipelines.load("aps/resnet20", recipe="digits", results=tmp_path / "results").net
    assert [m.first.out_features for m in net.modules() if getattr(m, "chooses", False)] == [3, 3]
    assert _repository() == before


@pytest.mark.parametrize(
    ("name", "dataset", "more"),
    [
        ("aps/resnet20", "digits", {}),
        ("aps/UNet_3down", "digits_undersampled", {"width": 0.0625}),
        ("blurpool/vgg11", "cifar10", {}),
        ("blurpool/resnet50", "imagenet", {"pool_only": False}),
        ("blurpool/densenet121", "cifar10", {}),
        ("blurpool/mobilenet_v2", "cifar10", {}),
        ("sdnet/sdnet18_all", "digits", {}),
        ("translations/TwoConvTwoFullNet", "digits", {"width": 1.0}),
        ("wavelet_twins/R18wyC", "cifar10", {}),
    ],
)
def test_the_networks_of_every_paper_take_it(kind: str, name: str, dataset: str, more: dict) -> None:
    settings = {"width": 0.125, **more, "downsample": kind, "filling": "[hidden=2]"}
    net = pipelines.create(name, dataset=dataset, **settings)
    chosen = []
    for module in net.modules():
        if isinstance(module, Downsample) and module.chooses:
            module.register_forward_hook(lambda m, args, y: chosen.append(m))
    channels = pipelines.without_recipe(name, dataset).data.name in ("cifar10", "imagenet")
    x = torch.randn(2, 3 if channels else 1, 32, 32)
    net.train()(x).square().mean().backward()
    assert chosen and all(m.second.weight.grad is not None for m in chosen)
    idle = [name for name, p in net.named_parameters() if p.grad is None]
    assert not idle
    assert net.eval()(x).isfinite().all()


def test_one_place_is_filled_otherwise(kind: str) -> None:
    items = "[hidden=5, 'layer3.*:hidden=2', 'maxpool.0:downsample=blur', 'maxpool.0:size=2']"
    net = pipelines.create("aps/resnet18_aps1", width=0.125, downsample=kind, filling=items, filter_size=None)
    found = {name: m for name, m in net.named_modules() if isinstance(m, Downsample) and "downsample" not in name}
    assert [type(m).__name__ for m in found.values()] == ["BlurPool2d", "Learned", "Learned", "Learned", "Learned"]
    assert found["maxpool.0"].size == 2 and found["maxpool.2"].first.out_features == 5
    assert found["layer3.0.pool"].first.out_features == 2 and found["layer4.0.pool"].first.out_features == 5


def test_an_option_that_it_does_not_have_is_refused(kind: str) -> None:
    with pytest.raises((UserError, ValueError), match=f"{kind} has .*hidden.*, .*width"):
        pipelines.create("aps/resnet20", dataset="digits", downsample=kind, filling="[width=3]")
    for item, words in {"hidden": "OPTION=VALUE or PLACE:OPTION=VALUE, not 'hidden'", "x:=3": "not 'x:=3'"}.items():
        with pytest.raises(UserError, match=words):
            pipelines.create("aps/resnet20", dataset="digits", downsample=kind, filling=f"['{item}']")


def test_its_grid_is_soft_in_training_and_hard_in_evaluation(kind: str) -> None:
    net = pipelines.create("aps/resnet20", dataset="digits", width=0.25, downsample=kind)
    seen = []
    net.layer2[0].downsample.pool.register_forward_pre_hook(lambda m, args: seen.append(args[1]))
    x = torch.randn(2, 1, 16, 16)
    net.train()(x)
    net.eval()(x)
    assert isinstance(seen[0], SoftGrid) and seen[1].dtype == torch.int64
