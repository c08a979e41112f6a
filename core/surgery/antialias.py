"""Turns a network that strides into an antialiased one, in place, with its weights (Zhang, ICML 2019, section 3.2).

A stride moves from its layer into a low-pass filter:

    max-pool, stride s                  -> max-pool, stride 1 - filter, stride s
    convolution, stride s - norm - act  -> convolution, stride 1 - norm - act - filter, stride s
    convolution, stride s - norm        -> convolution, stride 1 - filter, stride s - norm, where no activation follows
    1x1 convolution, stride s           -> filter, stride s - 1x1 convolution (they commute; this order is cheaper)
    average pool, stride s              -> filter, stride 1 - average pool, stride s

The filter comes after the activation, because it must see the map that is subsampled. The paper replaces an average
pool by the filter; here the pool keeps its windows, and so its sizes: a filter of n taps followed by 2x2 averages is a
filter of n + 1 taps. Summands of equal stride are filtered once, after the activation of their sum; if one summand of
an addition must be left, all are.

Law: every filtered map has the size that it had, whatever the size of the image. A blur with reflection needs a map
larger than its reach, 2 pixels for the paper's 4 taps; on a smaller one it repeats the edge.

Code that reads a layer's stride or its whole map now sees the dense one: a GroupNorm takes its statistics over all
pixels. timm's layers with TensorFlow's "same" padding keep their windows where they were.

Names in the state_dict do not change, so checkpoints of the original load before and after. Only a filter with
parameters, "adaptive_blur", adds names of its own, which a checkpoint of the original lacks.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from stillpoint.core.base.words import counted
from stillpoint.core.layers.blur import BlurPool1d, BlurPool3d
from stillpoint.core.layers.downsample import Downsample, DownsampleFactory, Subsample, downsample_factory
from stillpoint.core.surgery.cost import cost
from stillpoint.core.surgery.deployment import protect
from stillpoint.core.surgery.filtered import EDGE_BLURS, SameStart2d, attach, of_any_size
from stillpoint.core.surgery.invariant import InvariantSurgeon
from stillpoint.core.surgery.places import Network, Place, is_filtered
from stillpoint.core.surgery.report import SMALL_MAPS, Change, Report
from stillpoint.core.surgery.shared_grid import near_ties
from stillpoint.core.surgery.striding import (
    AVERAGE_POOLS,
    CONVOLUTIONS,
    LAYERS,
    MAX_POOLS,
    describe,
    dims_of,
    each,
    stride_of,
)

__all__ = ["POLICIES", "WHERE", "Change", "Report", "antialias"]

POLICIES = ("max_pool", "strided_conv", "average_pool", "stem")
WHERE = ("behind", "before")


def antialias(
    model: nn.Module,
    policy: str | Sequence[str] = ("max_pool", "strided_conv", "average_pool"),
    *,
    downsample: DownsampleFactory | str | None = None,
    padding: str | None = None,
    head: str | None = None,
    where: str = "behind",
    include: str | Sequence[str] = "*",
    exclude: str | Sequence[str] = (),
    example: Any = None,
    dry_run: bool = False,
    verbose: bool = True,
) -> Report:
    """Antialiases `model` in place and reports the changes.

    Args:
        model: any network. One that `torch.fx` cannot trace as a whole (detectors, decoders, Hugging Face models) is
            treated part by part. Weights are kept.
        policy: layers to treat: any of "max_pool", "strided_conv", "average_pool" and "stem" (convolutions of the
            image itself, which the paper leaves alone because of their cost).
        downsample: factory (channels, stride) of the filter, or its name. Default: `BlurPool2d` of size 4, the paper's
            choice. The stride is a pair if rows and columns differ, otherwise an integer. One- and three-dimensional
            maps get `BlurPool1d` or `BlurPool3d` of the same size.
        padding: "circular", with a Downsample that chooses its grid (use "polyphase"), makes the network truly
            shift-invariant. Every stride is treated, the stem's too; all windows wrap around; branches that meet share
            one grid. Law: circular shifts change the outputs by rounding only, for images whose sides are multiples of
            the total stride and without two tied phases.
        head: "average", with circular padding: layers that flatten the last map or pool it to several positions (VGG,
            AlexNet) see its average at every position. Their weights are kept, but need training.
        where: "behind", the paper's rule, or "before", which is cheaper: the filter runs at full size before a strided
            convolution, which keeps its stride.
        include, exclude: shell patterns of layer names, such as "layer4.*".
        example: a batch of images; the report then has the cost of a forward pass, before and after.
        dry_run: change nothing, only report.
        verbose: print the report.

    Returns:
        A `Report`, which lists untreated strides with the reason, except those that a library hides from `torch.fx`. A
        network without strides is left unchanged.

    Raises:
        ValueError: an unknown policy, place, padding or head; a `model` that is not an nn.Module, or is a single layer;
            a Downsample that cannot be built for a layer, or that chooses its grid without circular padding; with
            circular padding, any other Downsample, a selection of layers, or a network that cannot be made
            shift-invariant, with the reasons (a dry run reports them instead). The network is then unchanged.

    Examples:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.MaxPool2d(2))
        >>> report = stillpoint.antialias(net, verbose=False)
        >>> [change.name for change in report.changes]
        ['1']
    """
    wanted = (policy,) if isinstance(policy, str) else tuple(policy)
    if unknown := [name for name in wanted if name not in POLICIES]:
        raise ValueError(f"policy must be made of {', '.join(POLICIES)}, got {', '.join(map(repr, unknown))}")
    if where not in WHERE:
        raise ValueError(f"where must be one of {', '.join(WHERE)}, got {where!r}")
    if not isinstance(model, nn.Module):
        raise ValueError(f"antialias needs a network, a torch.nn.Module, got {model!r} of type {type(model).__name__}")
    if isinstance(model, LAYERS):
        raise ValueError(
            f"antialias treats the layers inside a network, but this {type(model).__name__} is a single layer: "
            "wrap it in an nn.Sequential"
        )
    if padding not in (None, "circular"):
        raise ValueError(f'padding must be "circular" or None, got {padding!r}')
    if head not in (None, "average") or (head and not padding):
        raise ValueError(f'head must be None, or "average" together with padding="circular", got {head!r}')
    make = downsample_factory(downsample) if isinstance(downsample, str) else downsample
    surgeon: _Surgeon | InvariantSurgeon
    if padding == "circular":
        if make is None or not _chooses(make):
            raise ValueError('circular padding needs a Downsample that chooses its grid: downsample="polyphase"')
        whole = set(wanted) in (set(POLICIES), set(POLICIES) - {"stem"})
        if not whole or (where, _patterns(include), _patterns(exclude)) != ("behind", ("*",), ()):
            raise ValueError(
                'padding="circular" treats the whole network: policy, where, include and exclude must be left at their '
                "defaults"
            )
        surgeon = InvariantSurgeon(model, make, average_head=head == "average")
        report = surgeon.plan()
        if report.left and not dry_run:
            raise ValueError(f"the network cannot be made shift-invariant: {'; '.join(map(': '.join, report.left))}")
    else:
        surgeon = _Surgeon(model, wanted, make or downsample_factory("blur", size=4), where)
        report = surgeon.plan(_patterns(include), _patterns(exclude))
    if not dry_run:
        before = None if example is None else cost(model, example)
        surgeon.operate()
        if before is not None:
            report.notes.append(cost(model, example).against(before))
        if before is not None and padding == "circular" and isinstance(example, Tensor):
            ties = int(near_ties(model, example).sum())
            report.notes.append(f"{counted(len(example), 'image')}, {ties} of them with a near tie of two phases")
    if verbose:
        print(report)
    return report


class _Surgeon:
    """Plans all changes before making any, so that an error leaves the network untouched."""

    def __init__(self, model: nn.Module, policy: tuple[str, ...], make: DownsampleFactory, where: str) -> None:
        self.model, self.policy, self.make, self.where, self.report = model, policy, make, where, Report()
        self.network = Network(model)
        self.dense: list[Any] = []
        self.attached: list[tuple[nn.Module, dict[str, nn.Module]]] = []
        self.done: set[Place] = set()

    def plan(self, include: tuple[str, ...], exclude: tuple[str, ...]) -> Report:
        network = self.network
        for place in network.places:
            place.reason = self._choice(place)
            averages = bool(place.reason) and _policy(place) not in ("max_pool", "strided_conv")  # or is the stem
            place.reason = place.reason or self._obstacle(place, include, exclude)
            place.bare = bool(place.reason) and not averages and not is_filtered(place.module)
        if self.where == "behind":
            for place in network.places:
                if not place.reason and place.is_convolution:
                    network.behind(place)
        network.keep_in_register()
        told = set()
        for place in network.places:
            if not place.reason:
                place.reason = self._treat(place)
            if place.reason and place.name not in told and not is_filtered(place.module):
                told.add(place.name)
                self.report.left.append((place.name, place.reason))
        self.report.left += network.left
        self.report.untraced = list(network.untraced.items())
        made = (inner for _, filters in self.attached for one in filters.values() for inner in one.modules())
        if any(isinstance(inner, EDGE_BLURS) and inner.padding == "reflect" for inner in made):
            self.report.notes.append(SMALL_MAPS)
        return self.report

    def operate(self) -> None:
        for module in self.dense:
            if starts := _start(module):
                attach(module, behind=starts)
            module.stride = (1,) * dims_of(module)
        for module, filters in self.attached:
            attach(module, **filters)
        protect(self.model, self.dense)

    def _choice(self, place: Place) -> str:
        """Why the policy excludes a place; empty if it does not."""
        kind = _policy(place)
        if not kind or kind in self.policy:
            return ""
        return "the stem is not in the policy" if kind == "stem" else "not in the policy"

    def _obstacle(self, place: Place, include: tuple[str, ...], exclude: tuple[str, ...]) -> str:
        """Why a place that the policy includes cannot be treated, judged by itself; empty if it can."""
        module = place.module
        if is_filtered(module):
            return "it sees a filter already"
        if not _policy(place):
            return "only convolutions, max-pools and average pools are treated"
        if not _matches(place.name, include) or _matches(place.name, exclude):
            return "it is excluded"
        if len(list(self.network.places_of(place.name))) > 1 or self.network.uses[id(module)] > 1:
            return "it is used more than once"
        if place.is_convolution:
            if set(module.kernel_size) != {1} and not place.overlaps:
                return f"its {describe(module)} cuts the image into patches that do not overlap"
            # parametrisation replaces the class too, as `attach` does
            return "its weight is parametrised" if is_parametrized(module) else ""
        if isinstance(module, MAX_POOLS):
            if module.return_indices:
                return "its indices are used"
            if module.ceil_mode and _drops(module):
                return "its ceil_mode drops windows that begin outside the map"
        return ""

    def _treat(self, place: Place) -> str:
        """Plans the treatment of a strided layer; the reason if it must be left, otherwise empty."""
        if place in self.done:
            return ""
        if place.is_convolution:
            return self._convolution(place)
        return self._max_pool(place) if isinstance(place.module, MAX_POOLS) else self._average_pool(place)

    def _max_pool(self, place: Place) -> str:
        module, stride, dims = place.module, place.stride, dims_of(place.module)
        made = self._filter(module, self.network.channels(place.node), stride)
        if made is None:
            return "its number of channels is unknown: no convolution comes before it"
        if module.ceil_mode:
            # windows that reach past the map, at the bottom and the right, must ignore what they see there
            past = [n for s in reversed(stride) for n in (0, s - 1)]
            pad: Any = {1: nn.ConstantPad1d, 2: nn.ConstantPad2d, 3: nn.ConstantPad3d}[dims]
            self.attached.append((module, {"before": pad(tuple(past), -torch.inf)}))
        self.dense.append(module)
        self.attached.append((module, {"behind": made}))
        sides = "x".join(map(str, each(module.kernel_size, dims)))
        self._tell(place, f"{sides} max-pool of stride 1 - {describe(made)}")
        return ""

    def _average_pool(self, place: Place) -> str:
        module, stride = place.module, place.stride
        made = self._filter(module, self.network.channels(place.node), (1,) * len(stride))
        if made is None:
            return "its number of channels is unknown: no convolution comes before it"
        taps: Any = getattr(made, "size", None)
        if taps is not None and max(stride) > taps:
            return f"it averages over {max(stride)} pixels already, and the filter over {taps}"
        self.attached.append((module, {"before": made}))
        self._tell(place, f"{describe(made)} - {describe(module)}")
        return ""

    def _convolution(self, place: Place) -> str:
        conv, stride = place.module, place.stride
        if self.where == "before" and not place.is_pointwise:
            made = self._of(conv, conv.in_channels, (1,) * len(stride))
            self.attached.append((conv, {"before": made}))
            self._tell(place, f"{describe(made)} - {describe(conv)}")
            return ""
        targets, side = ([], "") if self.where == "before" else self.network.behind(place)
        if place.is_pointwise and len(place.joined) < 2:
            made = self._of(conv, conv.in_channels, stride)
            self.dense.append(conv)
            self.attached.append((conv, {"before": made}))
            self._tell(place, f"{describe(made)} - 1x1 convolution of stride 1")
            return ""
        for target in targets:
            made = self._of(conv, conv.out_channels, stride)
            self.attached.append((self.network.modules[target], {side: made}))
        for joined in place.joined:
            self.dense.append(joined.module)
            self.done.add(joined)
            where = "it" if targets == [joined.name] else ", ".join(targets)
            self._tell(joined, f"stride 1, {describe(made)} {side} {where}")
        return ""

    def _filter(self, near: nn.Module, channels: int | None, stride: tuple[int, ...]) -> nn.Module | None:
        """The filter of a place whose channels may be unknown; None if it cannot be built without them."""
        if channels is not None:
            return self._of(near, channels, stride)
        try:
            return self._of(near, None, stride)
        except (TypeError, ValueError):
            return None

    def _of(self, near: nn.Module, channels: Any, stride: tuple[int, ...]) -> nn.Module:
        made: nn.Module
        if len(stride) == 2:
            rows, columns = stride
            made = self.make(channels, rows if rows == columns else (rows, columns))
        else:
            like: Any = self.make(channels, 2)
            size = 1 if isinstance(like, Subsample) else getattr(like, "size", 4)
            kind = BlurPool1d if len(stride) == 1 else BlurPool3d
            made = kind(channels, stride, size=size, padding=getattr(like, "padding", "reflect"))
        if isinstance(made, Downsample) and made.chooses:
            raise ValueError(
                'an adaptive grid needs circular padding: antialias(net, downsample=..., padding="circular")'
            )
        parameters = chain(near.parameters(), self.model.parameters())
        reference = next((p for p in parameters if p.is_floating_point()), None)
        if reference is not None:
            made.to(reference.device, reference.dtype)
        return of_any_size(made).train(near.training)

    def _tell(self, place: Place, after: str) -> None:
        self.done.add(place)
        self.report.changes.append(Change(place.name, describe(place.module), after))


def _chooses(make: DownsampleFactory) -> bool:
    """Whether the factory's Downsample chooses its grid, tried with 64 channels, which suit every filling."""
    return bool(getattr(make(64, 2), "chooses", False))


def _start(module: Any) -> nn.Module | None:
    """The crop that keeps the windows of a layer with TensorFlow's padding (timm's "Same" layers) where they were."""
    kind = getattr(type(module), "own_class", type(module)).__name__
    if not kind.endswith("2dSame"):
        return None
    settings = zip(each(module.dilation, 2), each(module.kernel_size, 2), strict=True)
    rows, columns = (d * (k - 1) for d, k in settings)
    strides = stride_of(module)
    return SameStart2d((rows, columns), (strides[0], strides[1]))


def _policy(place: Place) -> str:
    if isinstance(place.module, CONVOLUTIONS):
        return "stem" if place.stem else "strided_conv"
    if isinstance(place.module, MAX_POOLS):
        return "max_pool"
    return "average_pool" if isinstance(place.module, AVERAGE_POOLS) else ""


def _drops(module: Any) -> bool:
    """Whether a max-pool's ceil_mode drops windows that begin outside the map."""
    dims = dims_of(module)
    settings = (each(value, dims) for value in (module.kernel_size, module.padding, module.dilation))
    return any(s > d * (k - 1) + 1 - p for k, p, d, s in zip(*settings, stride_of(module), strict=True))


def _patterns(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
