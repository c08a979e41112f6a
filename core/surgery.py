"""Turns a network that strides into an antialiased one, in place, with its weights (Zhang, ICML 2019, section 3.2).

A stride is moved out of the layer that has it and into a low-pass filter that follows:

    max-pool, stride s                  -> max-pool, stride 1 - filter, stride s
    convolution, stride s - norm - act  -> convolution, stride 1 - norm - act - filter, stride s
    1x1 convolution, stride s           -> filter, stride s - 1x1 convolution (they commute; this order is cheaper)
    average pool, stride s              -> filter, stride s

The filter stands behind the activation, because it must see what is subsampled. Names in the state_dict do not
change, so checkpoints of the original load before and after.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from core.layers.downsample import DownsampleFactory, downsample_factory
from core.layers.polyphase import PolyphaseDownsample2d

POLICIES = ("max_pool", "strided_conv", "average_pool", "stem")
_NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d, nn.SyncBatchNorm, nn.Identity, nn.Dropout, nn.Dropout2d)
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.ELU, nn.Mish, nn.PReLU, nn.Tanh)
_FUNCTIONAL_POOLS = {"max_pool2d", "avg_pool2d", "_max_pool2d"}
_UNTOLD = "its channels cannot be told, because no convolution stands before it"


class PooledConv2d(nn.Conv2d):
    """A convolution that sees its input through a Downsample, `pool`; parameters keep the convolution's names."""

    pool: nn.Module

    @classmethod
    def of(cls, conv: nn.Conv2d, pool: nn.Module) -> "PooledConv2d":
        """`conv` itself (parameters, hooks, settings), with `pool` before it."""
        made = cls.__new__(cls)
        made.__dict__ = conv.__dict__
        made.pool = nn.Sequential(pool, conv.pool) if isinstance(conv, PooledConv2d) else pool
        return made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.pool(x))


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
        downsample: factory (channels, stride) of the filter; none: `BlurPool2d` of size 4, the paper's choice.
        verbose: print the report.

    Returns:
        A `Report`. What strides and could not be treated is listed there with the reason.

    Raises:
        ValueError: an unknown policy, a network that cannot be traced, a Downsample that chooses its grid (its
            shortcuts would need the same one: build the network with `pipelines.create` instead), or nothing to do.
    """
    wanted = (policy,) if isinstance(policy, str) else tuple(policy)
    if unknown := [name for name in wanted if name not in POLICIES]:
        raise ValueError(f"policy must be made of {', '.join(POLICIES)}, got {', '.join(map(repr, unknown))}")
    make = downsample or downsample_factory("blur", size=4)
    if isinstance(make(16, 2), PolyphaseDownsample2d):
        raise ValueError(
            "an adaptive grid must be shared with the shortcuts, which surgery cannot do: use a fixed filter"
        )
    surgeon = _Surgeon(model, wanted, make)
    report = surgeon.operate()
    if not report.changes:
        raise ValueError(f"nothing to antialias under the policy {', '.join(wanted)}: {report}")
    if verbose:
        print(report)
    return report


class _Tracer(fx.Tracer):
    """Sees a convolution or a norm of a library's own, which carries its padding or its activation, as one layer.

    `closed`: so too every module in which no layer strides, for networks where one of those branches in its forward.
    """

    def __init__(self, closed: bool = False) -> None:
        super().__init__()
        self.closed = closed

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, (nn.Conv2d, *_NORMS)) or super().is_leaf_module(m, module_qualified_name):
            return True
        return self.closed and not isinstance(m, nn.Sequential) and not any(map(_strides, m.modules()))


def _traced(model: nn.Module) -> fx.Graph:
    try:
        return _Tracer().trace(model)
    except Exception as error:  # whatever a user's forward raises when it is traced
        try:
            return _Tracer(closed=True).trace(model)
        except Exception:
            raise ValueError(
                f"torch.fx cannot trace this {type(model).__name__}: {str(error).partition(chr(10))[0]}"
            ) from error


class _Surgeon:
    def __init__(self, model: nn.Module, policy: tuple[str, ...], make: DownsampleFactory) -> None:
        self.model, self.policy, self.make, self.report = model, policy, make, Report()
        self.graph = _traced(model)
        self.uses: dict[str, int] = {}
        for node in self.graph.nodes:
            if node.op == "call_module":
                self.uses[str(node.target)] = self.uses.get(str(node.target), 0) + 1

    def operate(self) -> Report:
        first_conv = True
        for node in list(self.graph.nodes):
            if node.op == "call_function" and getattr(node.target, "__name__", "") in _FUNCTIONAL_POOLS:
                self._leave(node.name, "a pooling function inside a forward cannot be exchanged")
            if node.op != "call_module":
                continue
            module = self.model.get_submodule(str(node.target))
            if isinstance(module, nn.Conv2d):
                if _stride(module.stride) > 1:
                    self._convolution(node, module, stem=first_conv)
                first_conv = False
            elif isinstance(module, nn.MaxPool2d) and _stride(module.stride) > 1:
                self._max_pool(node, module)
            elif isinstance(module, nn.AvgPool2d) and _stride(module.stride) > 1:
                self._average_pool(node, module)
        return self.report

    def _max_pool(self, node: fx.Node, module: nn.MaxPool2d) -> None:
        if "max_pool" not in self.policy:
            return self._leave(str(node.target), "not in the policy")
        if module.return_indices:
            return self._leave(str(node.target), "its indices are used")
        channels = self._channels(node)
        if channels is None:
            return self._leave(str(node.target), _UNTOLD)
        dense = nn.MaxPool2d(module.kernel_size, 1, module.padding, module.dilation)
        self._replace(node, nn.Sequential(dense, self.make(channels, _stride(module.stride))))
        return None

    def _average_pool(self, node: fx.Node, module: nn.AvgPool2d) -> None:
        if "average_pool" not in self.policy:
            return self._leave(str(node.target), "not in the policy")
        channels = self._channels(node)
        if channels is None:
            return self._leave(str(node.target), _UNTOLD)
        self._replace(node, self.make(channels, _stride(module.stride)))
        return None

    def _convolution(self, node: fx.Node, conv: nn.Conv2d, *, stem: bool) -> None:
        if ("stem" if stem else "strided_conv") not in self.policy:
            return self._leave(str(node.target), "the stem is not in the policy" if stem else "not in the policy")
        if self.uses[str(node.target)] > 1:
            return self._leave(str(node.target), "it is used more than once")
        stride = _stride(conv.stride)
        before = _describe(conv)
        if tuple(conv.kernel_size) == (1, 1):
            conv.stride = (1, 1)
            self._swap(str(node.target), PooledConv2d.of(conv, self.make(conv.in_channels, stride)))
            self._tell(
                str(node.target),
                before,
                f"{_filter(self.make, conv.in_channels, stride)} - 1x1 convolution of stride 1",
            )
            return None
        if max(conv.kernel_size) <= stride:
            return self._leave(
                str(node.target), f"its {_describe(conv)} cuts the image into patches that do not overlap"
            )
        place = self._behind(node)
        if isinstance(place, str):
            return self._leave(str(node.target), place)
        conv.stride = (1, 1)
        targets, wrap = place
        for target in targets:
            old = self.model.get_submodule(target)
            pool = self.make(conv.out_channels, stride)
            if wrap == "after":
                self._swap(target, nn.Sequential(old, pool))
            elif isinstance(old, nn.Conv2d):
                self._swap(target, PooledConv2d.of(old, pool))
            else:
                self._swap(target, nn.Sequential(pool, old))
        where = "behind" if wrap == "after" else "before"
        shown = f"stride 1, {_filter(self.make, conv.out_channels, stride)} {where} {', '.join(targets)}"
        self._tell(str(node.target), before, shown)
        return None

    def _behind(self, node: fx.Node) -> tuple[list[str], str] | str:
        """(modules, "after" or "before") where the filter of a strided convolution goes, or why there is no such
        place.
        """
        end, activated = node, False
        while len(end.users) == 1:
            follower = next(iter(end.users))
            module = self.model.get_submodule(str(follower.target)) if follower.op == "call_module" else None
            if isinstance(module, _NORMS) or (module is not None and "Norm" in type(module).__name__):
                end = follower
                act = getattr(module, "act", None)  # timm's norms carry the activation
                if isinstance(act, nn.Module) and not isinstance(act, nn.Identity):
                    if self.uses[str(end.target)] == 1 and not act.state_dict():
                        return [f"{end.target}.act"], "after"
                    activated = True
                    break
            elif isinstance(module, _ACTIVATIONS) or _is_functional_activation(follower):
                end, activated = follower, True
                break
            else:
                break
        # a module with parameters cannot be wrapped: their names would change
        bare = (
            end.op == "call_module"
            and self.uses[str(end.target)] == 1
            and not self.model.get_submodule(str(end.target)).state_dict()
        )
        if bare and end is not node and activated:
            return [str(end.target)], "after"
        followers = list(end.users)
        if followers and all(
            f.op == "call_module"
            and self.uses[str(f.target)] == 1
            and isinstance(self.model.get_submodule(str(f.target)), nn.Conv2d | nn.MaxPool2d)
            for f in followers
        ):
            return [str(f.target) for f in followers], "before"
        return "what follows it is neither an activation of its own nor a convolution"

    def _channels(self, node: fx.Node) -> int | None:
        """Channels of a pool's input: those of the nearest convolution or norm before it, where there is one."""
        seen: fx.Node | None = node
        while seen is not None:
            module = self.model.get_submodule(str(seen.target)) if seen.op == "call_module" else None
            for name in ("out_channels", "num_features", "num_channels"):
                if hasattr(module, name):
                    return int(getattr(module, name))
            seen = seen.all_input_nodes[0] if seen.all_input_nodes else None
        return None

    def _replace(self, node: fx.Node, new: nn.Module) -> None:
        old = self.model.get_submodule(str(node.target))
        if self.uses[str(node.target)] > 1:
            return self._leave(str(node.target), "it is used more than once")
        self._swap(str(node.target), new)
        self._tell(str(node.target), _describe(old), _describe(new))
        return None

    def _swap(self, target: str, new: nn.Module) -> None:
        parent, _, name = target.rpartition(".")
        new.train(self.model.get_submodule(target).training)
        reference = next(self.model.parameters(), None)
        if reference is not None:
            new.to(reference.device)
        setattr(self.model.get_submodule(parent), name, new)

    def _tell(self, name: str, before: str, after: str) -> None:
        self.report.changes.append(Change(name, before, after))

    def _leave(self, name: str, reason: str) -> None:
        self.report.left.append((name, reason))


def _strides(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) and _stride(module.stride) > 1


def _stride(stride: int | tuple[int, ...]) -> int:
    return stride if isinstance(stride, int) else max(stride)


def _is_functional_activation(node: fx.Node) -> bool:
    known = {"relu", "relu_", "relu6", "silu", "gelu", "hardswish", "leaky_relu", "elu", "mish", "tanh"}
    return (node.op == "call_function" and getattr(node.target, "__name__", "") in known) or (
        node.op == "call_method" and node.target in known
    )


def _filter(make: DownsampleFactory, channels: int, stride: int) -> str:
    return _describe(make(channels, stride))


def _describe(module: nn.Module) -> str:
    if isinstance(module, nn.Sequential):
        return " - ".join(_describe(child) for child in module)
    if isinstance(module, nn.Conv2d):
        rows, columns = module.kernel_size
        return f"{rows}x{columns} convolution of stride {_stride(module.stride)}"
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        kind = "max" if isinstance(module, nn.MaxPool2d) else "average"
        size = module.kernel_size if isinstance(module.kernel_size, int) else module.kernel_size[0]
        return f"{size}x{size} {kind}-pool of stride {_stride(module.stride)}"
    taps: Any = getattr(module, "size", "")
    stride: Any = getattr(module, "stride", 1)
    return f"{type(module).__name__}{f' of {taps} taps' if taps else ''}, stride {_stride(stride)}"
