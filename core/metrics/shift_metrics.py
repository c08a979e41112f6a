"""Effects of shifts as torchmetrics `Metric`s: consistency, flip rate, divergence, logit change.

Each takes a network and images, ``update(net, images)``, and shifts them itself; or the outputs of a user's loop,
``update(first_logits, second_logits)``, tensors or NumPy arrays (B, K), or (B, S, K) for S views. Results do not depend
on the batches. Views are drawn by the images' numbers, `indices`; by default images are numbered from 0 in the order of
the updates, in each process.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from stillpoint.core.data.shifts import fourier_shift, roll
from stillpoint.core.metrics.accumulate import Exact, Tally, Values
from stillpoint.core.metrics.consistency import agreement
from stillpoint.core.metrics.divergence import kl_divergence
from stillpoint.core.metrics.flip_rate import flips
from stillpoint.core.metrics.logit_change import relative_logit_change
from stillpoint.core.metrics.outputs import Output, as_tensor, is_network
from stillpoint.core.metrics.views import Boundary, check_boundary, prepared, shifted_pairs

Direction = Literal["horizontal", "vertical", "diagonal"]
#: (rows, columns) of one step
_STEPS: dict[str, tuple[int, int]] = {"horizontal": (0, 1), "vertical": (1, 0), "diagonal": (1, 1)}


class Pairs:
    """How pairs of shifted views are drawn; see `stillpoint.core.metrics.views.shifted_pairs`.

    boundary    "circular", or "zeros": windows of the zero-padded image
    max_shift   each axis is uniform in -max_shift..max_shift-1 pixels
    repeats     pairs drawn for each image
    name        separates the draws of different evaluations
    """

    def __init__(self, boundary: Boundary, max_shift: int, repeats: int, seed: int, name: str | None) -> None:
        check_boundary(boundary)
        if max_shift < 1 or repeats < 1:
            raise ValueError(f"max_shift and repeats must be at least 1, got {max_shift} and {repeats}")
        self.boundary, self.max_shift, self.repeats, self.seed = boundary, max_shift, repeats, seed
        self.name = name or ("circular" if boundary == "circular" else "crop")

    def settings(self) -> tuple[Any, ...]:
        return self.boundary, self.max_shift, self.repeats, self.seed, self.name

    def of(self, images: Tensor, indices: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The pairs of views of images (B, C, H, W) with numbers (B,)."""
        options: dict[str, Any] = {"max_shift": self.max_shift, "repeats": self.repeats}
        return shifted_pairs(images, indices, boundary=self.boundary, name=self.name, seed=self.seed, **options)


class ShiftConsistency(Tally):
    """Fraction of pairs of shifted views that are given the same class, in [0, 1] (Zhang, ICML 2019, section 4).

    With a network: `repeats` pairs of each image, both views shifted. With logits: whether `first` and `second` agree.
    The options are those of `Pairs`; `output` locates the logits in the network's output. A view whose logits hold a
    NaN agrees with nothing.

    Examples:
        >>> consistency = metrics.ShiftConsistency()
        >>> consistency.update(torch.eye(4), torch.eye(4)[[0, 1, 3, 2]])  # logits of two views
        >>> float(consistency.compute())
        0.5
    """

    def __init__(
        self,
        *,
        boundary: Boundary = "circular",
        max_shift: int = 3,
        repeats: int = 5,
        seed: int = 0,
        name: str | None = None,
        output: Output | None = None,
        **kwargs: Any,
    ) -> None:
        pairs = Pairs(boundary, max_shift, repeats, seed, name)
        super().__init__(*pairs.settings(), **kwargs)
        self.pairs, self.output = pairs, output

    def update(self, first: Any, second: Any, indices: Any = None) -> None:  # type: ignore[override]
        if not is_network(first):
            self.count(agreement(as_tensor(first), as_tensor(second)))
            return
        predict, images, numbers = prepared(first, second, self.drawn, indices, self.output)
        same = [agreement(predict(one), predict(other)) for one, other in self.pairs.of(images, numbers)]
        self.count(torch.stack(same, 1))
        self.drawn += len(images)


class FromUnshifted(Values):
    """Compares each shifted view with the unshifted one; subclasses define `compare`."""

    def __init__(
        self,
        *,
        reduce: str,
        boundary: Boundary = "circular",
        max_shift: int = 3,
        repeats: int = 5,
        seed: int = 0,
        name: str | None = None,
        output: Output | None = None,
        **kwargs: Any,
    ) -> None:
        pairs = Pairs(boundary, max_shift, repeats, seed, name)
        super().__init__(*pairs.settings(), reduce=reduce, **kwargs)
        self.pairs, self.output = pairs, output

    def compare(self, reference: Tensor, shifted: Tensor) -> Tensor:
        """Logits (B, K) and (B, K) -> (B,)."""
        raise NotImplementedError

    def update(self, first: Any, second: Any, indices: Any = None) -> None:  # type: ignore[override]
        if is_network(first):
            predict, images, numbers = prepared(first, second, self.drawn, indices, self.output)
            reference = predict(images)
            for pair in self.pairs.of(images, numbers):
                for view in pair:
                    self.take(self.compare(reference, predict(view)))
            self.drawn += len(images)
            return
        reference, shifted = as_tensor(first), as_tensor(second)
        for view in shifted.unbind(1) if shifted.ndim == reference.ndim + 1 else (shifted,):
            self.take(self.compare(reference, view))


class LogitChange(FromUnshifted):
    """Relative change of the logits under a shift (`relative_logit_change`): the "max" or the "mean" over all views.

    With a network: both views of each pair against the unshifted image. With logits: `second` (B, K) or (B, S, K)
    against `first` (B, K). The options are those of `ShiftConsistency`.

    Examples:
        >>> change = metrics.LogitChange()
        >>> change.update(torch.tensor([[2.0, -4.0]]), torch.tensor([[3.0, -4.0]]))
        >>> float(change.compute())
        0.25
    """

    def __init__(self, *, reduce: Literal["max", "mean"] = "max", **kwargs: Any) -> None:
        super().__init__(reduce=reduce, **kwargs)

    def compare(self, reference: Tensor, shifted: Tensor) -> Tensor:
        return relative_logit_change(reference, shifted)


class ShiftDivergence(FromUnshifted):
    """Kullback-Leibler divergence, in nats, of probabilities under a shift from the unshifted ones: "mean" or "max".

    With a network: both views of each pair against the unshifted image. With logits: `second` (B, K) or (B, S, K)
    against `first` (B, K). Computed in float64. The options are those of `ShiftConsistency`.

    Examples:
        >>> divergence = metrics.ShiftDivergence()
        >>> divergence.update(torch.zeros(2, 3), torch.zeros(2, 3))
        >>> float(divergence.compute())
        0.0
    """

    def __init__(self, *, reduce: Literal["max", "mean"] = "mean", **kwargs: Any) -> None:
        super().__init__(reduce=reduce, **kwargs)

    def compare(self, reference: Tensor, shifted: Tensor) -> Tensor:
        wide = torch.float32 if reference.device.type == "mps" else torch.float64
        return kl_divergence(reference.to(wide), shifted.to(wide))


class FlipRate(Tally):
    """How often the class changes while the image moves: from view k to view k + `step`, a fraction in [0, 1].

    With a network: `max_shift` + 1 views of each image, each circularly shifted by one more pixel in `direction`. With
    logits (B, S, K) or classes (B, S) of S views in order: ``update(views)``. With logits (B, K) of two views:
    ``update(first, second)``. Lower is better, and a network that gives one class to everything never flips.

    Examples:
        >>> flips = metrics.FlipRate()
        >>> flips.update(torch.eye(4), torch.eye(4)[[0, 1, 3, 2]])  # logits of two views
        >>> float(flips.compute())
        0.5
    """

    higher_is_better = False

    def __init__(
        self,
        *,
        step: int = 1,
        direction: Direction = "horizontal",
        max_shift: int = 8,
        output: Output | None = None,
        **kwargs: Any,
    ) -> None:
        if direction not in get_args(Direction):
            raise ValueError(f"direction must be one of {', '.join(get_args(Direction))}, not {direction!r}")
        if not 1 <= step <= max_shift:
            raise ValueError(f"step must be from 1 to max_shift={max_shift}, not {step}")
        super().__init__(step, direction, max_shift, **kwargs)
        self.step, self.direction, self.max_shift, self.output = step, direction, max_shift, output

    def update(self, first: Any, second: Any = None) -> None:
        if is_network(first):
            self._flipped(self._views(first, second))
        elif second is None:
            self._flipped(as_tensor(first))
        else:
            self.count(~agreement(as_tensor(first), as_tensor(second)))

    def _views(self, net: Callable[..., Any], images: Any) -> Tensor:
        predict, images, _ = prepared(net, images, output=self.output)
        row, column = _STEPS[self.direction]
        views = [predict(roll(images, (k * row, k * column))) for k in range(self.max_shift + 1)]
        return torch.stack(views, 1)

    def _flipped(self, views: Tensor) -> None:
        if views.ndim == 2:
            self.count(flips(views, self.step))
        elif views.ndim == 3 and views.shape[1] > self.step:
            self.count(~agreement(views[:, : -self.step], views[:, self.step :]))
        else:
            raise ValueError(
                f"views must be logits (B, S, K) or classes (B, S) of more than {self.step} views, not "
                f"{tuple(views.shape)}"
            )


class FractionalConsistency(Exact):
    """Fraction of shifts by k / `fractions` of a pixel, k = 1..fractions-1 on both axes, that keep the class.

    With a network: circular shifts by trigonometric interpolation. With logits: `first` (B, K) of the unshifted images,
    `second` (B, fractions, K) of the shifts by k = 1..fractions, the last of which is a whole pixel. `curve` has the
    fraction for each shift.

    Examples:
        >>> net = lambda images: images.mean((1, 2, 3), keepdim=True).expand(-1, 2, 1, 1).flatten(1)
        >>> steady = metrics.FractionalConsistency(fractions=2)
        >>> steady.update(net, torch.rand(2, 1, 8, 8))
        >>> float(steady.compute())
        1.0
    """

    higher_is_better = True
    kept: Tensor
    images: Tensor

    def __init__(self, *, fractions: int = 8, output: Output | None = None, **kwargs: Any) -> None:
        if fractions < 2:
            raise ValueError(f"fractions must be at least 2, not {fractions}")
        super().__init__(fractions, **kwargs)
        self.fractions, self.output = fractions, output
        self.whole("kept", torch.zeros(fractions))
        self.whole("images", torch.zeros(()))

    def update(self, first: Any, second: Any) -> None:
        if is_network(first):
            predict, images, _ = prepared(first, second, output=self.output)
            first = predict(images)
            second = torch.stack([predict(fourier_shift(images, (s, s))) for s in self.shifts()], 1)
        first, second = as_tensor(first), as_tensor(second)
        if second.ndim != 3 or second.shape[:2] != (len(first), self.fractions):
            raise ValueError(
                f"logits of shifts must be ({len(first)}, {self.fractions}, K), one for each fraction of a pixel, not "
                f"{tuple(second.shape)}"
            )
        same = agreement(first[:, None].expand_as(second), second)  # (B, fractions)
        self.kept = self.kept + self.here(same).sum(0)
        self.images = self.images + len(first)

    def shifts(self) -> list[float]:
        """The shifts in pixels, the whole one last."""
        return [k / self.fractions for k in range(1, self.fractions + 1)]

    def compute(self) -> Tensor:
        if not int(self.images):
            raise ValueError("there are no images to compare: call update first")
        return self.number(int(self.kept[:-1].sum()) / (int(self.images) * (self.fractions - 1)))

    @property
    def curve(self) -> list[float]:
        """Fraction of images that keep their class, for each of `shifts`."""
        return self.over_processes(lambda: [kept / int(self.images) for kept in self.kept.tolist()])
