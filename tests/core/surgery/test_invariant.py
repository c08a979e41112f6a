"""Networks made truly shift-invariant by surgery: under every circular shift the logits change by rounding only."""

import copy
import csv
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

import stillpoint
from stillpoint.core.surgery.antialias import Report
from stillpoint.core.surgery.shared_grid import FollowingSample2d, near_ties


def invariant(net: nn.Module, **options: object) -> Report:
    return stillpoint.antialias(net, downsample="polyphase", padding="circular", verbose=False, **options)


def change(net: nn.Module, x: Tensor, shifts: list[tuple[int, int]]) -> float:
    """Largest change of a logit, of the largest logit."""
    y = net(x)
    return max(float((net(x.roll(shift, (2, 3))) - y).abs().max() / y.abs().max()) for shift in shifts)


BUILDS: dict[str, Callable[[], nn.Module]] = {
    **{
        name: lambda name=name: timm.create_model(name)
        for name in (
            *("resnet10t", "resnet26d", "resnext26ts", "regnetx_002", "regnety_002", "seresnet18", "ecaresnet26t"),
            *("mobilenetv2_035", "mobilenetv3_small_050", "efficientnet_b0", "convnext_atto", "convnextv2_atto"),
        )
    },
    **{
        f"torchvision {name}": lambda name=name: getattr(models, name)(weights=None)
        for name in ("resnet18", "densenet121", "mobilenet_v3_small", "regnet_y_400mf")
    },
}


@pytest.mark.parametrize("name", BUILDS)
@torch.no_grad()
def test_no_circular_shift_changes_the_logits(name: str) -> None:
    torch.manual_seed(0)
    net, x = BUILDS[name]().eval(), torch.randn(1, 3, 64, 64)
    keys, before = list(net.state_dict()), change(net, x, [(1, 0)])
    invariant(net)
    assert list(net.state_dict()) == keys
    assert before > 1e-3 and change(net, x, [(1, 0), (5, 10)]) < 1e-5
    assert change(net.double(), x.double(), [(1, 0), (0, 1), (13, 30), (16, 8)]) < 1e-10


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
@torch.no_grad()
def test_no_shift_within_the_total_stride_changes_them_by_more_than_1e_10(name: str) -> None:
    torch.manual_seed(0)
    net = timm.create_model(name).eval().double()
    invariant(net)
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    y = net(x)
    for row in range(32):
        moved = torch.cat([x.roll((row, column), (2, 3)) for column in range(32)])
        assert (net(moved) - y).abs().max() < 1e-10 * y.abs().max()


@torch.no_grad()
def test_branches_that_meet_share_the_grid_of_the_first_that_runs() -> None:
    net = models.resnet18(weights=None).eval()
    report = invariant(net)
    after = {change.name: change.after for change in report.changes}
    assert after["layer2.0.downsample.0"].endswith("before it, on the grid of layer2.0.conv1")
    assert sum(isinstance(m, FollowingSample2d) for m in net.modules()) == 3
    assert len(report.changes) == 8 and "wrap around" in str(report)


@torch.no_grad()
def test_copies_and_pickles_keep_the_law_and_a_second_call_changes_nothing() -> None:
    torch.manual_seed(0)
    net, x = timm.create_model("test_resnet").eval(), torch.randn(2, 3, 64, 64)
    invariant(net)
    y = net(x)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x), y) and change(twin, x, [(3, 1)]) < 1e-5
    assert invariant(net).changes == [] and torch.equal(net(x), y)
    assert stillpoint.antialias(net, verbose=False).changes == []


def test_it_can_be_trained() -> None:
    net = timm.create_model("test_resnet")
    invariant(net)
    net(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@torch.no_grad()
def test_a_blur_before_the_choice_follows_the_law_too() -> None:
    torch.manual_seed(0)
    net, x = timm.create_model("test_resnet").eval().double(), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    from stillpoint.core.layers import downsample_factory

    make = downsample_factory("polyphase", size=3)
    stillpoint.antialias(net, downsample=make, padding="circular", verbose=False)
    assert change(net, x, [(1, 0), (6, 13)]) < 1e-10


def small(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), *layers)


class Step(nn.Module):
    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.step, self.table = step, nn.Parameter(torch.ones(1, 4, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.step(x) if self.step else x + self.table


END = (nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (small(nn.Flatten()), "flattens a map"),
        (small(nn.AdaptiveAvgPool2d(2), nn.Flatten()), "it pools to 2"),
        (small(nn.Conv2d(4, 4, 3), *END), "it changes the size of its map without a stride"),
        (small(Step(lambda x: F.pad(x, [1, 1, 1, 1])), *END), "the function pad is not known"),
        (small(Step(lambda x: x[:, :, 1:]), *END), "it crops a map"),
        (small(Step(lambda x: x.permute(0, 1, 3, 2)), *END), "permutes the axes"),
        (small(Step(lambda x: x.mean(3, keepdim=True)), *END), "it averages a map over the axes"),
        (small(Step(None), *END), "a table of values"),
        (small(nn.Linear(8, 8), *END), "Linear does not act along the channels"),
        (small(nn.Upsample(scale_factor=2), *END), "it upsamples without regard to the grid"),
        (small(Step(lambda x: x if x.sum() > 0 else -x), *END), "cannot be traced"),
        (small(), "its output is a map"),
        (timm.create_model("tf_mobilenetv3_small_minimal_100"), "TensorFlow's padding"),
        (models.alexnet(weights=None), "average the whole map"),
    ],
)
def test_what_cannot_be_made_invariant_is_told_with_the_reason(net: nn.Module, reason: str) -> None:
    before = repr(net)
    with pytest.raises(ValueError, match=reason):
        invariant(net)
    report = invariant(net, dry_run=True)
    assert any(reason in why for _, why in report.left) and report.changes == []
    assert repr(net) == before


@pytest.mark.parametrize("name", ["alexnet", "vgg11"])
@torch.no_grad()
def test_flattened_maps_are_averaged_where_that_is_asked_for(name: str) -> None:
    torch.manual_seed(0)
    net, x = getattr(models, name)(weights=None, num_classes=5).eval(), torch.randn(1, 3, 64, 64)
    report = invariant(net, head="average")
    assert ("avgpool", "of the map's average") in [(change.name, change.after) for change in report.changes]
    assert change(net.double(), x.double(), [(1, 0), (13, 30)]) < 1e-10
    assert invariant(net).changes == []


def test_a_part_of_a_network_is_not_made_invariant() -> None:
    for options in ({"include": "layer4.*"}, {"exclude": "conv1"}, {"where": "before"}, {"policy": "stem"}):
        with pytest.raises(ValueError, match="treats the whole network"):
            invariant(models.resnet18(weights=None), **options)
    with pytest.raises(ValueError, match='"average" together with'):
        stillpoint.antialias(models.resnet18(weights=None), head="average")


@torch.no_grad()
def test_images_with_near_ties_are_counted() -> None:
    torch.manual_seed(0)
    net = timm.create_model("test_resnet").eval()
    images = torch.randn(3, 3, 64, 64)
    images[1] = 1  # all phases of a constant image tie
    report = invariant(net, example=images)
    assert near_ties(net, images).tolist() == [False, True, False]
    assert report.notes[-1] == "3 images, 1 of them with a near tie of two phases"


def test_maps_of_other_strides_that_meet_are_refused() -> None:
    class Meeting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.once = nn.Conv2d(3, 4, 5, 4, 2)
            self.twice = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1))

        def forward(self, x: Tensor) -> Tensor:
            return (self.once(x) + self.twice(x)).mean((2, 3))

    with pytest.raises(ValueError, match="subsampled a different number of times"):
        invariant(Meeting())


def test_a_blurred_network_is_not_made_invariant_on_top() -> None:
    net = models.resnet18(weights=None)
    stillpoint.antialias(net, verbose=False)
    with pytest.raises(ValueError, match="it has a filter on a fixed grid already"):
        invariant(net)


def test_paddings_and_fillings_that_do_not_go_together_are_refused() -> None:
    net = models.resnet18(weights=None)
    with pytest.raises(ValueError, match="needs a Downsample that chooses"):
        stillpoint.antialias(net, padding="circular")
    with pytest.raises(ValueError, match="an adaptive grid needs circular padding"):
        stillpoint.antialias(net, downsample="polyphase")
    with pytest.raises(ValueError, match="'reflect'"):
        stillpoint.antialias(net, padding="reflect")


def test_the_page_shows_the_measured_table() -> None:
    docs = Path(__file__).resolve().parents[3] / "docs"
    with (docs / "invariance.csv").open() as file:
        rows = list(csv.reader(file))
    page = (docs / "antialias.md").read_text()
    shown = page.partition("<!-- stated: docs/invariance.csv -->")[2].partition("<!-- /stated -->")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.strip().splitlines()]
    assert [lines[0], *lines[2:]] == rows and len(rows) > 12
    assert all(float(single) < 1e-5 and float(double) < 1e-10 for *_, single, double in rows[1:])
