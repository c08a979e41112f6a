"""Where a network loses equivariance: the equivariance error of every module, in the order of execution."""

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from stillpoint.core.base.modes import evaluating
from stillpoint.core.data.shifts import fourier_shift, roll
from stillpoint.core.evaluation.interior import Interior
from stillpoint.core.metrics.equivariance import equivariance_error
from stillpoint.core.surgery.antialias import POLICIES, antialias
from stillpoint.core.surgery.striding import is_activation, is_filter

#: Above float32 rounding in an equivariant network (about 1e-6), far below the effect of one wrong phase (1e-3 and
#: more).
THRESHOLD = 1e-4
#: interior: every padding is circular, so that borders do not count; whole: the unchanged network.
Boundary = Literal["interior", "whole"]

#: Why a module's output is not compared.
NO_MAP = "outputs that are neither maps (B, C, h, w) nor vectors (B, K), such as tokens (B, N, C)"
NO_BATCH = "outputs whose first axis is not the batch"
PADDING = "outputs of padding"


@dataclass(frozen=True)
class Row:
    """One call of one module.

    shape     of its output for one image: (C, h, w) or (K,); maps (h, w, C) are transposed
    stride    rows of the input over rows of the output (1.0 at full resolution); None without rows
    error     relative, see `equivariance_error`; the largest over images and shifts
    leaf      whether it contains no other module
    own       error that the module adds to a correctly shifted input; 0 if that is rounding, and for modules that
              contain others
    share     fraction of the sum of all modules' own errors
    """

    name: str
    type: str
    shape: tuple[int, ...]
    stride: float | None
    error: float
    leaf: bool
    own: float = 0.0
    share: float = 0.0


@dataclass(frozen=True)
class Explanation:
    """Rows in the order in which modules finish: a block follows its parts, and the network itself is last.

    left_out    number of module calls without a row, by reason
    remedy      the call that repairs the first broken module, or why there is none; "" if nothing is broken
    """

    rows: tuple[Row, ...]
    shifts: tuple[tuple[int, int], ...]
    threshold: float
    left_out: dict[str, int]
    boundary: Boundary = "interior"
    remedy: str = ""

    @property
    def first_broken(self) -> Row | None:
        """The first module whose output does not move with the input; None if all do."""
        return next((row for row in self.rows if not row.error <= self.threshold), None)

    @property
    def worst(self) -> Row | None:
        """The module with the largest share of the added errors; None if none adds any."""
        guilty = [row for row in self.rows if row.own > 0]
        return max(guilty, key=lambda row: row.own) if guilty else None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        first, worst = self.first_broken, self.worst
        return {
            "shifts": [list(shift) for shift in self.shifts],
            "boundary": self.boundary,
            "threshold": self.threshold,
            "first_broken": None if first is None else asdict(first),
            "largest_share": None if worst is None else asdict(worst),
            "remedy": self.remedy,
            "rows": [asdict(row) for row in self.rows],
            "left_out": self.left_out,
        }

    def __str__(self) -> str:
        first, worst = self.first_broken, self.worst
        if first is None:
            return "every module moves with its input"
        lines = [f"shift equivariance first breaks in {first.name} ({first.type}): relative error {first.error:.1e}"]
        if worst is not None:
            lines.append(f"the largest share of the error, {worst.share:.0%}, comes from {worst.name} ({worst.type})")
        return "\n".join([*lines, self.remedy])


def explain(
    net: nn.Module,
    x: Tensor,
    *,
    boundary: Boundary = "interior",
    shifts: Sequence[tuple[int, int]] | None = None,
    threshold: float = THRESHOLD,
) -> Explanation:
    """Runs `net` once on `x` (B, C, H, W) and its circular shifts, and compares every module's outputs.

    A map of stride t is compared with the unshifted map moved by s/t: by a fraction of a pixel if necessary, so that
    aliasing counts but sampling a band-limited map does not; or by s/t rounded, as for layers that choose their grid.
    With `boundary` "interior" all paddings are circular (`stillpoint.core.evaluation.interior`), because no convolution
    commutes with shifts near a padded border; "whole" measures the unchanged network.

    `net` runs once, in eval mode, on (1 + len(shifts)) * B images; every leaf module that exceeds the threshold runs
    once more for each shift. Modules must treat the images of a batch independently. Maps (B, h, w, C) are
    distinguished from (B, C, h, w) by the image's shape. Outputs that are neither maps nor vectors (B, K), such as
    tokens, and those of padding layers, are left out and counted.

    Raises ValueError if `net` is not a module, for an `x` of another rank, an unknown boundary, and no shift.

    Examples:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.MaxPool2d(2))
        >>> stillpoint.explain(net, torch.rand(2, 1, 8, 8)).first_broken.name
        '1'
    """
    if not isinstance(net, nn.Module):
        raise ValueError(f"explain needs an nn.Module, whose parts it watches, not {type(net).__name__}")
    if x.ndim != 4:
        raise ValueError(f"images must be (B, C, H, W), not of shape {tuple(x.shape)}")
    if boundary not in get_args(Boundary):
        raise ValueError(f"boundary must be one of {', '.join(get_args(Boundary))}, not {boundary!r}")
    size = (x.shape[2], x.shape[3])
    if shifts is None:
        # one pixel along each axis, and far enough to move the coarsest map too, where an odd size would show
        shifts = ((1, 0), (0, 1), (size[0] // 2 + 1, size[1] // 2 - 1))
    if not shifts:
        raise ValueError("shifts must hold at least one shift (rows, columns)")
    moves = tuple((int(row), int(column)) for row, column in shifts)
    watch = _Watch(len(x), size, moves, threshold)
    handles = [handle for name, module in net.named_modules() for handle in watch.on(name, module)]
    try:
        with evaluating(net), torch.inference_mode(), Interior() if boundary == "interior" else nullcontext():
            net(torch.cat([x, *(roll(x, shift) for shift in moves)]))
    finally:
        for handle in handles:
            handle.remove()
    total = sum(row.own for row in watch.rows)
    rows = tuple(replace(row, share=row.own / total) if row.own > 0 else row for row in watch.rows)
    found = Explanation(rows, moves, threshold, watch.left_out, boundary)
    return replace(found, remedy=_remedy(net, found))


class _Watch:
    """Hooks on all modules, and the rows that they record."""

    def __init__(self, count: int, size: tuple[int, int], moves: tuple[tuple[int, int], ...], threshold: float) -> None:
        self.count, self.size, self.moves, self.threshold = count, size, moves, threshold
        self.rows: list[Row] = []
        self.left_out: dict[str, int] = {}
        self.inputs: dict[nn.Module, Tensor] = {}
        self.again = False

    def on(self, name: str, module: nn.Module) -> list[Any]:
        handles = [module.register_forward_hook(lambda m, i, o: self._after(name, m, i, o))]
        if next(module.children(), None) is None:
            handles.append(module.register_forward_pre_hook(self._before))
        return handles

    def _before(self, module: nn.Module, inputs: Any) -> None:
        if not self.again and len(inputs) == 1 and isinstance(inputs[0], Tensor) and inputs[0].ndim == 4:
            still = inputs[0][: self.count]
            # a module that works in place overwrites its input
            self.inputs[module] = still.clone() if getattr(module, "inplace", False) else still

    def _after(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.again:
            return
        before = self.inputs.pop(module, None)
        result = output[0] if isinstance(output, tuple | list) and output else output
        why = None
        if not isinstance(result, Tensor) or result.ndim not in (2, 4):
            why = NO_MAP
        elif len(result) != self.count * (1 + len(self.moves)):
            why = NO_BATCH
        elif _pads(inputs, result, self.size):
            why = PADDING
        if why is not None:
            self.left_out[why] = self.left_out.get(why, 0) + 1
            return
        error, result = min(((self._error(one), one) for one in self._readings(result)), key=lambda pair: pair[0])
        stride = self.size[0] / result.shape[2] if result.ndim == 4 else None
        leaf = next(module.children(), None) is None
        own = 0.0
        if leaf and before is not None and result.ndim == 4 and not error <= self.threshold:
            added = min(self._own(module, before, result[: self.count]), error)
            own = added if added > self.threshold else 0.0
        shape = tuple(result.shape[1:])
        self.rows.append(Row(name or "(network)", type(module).__name__, shape, stride, error, leaf, own))

    def _readings(self, result: Tensor) -> list[Tensor]:
        """The output read as (B, C, h, w), and as (B, h, w, C) if the image's shape allows it."""
        if result.ndim == 2:
            return [result]
        readings = [one for one in (result, result.permute(0, 3, 1, 2)) if _shaped(one.shape[2:], self.size)]
        return readings or [result]

    def _error(self, result: Tensor) -> float:
        still, *moved = result.split(self.count)
        options: dict[str, Any] = {"size": self.size, "fractional": True}
        errors = [equivariance_error(still, y, shift=s, **options) for s, y in zip(self.moves, moved, strict=True)]
        # amax, because Python's max would drop a NaN
        return float(torch.stack(errors).amax())

    def _own(self, module: nn.Module, before: Tensor, after: Tensor) -> float:
        """The error of the module alone, on its unshifted input shifted exactly."""
        inputs = [one for one in (before, before.permute(0, 3, 1, 2)) if _shaped(one.shape[2:], self.size)]
        if not inputs:
            return 0.0
        last = inputs[0].shape != before.shape
        worst = 0.0
        self.again = True
        try:
            for shift in self.moves:
                way = [s * h / full for s, h, full in zip(shift, inputs[0].shape[2:], self.size, strict=True)]
                whole = all(float(step).is_integer() for step in way)
                moved = roll(inputs[0], [int(s) for s in way]) if whole else fourier_shift(inputs[0], way)
                output = module(moved.permute(0, 2, 3, 1) if last else moved)
                output = output[0] if isinstance(output, tuple | list) else output
                output = output if output.shape == after.shape else output.permute(0, 3, 1, 2)
                found = equivariance_error(after, output, shift=shift, size=self.size, fractional=True)
                worst = max(worst, float(found.amax()))
        finally:
            self.again = False
        return worst


def _shaped(places: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether a map of h x w can come from an image of H x W pixels by one stride for both axes, rounded up or down."""
    (h, w), (height, width) = places, size
    return abs(h * width - w * height) <= max(height, width)


def _pads(inputs: Any, result: Tensor, image: tuple[int, int]) -> bool:
    """Whether a module only pads its map: the output is larger, but not by an integer factor."""
    before = inputs[0] if inputs else None
    if not isinstance(before, Tensor) or any(x.ndim != 4 or not _shaped(x.shape[2:], image) for x in (before, result)):
        return False
    pairs = zip(result.shape[2:], before.shape[2:], strict=True)
    return any(after > size and after % size for after, size in pairs)


def _remedy(net: nn.Module, found: Explanation) -> str:
    """The call of `antialias` that repairs the first broken module, tried on a copy of the network."""
    first = found.first_broken
    if first is None:
        return ""
    names = [row.name for row in found.rows if row.own > found.threshold]
    default = tuple(policy for policy in POLICIES if policy != "stem")
    for words, policy in (("", default), (f", policy={POLICIES}", POLICIES)):
        try:
            changed = [change.name for change in antialias(deepcopy(net), policy, verbose=False).changes]
        except (ValueError, TypeError, RuntimeError):
            continue
        if first.name in changed or (policy == POLICIES and set(changed) & set(names)):
            mended = len([name for name in names if name in changed])
            return f"stillpoint.antialias(net{words}) filters {first.name if first.name in changed else changed[0]}" + (
                f" and {mended - 1} more of the modules that break" if mended > 1 else ""
            )
    return _without_place(net, first, found)


def _without_place(net: nn.Module, first: Row, found: Explanation) -> str:
    """Why no filter repairs the first broken module, and what does, if `antialias` can."""
    reasons: dict[str, str] = {}
    with suppress(ValueError, TypeError, RuntimeError):
        reasons = dict(antialias(deepcopy(net), POLICIES, dry_run=True, verbose=False).left)
    if first.name in reasons:
        cause = f"stillpoint.antialias leaves {first.name} as it is ({reasons[first.name]})"
    else:
        module = dict(net.named_modules()).get(first.name)
        cause = f"{first.name} {_of_itself(module, found.boundary)}"
    with suppress(ValueError, TypeError, RuntimeError):
        if antialias(deepcopy(net), downsample="polyphase", padding="circular", dry_run=True, verbose=False).changes:
            call = 'stillpoint.antialias(net, downsample="polyphase", padding="circular")'
            return f"{cause}; {call} makes the network exact under shifts by whole pixels"
    return cause


def _numbers(padding: Any) -> list[int]:
    values = padding if isinstance(padding, tuple | list) else [padding]
    return [int(value != "valid") if isinstance(value, str) else int(value) for value in values]


def _of_itself(module: nn.Module | None, boundary: Boundary) -> str:
    """Why a module that does not stride, or is a filter, breaks equivariance."""
    if module is not None and is_filter(module):
        return (
            "is a low-pass filter already, but passes some frequencies that alias at its stride: more taps pass fewer"
        )
    if boundary == "whole" and any(_numbers(getattr(module, "padding", 0))):
        return "does not stride: its padding stays in place while the image moves, so pad circularly"
    if module is not None and is_activation(module):
        return "does not stride: an activation creates frequencies above its map's Nyquist limit"
    if isinstance(module, nn.Linear | nn.Flatten):
        return "does not stride: it weights each position of the map separately, so average the map before it"
    return "does not stride: its output depends on positions in the map"
