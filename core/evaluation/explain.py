"""Where a network stops moving with its input: the equivariance error of every module, in the order they run."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stillpoint.core.base.modes import evaluating
from stillpoint.core.data.shifts import roll
from stillpoint.core.metrics import equivariance_error

#: Above what float32 rounding makes of an equivariant network (about 1e-6), far below one wrong phase (1e-3 and more).
THRESHOLD = 1e-4

#: Why a module's output is not compared.
NO_MAP = "outputs that are no map (B, C, h, w) or vector (B, K), such as tokens (B, N, C)"
NO_BATCH = "outputs whose first axis is not the batch"
PADDING = "outputs of padding"


@dataclass(frozen=True)
class Row:
    """One run of one module.

    shape     of its output for one image: (C, h, w), or (K,)
    stride    rows of the input over rows of the output (1.0 at full resolution); none without rows
    error     relative, see `stillpoint.core.metrics.equivariance_error`; the largest over the images and the shifts
    leaf      it contains no other module
    """

    name: str
    type: str
    shape: tuple[int, ...]
    stride: float | None
    error: float
    leaf: bool


@dataclass(frozen=True)
class Explanation:
    """Rows in the order in which modules finish, so that a block comes after its parts; the network itself is last.

    left_out    how many runs of modules have no row, by the reason
    """

    rows: tuple[Row, ...]
    shifts: tuple[tuple[int, int], ...]
    threshold: float
    left_out: dict[str, int]

    @property
    def first_broken(self) -> Row | None:
        """The first module whose output does not move with the input; none when all do."""
        return next((row for row in self.rows if not row.error <= self.threshold), None)

    def to_json(self) -> dict[str, Any]:
        first = self.first_broken
        return {
            "shifts": [list(shift) for shift in self.shifts],
            "threshold": self.threshold,
            "first_broken": None if first is None else asdict(first),
            "rows": [asdict(row) for row in self.rows],
            "left_out": self.left_out,
        }


def explain(
    net: nn.Module,
    x: Tensor,
    *,
    shifts: Sequence[tuple[int, int]] | None = None,
    threshold: float = THRESHOLD,
) -> Explanation:
    """Runs `net` once on `x` (B, C, H, W) and its circular shifts, and compares every module's outputs.

    One forward pass of (1 + len(shifts)) * B images: modules must treat the images of a batch apart, which those of a
    network in eval mode do (it is put in eval mode, and back afterwards). Left out, and counted, are outputs that are
    no maps (B, C, h, w) or vectors (B, K), such as tokens, and those of padding, where a shift is of the map inside.

    Raises ValueError for an `x` of another rank, and for no shift.
    """
    if x.ndim != 4:
        raise ValueError(f"images must be (B, C, H, W), not of shape {tuple(x.shape)}")
    count, size = len(x), (x.shape[2], x.shape[3])
    if shifts is None:
        # one pixel each way, and far enough to move the coarsest map too, where an odd size would show
        shifts = ((1, 0), (0, 1), (size[0] // 2 + 1, size[1] // 2 - 1))
    if not shifts:
        raise ValueError("at least one shift is needed")
    moves = tuple((int(row), int(column)) for row, column in shifts)
    rows: list[Row] = []
    left_out: dict[str, int] = {}

    def record(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        result = output[0] if isinstance(output, tuple | list) and output else output
        why = None
        if not isinstance(result, Tensor) or result.ndim not in (2, 4):
            why = NO_MAP
        elif len(result) != count * (1 + len(moves)):
            why = NO_BATCH
        elif _pads(inputs, result):
            why = PADDING
        if why is not None:
            left_out[why] = left_out.get(why, 0) + 1
            return
        still, *moved = result.split(count)
        errors = [equivariance_error(still, y, shift=s, size=size) for s, y in zip(moves, moved, strict=True)]
        stride = size[0] / result.shape[2] if result.ndim == 4 else None
        # amax, not Python's max, which would lose a NaN
        worst = float(torch.stack(errors).amax())
        leaf = next(module.children(), None) is None
        rows.append(Row(name or "(network)", type(module).__name__, tuple(result.shape[1:]), stride, worst, leaf))

    handles = [
        module.register_forward_hook(lambda m, i, o, name=name: record(name, m, i, o))
        for name, module in net.named_modules()
    ]
    try:
        with evaluating(net), torch.inference_mode():
            net(torch.cat([x, *(roll(x, shift) for shift in moves)]))
    finally:
        for handle in handles:
            handle.remove()
    return Explanation(tuple(rows), moves, threshold, left_out)


def _pads(inputs: Any, result: Tensor) -> bool:
    """Whether a module only surrounds its map: larger than before, and not by a whole factor."""
    before = inputs[0] if inputs else None
    if result.ndim != 4 or not isinstance(before, Tensor) or before.ndim != 4:
        return False
    pairs = zip(result.shape[2:], before.shape[2:], strict=True)
    return any(after > size and after % size for after, size in pairs)
