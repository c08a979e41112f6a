"""What `stillpoint.antialias` says of steps that stride and that it does not treat."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillpoint.core.surgery.antialias import antialias

WEIGHT = torch.ones(4, 4, 3, 3)


class Ending(nn.Module):
    """A network with something to treat, and a step of the test's own behind it."""

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2))
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self.body(x))


@pytest.mark.parametrize(
    ("step", "name", "what"),
    [
        (lambda x: F.conv2d(x, WEIGHT, stride=2), "conv2d", "the function conv2d"),
        (lambda x: F.conv2d(x, WEIGHT, None, (1, 2)), "conv2d", "the function conv2d"),
        (lambda x: F.avg_pool2d(x, 2), "avg_pool2d", "the function avg_pool2d"),
        (lambda x: F.avg_pool2d(x, x.shape[2:]), "avg_pool2d", "the function avg_pool2d"),
        (lambda x: F.max_pool2d(x, 3, stride=2), "max_pool2d", "the function max_pool2d"),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], "max_pool2d_with_indices", "the function max_pool2d"),
        (lambda x: F.lp_pool2d(x, 2, 2), "lp_pool2d", "the function lp_pool2d"),
        (lambda x: x[:, :, ::2], "getitem", "a slice"),
        (lambda x: x[..., 1::2], "getitem", "a slice"),
    ],
)
def test_functions_and_slices_that_stride_are_named(step: Callable[[Tensor], Tensor], name: str, what: str) -> None:
    report = antialias(Ending(step), verbose=False)
    assert [change.name for change in report.changes] == ["body.1"]
    assert report.left == [(name, f"{what} inside its forward cannot be exchanged")]


@pytest.mark.parametrize(
    "step",
    [
        lambda x: F.avg_pool2d(x, 3, stride=1, padding=1),
        lambda x: F.max_pool2d(x, 3, 1, 1),
        lambda x: F.avg_pool2d(x, 1),
        lambda x: F.conv2d(x, WEIGHT),
        lambda x: x[:, :, 1:-1],
        lambda x: x[:, ::2],
        lambda x: x[0],
    ],
)
def test_functions_and_slices_that_do_not_stride_are_not(step: Callable[[Tensor], Tensor]) -> None:
    assert antialias(Ending(step), verbose=False).left == []


class Positions(nn.Module):
    """Adds every other row of tables of positions: one that is learnt, and others made to the map's size."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.table = nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2)), nn.Parameter(torch.ones(1, 4, 8, 4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        rows = torch.ones((y.shape[0], 1, 2 * y.size(2), 1)).cumsum(2)
        alike = torch.zeros_like(y)[:, :, ::2].repeat(1, 1, 2, 1)
        chosen = self.table.index_select(2, torch.arange(0, 8, 2))
        return y + rows[:, :, ::2].sin() + alike + self.table[:, :, ::2] + chosen


def test_slices_of_tables_of_positions_are_not_strides() -> None:
    net, x = Positions(), torch.randn(2, 3, 8, 8)
    assert net(x).shape == (2, 4, 4, 4)
    report = antialias(net, verbose=False)
    assert report.left == report.untraced == []


def test_layers_of_other_dimensions_are_treated() -> None:
    for dims, kind in ((1, nn.Conv1d), (3, nn.Conv3d)):
        pool = {1: nn.MaxPool1d, 3: nn.MaxPool3d}[dims](3, 2, 1)
        net = nn.Sequential(kind(3, 4, 3), nn.ReLU(), kind(4, 4, 3, stride=2), nn.ReLU(), pool)
        before = net(x := torch.randn(1, 3, *[20] * dims))
        report = antialias(net, verbose=False)
        assert [change.after.partition(",")[0] for change in report.changes] == [
            "stride 1",
            f"{'x'.join('3' * dims)} max-pool of stride 1 - BlurPool{dims}d of 4 taps",
        ]
        assert net(x).shape == before.shape and not report.left
        bare = nn.Sequential(kind(3, 4, 3), kind(4, 4, 3, stride=2), nn.ReLU())
        before = bare(x)
        antialias(bare, downsample="subsample", verbose=False)
        torch.testing.assert_close(bare(x), before)
