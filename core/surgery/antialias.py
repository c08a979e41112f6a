"""Turns a network that strides into an antialiased one, in place, with its weights (Zhang, ICML 2019, section 3.2).

A stride is moved out of the layer that has it and into a low-pass filter:

    max-pool, stride s                  -> max-pool, stride 1 - filter, stride s
    convolution, stride s - norm - act  -> convolution, stride 1 - norm - act - filter, stride s
    1x1 convolution, stride s           -> filter, stride s - 1x1 convolution (they commute; this order is cheaper)
    average pool, stride s              -> filter, stride 1 - average pool, stride s

The filter stands behind the activation, because it must see what is subsampled. The paper exchanges an average pool
for the filter; here it keeps its windows, and with them its sizes: 2x2 averages of what a filter of n taps gives are
what one of n + 1 taps gives.

Law: every map keeps its size, behind its filter, whatever the size of the image. A filter that reflects needs a map
larger than its reach, though, 2 pixels for the 4 taps of the paper's choice, and says so where it is not.

What looks at a layer's stride or at its whole map computes with the dense one: TensorFlow's "same" padding becomes that
of stride 1, and the statistics of a GroupNorm are those of all pixels.

Names in the state_dict do not change, so checkpoints of the original load before and after. Only a filter with
parameters, "adaptive_blur", adds names of its own, which a checkpoint of the original does not have.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.parametrize import is_parametrized

from stillpoint.core.layers.downsample import Downsample, DownsampleFactory, Subsample, downsample_factory
from stillpoint.core.surgery.striding import LAYERS, NORMS, describe, function_strides, pair, stride_of, strides, traced

POLICIES = ("max_pool", "strided_conv", "average_pool", "stem")
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.ELU, nn.Mish, nn.PReLU, nn.Tanh)


class PooledConv2d(nn.Conv2d):
    """A convolution that sees its input through a Downsample, `pool`; parameters keep the convolution's names."""

    pool: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.pool(x))


@cache
def _pooled(kind: Any) -> Any:
    """`PooledConv2d` over another class of convolution, whose own forward is reached; pickle finds it again."""
    if kind is nn.Conv2d:
        return PooledConv2d

    def reduce(conv: nn.Module, protocol: Any) -> Any:
        return _blank, (kind,), conv.__getstate__()

    return type(f"Pooled{kind.__name__}", (PooledConv2d, kind), {"__reduce_ex__": reduce})


def _blank(kind: Any) -> nn.Module:
    made = _pooled(kind)
    return made.__new__(made)


@dataclass(frozen=True)
class Change:
    """What was done to the module called `name`."""

    name: str
    before: str
    after: str


@dataclass
class Report:
    """All changes in the order of execution, and what still strides with the reason it was left."""

    changes: list[Change] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{c.name}: {c.before} -> {c.after}" for c in self.changes]
        lines += [f"{name}: left as it is ({reason})" for name, reason in self.left]
        return "\n".join(lines) or "nothing strides: nothing was changed"


def antialias(
    model: nn.Module,
    policy: str | Sequence[str] = ("max_pool", "strided_conv", "average_pool"),
    *,
    downsample: DownsampleFactory | None = None,
    verbose: bool = True,
) -> Report:
    """Antialiases `model` in place and says what it changed.

    Args:
        model: any network that `torch.fx` can trace, such as torchvision's and most of timm's; weights are kept.
        policy: what to treat, of "max_pool", "strided_conv", "average_pool" and "stem" (the first convolution of the
            network, which the paper leaves alone for its cost).
        downsample: factory (channels, stride) of the filter; none: `BlurPool2d` of size 4, the paper's choice. Where
            rows and columns have strides of their own the stride is a pair, else an integer.
        verbose: print the report.

    Returns:
        A `Report`. What strides and could not be treated is listed there with the reason, as far as `torch.fx` shows
        it: what a library hides from it is not seen.

    Raises:
        ValueError: an unknown policy, no network or one that cannot be traced, a Downsample that chooses its grid (its
            shortcuts would need the same one: build the network with `pipelines.create` instead) or cannot be built for
            a place, or nothing to do. The network is then as it was.
    """
    wanted = (policy,) if isinstance(policy, str) else tuple(policy)
    if unknown := [name for name in wanted if name not in POLICIES]:
        raise ValueError(f"policy must be made of {', '.join(POLICIES)}, got {', '.join(map(repr, unknown))}")
    if not isinstance(model, nn.Module):
        raise ValueError(f"antialias needs a network, a torch.nn.Module, got {model!r} of type {type(model).__name__}")
    if isinstance(model, LAYERS):
        raise ValueError(
            f"antialias exchanges the layers of a network, and this {type(model).__name__} is one by itself: "
            "hand over an nn.Sequential of it"
        )
    surgeon = _Surgeon(model, wanted, downsample or downsample_factory("blur", size=4))
    report = surgeon.plan()
    if not report.changes:
        raise ValueError(f"nothing to antialias under the policy {', '.join(wanted)}: {report}")
    surgeon.operate()
    if verbose:
        print(report)
    return report


class _Surgeon:
    """Plans everything while the network is as it was, so that a refusal leaves nothing half done; then operates."""

    def __init__(self, model: nn.Module, policy: tuple[str, ...], make: DownsampleFactory) -> None:
        self.model, self.policy, self.make, self.report = model, policy, make, Report()
        self.graph = traced(model)
        self.uses = Counter(str(node.target) for node in self.graph.nodes if node.op == "call_module")
        self.dense: list[Any] = []
        self.before: dict[str, list[nn.Module]] = defaultdict(list)
        self.after: dict[str, list[nn.Module]] = defaultdict(list)

    def plan(self) -> Report:
        stem = True
        for node in self.graph.nodes:
            if what := function_strides(node):
                self._leave(node.name, f"{what} inside a forward cannot be exchanged")
            module = self._module(node)
            if isinstance(module, Subsample) and max(module.stride) > 1:
                self._leave(str(node.target), "a Downsample without a filter: build the network with another")
            if module is not None and strides(module):
                reason = self._treat(node, module, stem)
                if reason:
                    self._leave(str(node.target), reason)
            stem = stem and not isinstance(module, nn.Conv2d)
        return self.report

    def operate(self) -> None:
        for module in self.dense:
            module.stride = (1, 1)
        for target in {**self.before, **self.after}:
            module = self.model.get_submodule(target)
            if isinstance(module, nn.Conv2d):
                self._pool(module, self.before[target])
            else:
                self._exchange(module, nn.Sequential(*self.before[target], module, *self.after[target]))

    def _treat(self, node: fx.Node, module: nn.Module, stem: bool) -> str:
        """Plans what to do with a layer that strides, or says why it is left."""
        treatments: list[tuple[type[nn.Module], str, Any]] = [
            (nn.Conv2d, "stem" if stem else "strided_conv", self._convolution),
            (nn.MaxPool2d, "max_pool", self._max_pool),
            (nn.AvgPool2d, "average_pool", self._average_pool),
        ]
        for kind, policy, treatment in treatments:
            if isinstance(module, kind):
                if policy not in self.policy:
                    return "the stem is not in the policy" if policy == "stem" else "not in the policy"
                if self.uses[str(node.target)] > 1:
                    return "it is used more than once"
                return treatment(node, module)
        return "only convolutions, max-pools and average pools of two dimensions are treated"

    def _max_pool(self, node: fx.Node, module: nn.MaxPool2d) -> str:
        target, stride = str(node.target), stride_of(module)
        channels = self._channels(node)
        if module.return_indices:
            return "its indices are used"
        if channels is None:
            return "its channels cannot be told, because no convolution stands before it"
        if module.ceil_mode:
            sizes = zip(pair(module.kernel_size), pair(module.padding), pair(module.dilation), stride, strict=True)
            if any(s > d * (k - 1) + 1 - p for k, p, d, s in sizes):
                return "its ceil_mode drops windows that begin outside the map"
            # the windows that reach past the map, at the bottom and the right, see nothing there
            self.before[target].append(nn.ConstantPad2d((0, stride[1] - 1, 0, stride[0] - 1), -torch.inf))
        made = self._filter(module, channels, stride)
        self.dense.append(module)
        self.after[target].append(made)
        rows, columns = pair(module.kernel_size)
        self._tell(target, module, f"{rows}x{columns} max-pool of stride 1 - {describe(made)}")
        return ""

    def _average_pool(self, node: fx.Node, module: nn.AvgPool2d) -> str:
        channels, stride = self._channels(node), stride_of(module)
        if channels is None:
            return "its channels cannot be told, because no convolution stands before it"
        made = self._filter(module, channels, (1, 1))
        taps: Any = getattr(made, "size", None)
        if taps is not None and max(stride) > taps:
            return f"it averages over {max(stride)} pixels already, and the filter over {taps}"
        self.before[str(node.target)].append(made)
        self._tell(str(node.target), module, f"{describe(made)} - {describe(module)}")
        return ""

    def _convolution(self, node: fx.Node, conv: nn.Conv2d) -> str:
        target, stride, pointwise = str(node.target), stride_of(conv), tuple(conv.kernel_size) == (1, 1)
        if pointwise and conv.padding in ("valid", (0, 0)):
            if is_parametrized(conv):
                return "its weight is parametrised"
            made = self._filter(conv, conv.in_channels, stride)
            self.dense.append(conv)
            self.before[target].append(made)
            self._tell(target, conv, f"{describe(made)} - 1x1 convolution of stride 1")
            return ""
        windows = zip(conv.kernel_size, conv.dilation, stride, strict=True)
        if not pointwise and all(d * (k - 1) + 1 <= s for k, d, s in windows):
            return f"its {describe(conv)} cuts the image into patches that do not overlap"
        targets, where = self._behind(node)
        if not targets:
            return "what follows it is neither an activation of its own nor a convolution"
        self.dense.append(conv)
        for place in targets:
            made = self._filter(conv, conv.out_channels, stride)
            (self.after if where == "behind" else self.before)[place].append(made)
        self._tell(target, conv, f"stride 1, {describe(made)} {where} {', '.join(targets)}")
        return ""

    def _behind(self, node: fx.Node) -> tuple[list[str], str]:
        """The modules "behind" or "before" which the filter of a strided convolution goes; none: there is no place."""
        end, activated = node, False
        while len(end.users) == 1:
            follower = next(iter(end.users))
            module = self._module(follower)
            if isinstance(module, NORMS) or (module is not None and "Norm" in type(module).__name__):
                end = follower
                act = getattr(module, "act", None)  # timm's norms carry the activation
                if isinstance(act, nn.Module) and not isinstance(act, nn.Identity):
                    if self.uses[str(end.target)] == 1 and not act.state_dict():
                        return [f"{end.target}.act"], "behind"
                    activated = True
                    break
            elif isinstance(module, _ACTIVATIONS) or _is_functional_activation(follower):
                end, activated = follower, True
                break
            else:
                break
        module = self._module(end)
        # a module with parameters cannot be wrapped: their names would change
        if activated and module is not None and self.uses[str(end.target)] == 1 and not module.state_dict():
            return [str(end.target)], "behind"
        if all(self._takes(follower) for follower in end.users):
            return [str(follower.target) for follower in end.users], "before"
        return [], ""

    def _takes(self, node: fx.Node) -> bool:
        """Whether a filter can be put before this layer."""
        module = self._module(node)
        if module is None or self.uses[str(node.target)] > 1 or is_parametrized(module):
            return False
        return isinstance(module, nn.Conv2d | nn.MaxPool2d)

    def _channels(self, node: fx.Node) -> int | None:
        """Channels of a step's output: those of the nearest convolution or norm before it, where there is one."""
        module, sources = self._module(node), node.all_input_nodes
        for name in ("out_channels", "num_features", "num_channels"):
            if hasattr(module, name):
                return int(getattr(module, name))
        if getattr(node.target, "__name__", "") == "cat" and (*node.args[1:], *node.kwargs.values()) in [(1,), (-3,)]:
            joined: Any = node.args[0]
            counts = [self._channels(part) for part in joined] if isinstance(joined, list | tuple) else [None]
            return None if None in counts else sum(filter(None, counts))
        return self._channels(sources[0]) if sources else None

    def _filter(self, near: nn.Module, channels: int, stride: tuple[int, ...]) -> nn.Module:
        rows, columns = stride
        made = self.make(channels, rows if rows == columns else (rows, columns))
        if isinstance(made, Downsample) and made.chooses:
            raise ValueError(
                "an adaptive grid must be shared with the shortcuts, which surgery cannot do: use a fixed filter"
            )
        parameters = chain(near.parameters(), self.model.parameters())
        reference = next((p for p in parameters if p.is_floating_point()), None)
        if reference is not None:
            made.to(reference.device, reference.dtype)
        return made.train(near.training)

    def _pool(self, conv: nn.Conv2d, filters: list[nn.Module]) -> None:
        if isinstance(conv, PooledConv2d):
            filters = [conv.pool, *filters]
        else:
            kind: Any = type(conv)
            conv.__class__ = _pooled(kind)
        conv.pool = filters[0] if len(filters) == 1 else nn.Sequential(*filters)

    def _exchange(self, old: nn.Module, new: nn.Module) -> None:
        new.training = old.training
        for parent in list(self.model.modules()):
            for name, child in parent._modules.items():
                if child is old:
                    setattr(parent, name, new)

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.model.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _tell(self, name: str, module: nn.Module, after: str) -> None:
        self.report.changes.append(Change(name, describe(module), after))

    def _leave(self, name: str, reason: str) -> None:
        self.report.left.append((name, reason))


def _is_functional_activation(node: fx.Node) -> bool:
    known = {"relu", "relu_", "relu6", "silu", "gelu", "hardswish", "leaky_relu", "elu", "mish", "tanh"}
    return (node.op == "call_function" and getattr(node.target, "__name__", "") in known) or (
        node.op == "call_method" and node.target in known
    )
