"""The sweep over networks of torchvision and timm: its count of strides, its table, the goals that it is held to."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import stillpoint
from stillpoint.core.layers import BlurPool2d

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def sweep() -> ModuleType:
    spec = importlib.util.spec_from_file_location("surgery_sweep", ROOT / "scripts" / "surgery_sweep.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["surgery_sweep"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bare() -> nn.Module:
    return nn.Conv2d(4, 4, 3, 2, 1)


def filtered() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), BlurPool2d(4))


def shortcut() -> nn.Module:
    return nn.Conv2d(4, 4, 1, 2)


def pooled() -> nn.Module:
    return nn.MaxPool2d(3, 2, 1)


def averaged() -> nn.Module:
    return nn.AvgPool2d(2)


class Sum(nn.Module):
    """The sum of what some layers give, behind a stem that strides."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.stem, self.layers = nn.Conv2d(3, 4, 3, 2, 1), nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.layers[0](x)
        for layer in self.layers[1:]:
            y = y + layer(x)
        return y


@pytest.mark.parametrize(
    ("layers", "overlapping", "half"),
    [
        ((bare, bare), 3, 0),
        ((bare, shortcut), 2, 0),
        ((filtered, filtered), 1, 0),
        ((filtered, bare), 2, 1),
        ((shortcut, filtered), 1, 1),
        ((filtered, pooled), 2, 1),
        ((filtered, filtered, bare), 2, 1),
        ((bare, averaged), 2, 0),
        ((filtered, averaged), 1, 0),
    ],
)
@torch.no_grad()
def test_an_addition_of_a_filtered_and_a_bare_map_is_counted(
    sweep: ModuleType, layers: tuple[Callable[[], nn.Module], ...], overlapping: int, half: int
) -> None:
    torch.manual_seed(0)
    found = sweep.seen(Sum(*(layer() for layer in layers)), torch.randn(1, 3, 32, 32))
    assert (found.count, found.half) == (overlapping, half)


@torch.no_grad()
def test_the_surgery_leaves_no_addition_half_filtered(sweep: ModuleType) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 32, 32)
    for layers, left in (((bare(), shortcut()), 1), ((bare(), nn.Conv2d(4, 4, 2, 2)), 2)):
        net = Sum(*layers)
        stillpoint.antialias(net, verbose=False)
        found = sweep.seen(net, x)
        assert (found.count, found.half) == (left, 0)


@pytest.mark.parametrize("policy", ["strided_conv", "max_pool"])
@torch.no_grad()
def test_what_the_policy_leaves_keeps_what_it_is_added_to(sweep: ModuleType, policy: str) -> None:
    torch.manual_seed(0)
    net = Sum(bare(), pooled())
    report = stillpoint.antialias(net, policy, verbose=False)
    found = sweep.seen(net, torch.randn(1, 3, 32, 32))
    assert (found.count, found.half, report.changes) == (3, 0, [])
    assert any("it is added to the output of" in reason for _, reason in report.left)
    # an average pool is a filter itself
    other = Sum(bare(), averaged())
    assert [change.name for change in stillpoint.antialias(other, "strided_conv", verbose=False).changes] == [
        "layers.0"
    ]


def test_the_table_is_whole_and_meets_the_goals(sweep: ModuleType) -> None:
    table = sweep.read(ROOT / "docs" / "surgery.csv")
    assert set(table) == {*(("torchvision", n) for n in sweep.TORCHVISION), *(("timm", n) for n in sweep.TIMM)}
    assert [row["network"] for row in table.values() if row["error"] or not row["bare"]] == []
    # no network that its original lets leave Python is kept there by its filters
    assert {row[way] for row in table.values() for way in sweep.DEPLOYED} <= {"yes", "-", "slow"}
    said = dict(sweep.summary(table.values()))
    treated, behind = said["of these, treated"].split()[0], said["their overlapping strides behind the stem"]
    assert int(treated) >= 0.95 * int(behind) > 500
    assert said["additions of a filtered and a bare map"] == "0"
    assert said["of these, taken by the treated networks"] == said["image sizes that the originals take"]
    page = (ROOT / "docs" / "antialias.md").read_text()
    assert sweep.MARKED.search(page)[0].splitlines()[2:-2] == sweep.markdown(list(said.items())).splitlines()
