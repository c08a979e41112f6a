"""Traces the effect of a circular shift of the image through every step of a network's graph.

A step's output is a map that moves with the image, channels first or last, on the grid chosen by the strides before it
(`Flow`: these strides in order); or it does not depend on the shift (None); or the step breaks shift-invariance, for a
stated reason.
"""

import operator
from typing import Any

from torch import Tensor, fx, nn

from stillpoint.core.surgery.filtered import Averaged2d, CircularPad2d, Filtered
from stillpoint.core.surgery.places import Network, Place
from stillpoint.core.surgery.shared_grid import ChosenSample2d, FollowingSample2d
from stillpoint.core.surgery.striding import (
    AVERAGE_POOLS,
    CONVOLUTIONS,
    MAX_POOLS,
    PASSED,
    RESIZERS,
    dims_of,
    each,
    is_activation,
    is_filter,
    is_functional_activation,
    is_norm,
)

Flow = tuple[Place, ...] | None

_POINTWISE = (
    *("add", "add_", "iadd", "sub", "sub_", "rsub", "mul", "mul_", "imul", "div", "truediv", "pow", "sqrt", "rsqrt"),
    *("square", "exp", "abs", "neg", "maximum", "minimum", "where", "addcmul", "float", "to", "type_as", "contiguous"),
    *("clone", "detach", "dropout", "dropout_", "stochastic_depth", "batch_norm", "linear", "layer_norm"),
    *("hardsigmoid", "erf", "log", "alpha_dropout", "expand_as"),
)
_MEANS = ("mean", "sum", "amax", "amin", "var", "std", "norm")
_SIZES = ("size", "dim", "numel", "_assert")
_OVER_THE_LAST_AXIS = ("linear", "layer_norm")
_UPSAMPLING = (nn.Upsample, nn.ConvTranspose2d, nn.PixelShuffle)
_NOT_POINTWISE = (nn.GLU, nn.Softmax, nn.Softmin, nn.LogSoftmax, nn.MultiheadAttention)


class Flows:
    """The flow of every step of a network; maps that meet in one step share one grid.

    reasons   (where, why) the network cannot be made invariant
    windows   convolutions and pools, whose windows must wrap around
    averaged  with `average_head`, layers that flatten or pool the last map and are to see its average
    """

    def __init__(self, network: Network, *, average_head: bool = False) -> None:
        self.network, self.average_head = network, average_head
        self.reasons: list[tuple[str, str]] = [
            (name or "the network", f"its forward cannot be traced ({why})") for name, why in network.untraced.items()
        ]
        self.windows: dict[str, nn.Module] = {}
        self.averaged: list[str] = []
        self._leader: dict[Place, Place] = {place: place for place in network.places}
        self._at: dict[fx.Node, Flow] = {}
        self._tables: set[fx.Node] = set()
        self._last: set[fx.Node] = set()  # maps whose channels are last
        if len(network.parts) != 1 and not self.reasons:
            self.reasons.append(("the network", "no forward joins its parts"))
        if self.reasons:
            return
        self.part = network.parts[0]
        for node in self.part.graph.nodes:
            try:
                self._at[node] = self._flow(node)
            except _Broken as broken:
                name = str(node.target) if node.op == "call_module" else self.part.scope.get(node, "") or node.name
                self.reasons.append((name, str(broken)))
                self._at[node] = None  # go on, to report every reason at once

    def leader(self, place: Place) -> Place:
        """The place that represents all that share its grid."""
        while self._leader[place] is not place:
            place = self._leader[place]
        return place

    def _flow(self, node: fx.Node) -> Flow:
        flows = [self._at[source] for source in node.all_input_nodes]
        if node.op == "placeholder":
            return ()
        if node.op == "get_attr":
            value: Any = self.network.model
            for name in str(node.target).split("."):
                value = getattr(value, name)
            if isinstance(value, Tensor) and sum(n > 1 for n in value.shape) > 1:
                self._tables.add(node)
            return None
        if node.op == "output":
            if any(flow is not None for flow in flows):
                raise _Broken("its output is a map, which moves with the image")
            return None
        if all(flow is None for flow in flows):
            if any(source in self._tables for source in node.all_input_nodes):
                self._tables.add(node)
            return None
        if node.op == "call_module":
            return self._layer(node, flows)
        return self._function(node, flows)

    def _layer(self, node: fx.Node, flows: list[Flow]) -> Flow:
        module: Any = self.network.module(node)
        flow = self._joined(node, flows)
        assert flow is not None
        if isinstance(module, ChosenSample2d | FollowingSample2d):
            return flow
        if is_filter(module) or (isinstance(module, Filtered) and _blurs(module)):
            raise _Broken("it has a filter on a fixed grid already")
        tokens = isinstance(module, nn.Linear) or (
            isinstance(module, nn.LayerNorm) and "2d" not in type(module).__name__
        )
        anyhow = (is_activation(module) and not isinstance(module, _NOT_POINTWISE)) or isinstance(module, PASSED)
        if not anyhow and tokens != (node in self._last):
            raise _Broken(f"{type(module).__name__} does not act along the channels of this map")
        if node in self.network.at:
            place = self.network.at[node]
            self._window(place.name, module, strided=True)
            if self.network.uses[id(module)] > 1:
                raise _Broken("it strides and is used more than once")
            return (*flow, place)
        if isinstance(module, (*CONVOLUTIONS, *MAX_POOLS, *AVERAGE_POOLS)):
            self._window(str(node.target), module, strided=False)
            return flow
        if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1:
            raise _Broken("its norm has weights for each position of the map")
        if is_norm(module) or anyhow or tokens:
            return flow
        if isinstance(module, RESIZERS) and "Adaptive" in type(module).__name__:
            if set(each(module.output_size, dims_of(module))) == {1}:
                return None
            if self._averages(node, module):
                return None
            raise _Broken(
                f"it pools to {module.output_size}, which keeps positions: average the whole map, head='average'"
            )
        if isinstance(module, nn.Flatten):
            if self._averages(node, module):
                return None
            raise _Broken("it flattens a map, which keeps positions: average the whole map, head='average'")
        if isinstance(module, _UPSAMPLING):
            raise _Broken("it upsamples without regard to the grid that was chosen when downsampling")
        raise _Broken(f"{type(module).__name__} is not known to be shift-equivariant")

    def _averages(self, node: fx.Node, module: nn.Module) -> bool:
        """Whether the module sees its map's average, now or after the surgery; the latter is added to `averaged`."""
        seen = isinstance(module, Filtered) and any(isinstance(m, Averaged2d) for m in module.filter_before.modules())
        usual = node not in self._last and self.network.once(module) and not isinstance(module, nn.AdaptiveMaxPool2d)
        if self.average_head and usual and not seen:
            self.averaged.append(str(node.target))
        return seen or (self.average_head and usual)

    def _function(self, node: fx.Node, flows: list[Flow]) -> Flow:
        name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
        if node.target is operator.getitem:
            flow = self._joined(node, flows)
            if _whole(node.args[1], self._channels(node)[0]):
                return flow
            raise _Broken("it crops a map")
        if name in _SIZES or (node.target is getattr and node.args[1] in ("shape", "ndim", "dtype", "device")):
            return None
        if name == "permute":
            return self._permuted(node, flows)
        if name in _MEANS:
            return self._mean(node, flows)
        if name in ("adaptive_avg_pool2d", "adaptive_max_pool2d") and node.args[1:] in ((1,), ((1, 1),), ([1, 1],)):
            return None
        if name in ("cat", "concat", "chunk", "split"):
            given = [*node.args[1:], *node.kwargs.values()]
            flow = self._joined(node, flows)
            if (given[-1] if given else 0) in self._channels(node):
                return flow
            raise _Broken(f"{name} acts along another axis of the map than its channels")
        if name in _POINTWISE or is_functional_activation(node):
            flow, along = self._joined(node, flows), name in _OVER_THE_LAST_AXIS
            if not along and any(source in self._tables for source in node.all_input_nodes):
                raise _Broken("it combines the map with a table of values for each position")
            if along and node not in self._last:
                raise _Broken(f"{name} does not act along the channels of this map")
            return flow
        if name == "interpolate":
            raise _Broken("it upsamples without regard to the grid that was chosen when downsampling")
        if name in ("flatten", "reshape", "view"):
            raise _Broken("it flattens or rearranges a map: average the map instead")
        raise _Broken(f"the function {name} is not known to be shift-equivariant")

    def _mean(self, node: fx.Node, flows: list[Flow]) -> Flow:
        position = 2 if getattr(node.target, "__name__", node.target) == "norm" else 1
        given: Any = node.args[position] if len(node.args) > position else node.kwargs.get("dim")
        flow = self._joined(node, flows)
        if given is None:
            return None
        dims = {d % 4 for d in (given if isinstance(given, list | tuple) else [given])}
        channels = {d % 4 for d in self._channels(node)}
        if {1, 2, 3} - channels <= dims:
            return None
        if dims == channels:
            return flow
        raise _Broken(f"it averages a map over the axes {sorted(dims)} only")

    def _permuted(self, node: fx.Node, flows: list[Flow]) -> Flow:
        flow = self._joined(node, flows)
        order: Any = node.args[1:] if isinstance(node.args[1], int) else node.args[1]
        last = node in self._last
        self._last.discard(node)
        if tuple(order) == (0, 2, 3, 1) and not last:
            self._last.add(node)
        elif tuple(order) != (0, 3, 1, 2) or not last:
            raise _Broken(f"it permutes the axes of a map by {tuple(order)}")
        return flow

    def _channels(self, node: fx.Node) -> tuple[int, int]:
        return (-1, 3) if node in self._last else (1, -3)

    def _joined(self, node: fx.Node, flows: list[Flow]) -> Flow:
        """Puts all maps that meet in a step on one grid, and returns their flow."""
        maps = [flow for flow in flows if flow is not None]
        last = {source in self._last for source in node.all_input_nodes if self._at[source] is not None}
        if len(last) > 1:
            raise _Broken("it combines maps with channels first and with channels last")
        if True in last:
            self._last.add(node)
        for other in maps[1:]:
            if len(other) != len(maps[0]):
                raise _Broken("it combines maps that were subsampled a different number of times")
            for one, two in zip(maps[0], other, strict=True):
                first, second = self.leader(one), self.leader(two)
                if first.stride != second.stride:
                    raise _Broken(f"it combines maps of {first.name} and {second.name}, whose strides differ")
                if first is not second:
                    self._leader[second] = first
        return maps[0]

    def _window(self, name: str, module: Any, *, strided: bool) -> None:
        """Records a layer that needs circular padding; _Broken for one that circular padding cannot serve."""
        if isinstance(module, Filtered) and any(isinstance(m, CircularPad2d) for m in module.filter_before.modules()):
            return
        if dims_of(module) != 2:
            raise _Broken("only two-dimensional maps can be sampled on a chosen grid")
        if "Same" in type(module).__name__:
            raise _Broken("TensorFlow's padding depends on the size of the map")
        if getattr(module, "return_indices", False):
            raise _Broken("its indices are used")
        kernel, dilation = each(module.kernel_size, 2), each(getattr(module, "dilation", 1), 2)
        reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        if not strided and module.padding != "same":
            pads = (0, 0) if module.padding == "valid" else each(module.padding, 2)
            if any(2 * p != r for p, r in zip(pads, reach, strict=True)):
                raise _Broken("it changes the size of its map without a stride")
        self.windows[name] = module


def circular_pads(module: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """Pads ((top, bottom), (left, right)) with which a dense window keeps a map's size and the window's position."""
    kernel, dilation = each(module.kernel_size, 2), each(getattr(module, "dilation", 1), 2)
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if module.padding == "same":
        before = [r // 2 for r in reach]
    else:
        before = [0, 0] if module.padding == "valid" else list(each(module.padding, 2))
    rows, columns = ((b, r - b) for b, r in zip(before, reach, strict=True))
    return rows, columns


class _Broken(Exception):
    """A step that is not shift-equivariant, with the reason."""


def _blurs(module: Filtered) -> bool:
    """Whether filters on a fixed grid were attached to a module."""
    attached = [*module.filter_before.children(), module.filter_before, *module.filter_behind.children()]
    attached.append(module.filter_behind)
    own = (ChosenSample2d, FollowingSample2d)
    inner = {id(m.filling) for m in attached if isinstance(m, own)}
    return any(is_filter(m) and not isinstance(m, own) and id(m) not in inner for m in attached)


def _whole(index: Any, channels: int) -> bool:
    """Whether an index takes an element of a tuple, or channels of a map at all positions."""
    if isinstance(index, int):
        return True
    if not isinstance(index, tuple) or len(index) < 2 or Ellipsis in index:
        return False
    kept = [part for axis, part in enumerate(index) if axis != channels % 4]
    return all(part == slice(None) for part in kept)
