"""A backbone is its own file and one line, or none: a toy comes to a cell of a table, and says itself what its stages,
its stem and its head are; and so do all that there are."""

import csv
import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from stillpoint.core.backbones.backbone import Backbone
from stillpoint.core.base.lookup import find
from stillpoint.core.config.slot import BACKBONES
from stillpoint.core.layers import downsample_factory
from stillpoint.core.layers.slots import activation_factory, norm_factory
from stillpoint.pipelines.cli import main

ROOT = Path(__file__).resolve().parents[2]
FILE = '''"""Two convolutions, each with a slot."""

import torch
from torch import nn

from stillpoint.core.backbones.backbone import Backbone, Parts, scaled
from stillpoint.core.layers.downsample import at
from stillpoint.core.layers.slots import batch_norm, relu


class Toy(Backbone):
    def __init__(self, name, *, num_classes, in_channels, image_size, width, downsample=None, activation=relu,
                 norm=batch_norm):
        super().__init__()
        self.in_channels, self.name = in_channels, name
        channels, before = scaled(32, width), in_channels
        for i in (1, 2):
            slot = at(downsample, f"pool{i}")
            self.add_module(f"conv{i}", nn.Conv2d(before, channels, 3, padding=1))
            self.add_module(f"act{i}", nn.Sequential(norm(channels), activation(channels)))
            self.add_module(f"pool{i}", nn.AvgPool2d(2) if slot is None else slot(channels, 2))
            before, channels = channels, 2 * channels
        self.fc = nn.Linear(before, num_classes)

    def parts(self):
        return Parts(("conv1", "act1", "pool1"), ("pool2",), ("fc",), ("conv1", "pool1", "conv2", "pool2"))

    def forward_features(self, x):
        for step in ("conv1", "act1", "pool1", "conv2", "act2", "pool2"):
            x = self.part(step)(x)
        return x

    def forward(self, x):
        return self.fc(self.forward_features(x).mean((2, 3)))
'''


@pytest.fixture(params=["toy", "toy_backbone:Toy"])
def arch(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "toy_backbone.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "toy_backbone", raising=False)
    if request.param == "toy":
        monkeypatch.setitem(BACKBONES, "toy", "toy_backbone:Toy")
    return request.param


def _repository() -> str:
    return subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout


def test_it_comes_to_a_cell_of_a_table_and_changes_no_file(arch: str, tmp_path: Path) -> None:
    before = _repository()
    own = ["MODEL.ARCH", arch, "MODEL.WIDTH", "0.125"]
    pairs = [*own, "TRAIN.EPOCHS", "1", "DATA.LIMIT", "64", "EVALUATE.METRICS", "[accuracy, feature_distance]"]
    place = ["--data", str(tmp_path / "data"), "--device", "cpu"]
    assert main(["train", "blurpool/resnet18_lpf3", *place, *pairs]) == 0
    run = tmp_path / "results" / "blurpool" / "digits" / "resnet18_lpf3" / "seed0"
    assert main(["evaluate", str(run), *place, *pairs[-2:]]) == 0
    assert main(["table", "blurpool", *pairs]) == 0
    measured = json.loads((run / "metrics.json").read_text())["trained"]
    with (run.parents[1] / "table.csv").open() as file:
        rows = {(row["network"], row["state"], row["metric"]): row for row in csv.DictReader(file)}
    assert float(rows["resnet18_lpf3", "trained", "accuracy"]["mean"]) == pytest.approx(100 * measured["accuracy"])
    # the layers are those that it names
    maps = {name.partition("/")[2] for name in load_file(run / "maps.safetensors") if name.startswith("trained/")}
    layers = ("conv1", "pool1", "conv2", "pool2")
    assert {f"feature_distance_map:{i:02d}:{name}" for i, name in enumerate(layers)} <= maps
    assert _repository() == before


def made(name: str, image_size: int = 96, width: float = 0.125, **options) -> Backbone:
    if name.startswith("resnext"):
        width = 1.0
    options = {"num_classes": 7, "in_channels": 3, "image_size": image_size, "width": width, **options}
    with torch.device("meta"):
        return find("backbone", name, BACKBONES)(name, **options)


#: one of each form
FORMS = (
    "alexnet",
    "vgg11",
    "vgg11_bn",
    "resnet18",
    "resnet20",
    "resnet50",
    "densenet121",
    "mobilenet_v2",
    "convnet",
    "speednet",
)


@pytest.mark.parametrize("name", FORMS)
def test_every_backbone_says_its_parts_by_the_same_words(name: str) -> None:
    net = made(name)
    parts = net.parts()
    assert all(
        isinstance(net.part(path), nn.Module) for path in (*parts.stem, *parts.stages, *parts.head, *parts.layers)
    )
    size = 96 if name == "convnet" else 224
    x = torch.zeros(2, 3, size, size, device="meta")
    found: dict[str, tuple[int, ...]] = {}
    for feature in net.feature_info:
        hook = net.part(feature.name).register_forward_hook
        hook(lambda m, args, y, name=feature.name: found.update({name: tuple(y.shape)}))
    assert net.eval()(x).shape == (2, 7)
    assert [feature.name for feature in net.feature_info] == list(found)
    for feature in net.feature_info:
        _, channels, height, _ = found[feature.name]
        assert feature.channels == channels and feature.stride in (1, 2, 4, 8, 16, 32)
        # borders that a convolution does not pad cost some pixels
        assert 0 <= size / feature.stride - height < 10
    assert net.stem(x).shape[1] == net.feature_info[0].channels
    assert net.forward_features(x).shape[1] == found[net.feature_info[-1].name][1]
    assert any(isinstance(module, nn.Linear) for module in net.head.modules())


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "vgg11_bn", "densenet121", "mobilenet_v2", "convnet", "speednet", "alexnet"]
)
def test_every_backbone_takes_what_stands_in_its_slots(name: str) -> None:
    net = (
        made(name, downsample=downsample_factory("polyphase"), activation=Bent, norm=norm_factory("group"))
        if name not in ("alexnet",)
        else made(name, downsample=downsample_factory("polyphase"), activation=Bent)
    )
    kinds = [type(module) for module in net.modules()]
    assert nn.ReLU not in kinds or name in ("vgg11_bn", "alexnet")
    assert nn.BatchNorm2d not in kinds
    assert kinds.count(Bent) > 1
    x = torch.zeros(2, 3, 96, 96, device="meta")
    assert net(x).shape == (2, 7)
    owners = {id(p) for module in net.modules() if isinstance(module, Bent) for p in module.parameters()}
    assert len(owners) == kinds.count(Bent), "each place has an activation of its own"


class Bent(nn.Module):
    """An activation with a parameter for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        slope = self.slope if x.ndim == 2 else self.slope[:, None, None]
        return torch.where(x > 0, x, x * slope)


def test_an_activation_in_a_network_is_one_line_of_configuration(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "toy_activation.py").write_text("from tests.contracts.test_backbone import Bent\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    from stillpoint import pipelines

    net = pipelines.create("aps/resnet20", dataset="digits", activation="toy_activation:Bent", norm="group")
    assert sum(type(m).__name__ == "Bent" for m in net.modules()) == 1 + 9 * 2
    assert any(isinstance(m, nn.GroupNorm) for m in net.modules())
    assert isinstance(activation_factory("silu")(3), nn.SiLU)
