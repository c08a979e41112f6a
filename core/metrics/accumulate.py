"""torchmetrics `Metric`s with exact states: results do not depend on batch size, order or number of processes.

Every state is an integer, reduced over processes by sum or maximum. `Tally` counts, `Values` averages; the metrics of
this subpackage derive from these or from `Exact`.
"""

import hashlib
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric

from stillpoint.core.metrics.exact import LIMBS, carried, exact_sum, from_ordered, ordered, rounded

T = TypeVar("T")


class Exact(Metric):
    """A torchmetrics `Metric` whose states are int64 tensors.

    `settings` distinguish metrics of one class. Other keywords are torchmetrics' (``sync_on_compute``,
    ``process_group``, ...). A metric moves to the accelerator of its values; values on the CPU move to the metric's
    device, so that an update never waits for a GPU.
    """

    full_state_update = False
    is_differentiable = False

    def __init__(self, *settings: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        digest = hashlib.sha256(repr((type(self).__name__, *settings)).encode()).digest()
        # a MetricCollection merges metrics whose states agree after the first batch, as two accuracies of 100 % do;
        # these bytes differ by more than its tolerance
        self.whole("signature", torch.tensor(list(digest[:16])), "max")
        #: number of images seen, which is the number of the next image
        self.drawn = 0
        self._one_batch = False

    def whole(self, name: str, default: Tensor, reduce: str = "sum") -> None:
        """Adds an integer state, reduced over processes by `reduce`, "sum" or "max"."""
        self.add_state(name, default.to(torch.int64), dist_reduce_fx=reduce)

    def here(self, values: Tensor) -> Tensor:
        """`values` on the metric's device, detached."""
        if values.device.type != "cpu" and values.device != self.device:
            self.to(values.device)
        return values.detach().to(self.device)

    def number(self, value: float) -> Tensor:
        """A result as a scalar tensor, float64 (float32 on MPS)."""
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        return torch.tensor(value, dtype=wide, device=self.device)

    def fresh(self) -> None:
        """Tells torchmetrics that the states have changed, after an addition outside `update`."""
        self._computed = None
        self._update_count = max(self._update_count, 1)

    def over_processes(self, work: Callable[[], T]) -> T:
        """The result of `work` on the states of all processes; all of them must call this."""
        options: dict[str, Any] = {"should_sync": self._to_sync, "should_unsync": self._should_unsync}
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, **options):
            return work()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns this batch's result. torchmetrics resets the states for it, which must not restart the numbering of
        images."""
        self._one_batch = True
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._one_batch = False

    def reset(self) -> None:
        super().reset()
        if not self._one_batch:
            self.drawn = 0


class Tally(Exact):
    """Counts successes over images, with equally many trials for each: `compute` returns successes / trials.

    `update` takes booleans or whole numbers (B,) or (B, trials), at least one trial. The result is exactly 1 only if
    every trial succeeded. ValueError for a changed number of trials, and for a result without images.

    Examples:
        >>> tally = metrics.Tally()
        >>> tally.count(torch.tensor([True, True, False, True]))
        >>> tally.mean, round(tally.standard_error, 3)
        (0.75, 0.25)
    """

    higher_is_better = True
    successes: Tensor
    squares: Tensor
    trials: Tensor
    images: Tensor

    def __init__(self, *settings: Any, **kwargs: Any) -> None:
        super().__init__(*settings, **kwargs)
        for name in ("successes", "squares", "trials", "images"):
            self.whole(name, torch.zeros(()))
        self._each: int | None = None

    def update(self, successes: Tensor) -> None:
        self.count(successes)

    def count(self, successes: Tensor) -> None:
        """Adds the successes (B,) or (B, trials) of images."""
        each = successes.shape[1:].numel()
        if self._each not in (None, each) or not each:
            raise ValueError(
                f"all images need the same number of trials, at least 1, got {each} trials after {self._each or 'none'}"
            )
        self._each = each
        counts = self.here(successes).to(torch.int64).reshape(len(successes), each).sum(1)
        # Python numbers need no transfer to the states' device
        self.successes = self.successes + counts.sum()
        self.squares = self.squares + (counts * counts).sum()
        self.images = self.images + len(successes)
        self.trials = self.trials + len(successes) * each
        self.fresh()

    def compute(self) -> Tensor:
        return self.number(self._mean())

    def _mean(self) -> float:
        if not int(self.images):
            raise ValueError("there are no images to average: call update first")
        return int(self.successes) / int(self.trials)

    @property
    def mean(self) -> float:
        """`compute` as a Python float."""
        return self.over_processes(self._mean)

    @property
    def standard_error(self) -> float:
        """The standard error of `mean`, which takes images as independent, not their trials; 0.0 for a single image."""
        return self.over_processes(self._standard_error)

    def _standard_error(self) -> float:
        n, total, squares = int(self.images), int(self.successes), int(self.squares)
        if n < 2:
            return 0.0
        # n * squares - total**2 in exact integers: no cancellation
        return math.sqrt((n * squares - total * total) / (n - 1)) / n / (int(self.trials) // n)

    def reset(self) -> None:
        super().reset()
        if not self._one_batch:
            self._each = None


class Values(Exact):
    """Numbers, one or more for each image: `compute` returns their mean or, with ``reduce="max"``, the largest.

    The sum behind the mean is exact and rounded once. NaN and infinities are counted separately, and propagate as in a
    sum. ValueError for a result without values.

    Examples:
        >>> values = metrics.Values()
        >>> values.update(torch.tensor([1.0, 1e20, -1e20]))  # the sum is exact
        >>> round(values.mean, 4)
        0.3333
    """

    higher_is_better = False
    limbs: Tensor
    counted: Tensor
    unbounded: Tensor
    largest: Tensor

    def __init__(self, *settings: Any, reduce: str = "mean", **kwargs: Any) -> None:
        if reduce not in ("mean", "max"):
            raise ValueError(f"reduce must be mean or max, not {reduce!r}")
        super().__init__(reduce, *settings, **kwargs)
        self.reduce = reduce
        self.whole("limbs", torch.zeros(LIMBS))
        self.whole("counted", torch.zeros(()))
        self.whole("unbounded", torch.zeros(3))  # NaN, infinity, minus infinity
        self.whole("largest", torch.tensor(torch.iinfo(torch.int64).min), "max")

    def update(self, values: Tensor) -> None:
        self.take(values)

    def take(self, values: Tensor) -> None:
        """Adds numbers of any shape."""
        flat = self.here(values.flatten())
        # on the CPU for an accelerator without float64
        flat = (flat.cpu() if flat.device.type == "mps" else flat).double()
        if not len(flat):
            return
        above, below = flat == torch.inf, flat == -torch.inf
        limbs = exact_sum(flat.masked_fill(~flat.isfinite(), 0))
        unbounded = torch.stack([flat.isnan().sum(), above.sum(), below.sum()])
        self.limbs = carried(self.limbs + limbs.to(self.device))
        self.counted = self.counted + len(flat)
        self.unbounded = self.unbounded + unbounded.to(self.device)
        self.largest = torch.maximum(self.largest, ordered(flat).amax().to(self.device))
        self.fresh()

    def compute(self) -> Tensor:
        return self.number(self._mean() if self.reduce == "mean" else self._largest())

    def _check(self) -> None:
        if not int(self.counted):
            raise ValueError("there are no values to reduce: call update first")

    def _mean(self) -> float:
        self._check()
        nan, above, below = self.unbounded.tolist()
        if nan or (above and below):
            return math.nan
        if above or below:
            return math.inf if above else -math.inf
        return rounded(self.limbs) / int(self.counted)

    def _largest(self) -> float:
        self._check()
        return from_ordered(int(self.largest))

    @property
    def mean(self) -> float:
        return self.over_processes(self._mean)

    @property
    def max(self) -> float:
        return self.over_processes(self._largest)
