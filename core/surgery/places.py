"""Finds where a network strides, and where the filter of each stride goes.

A stride moves from its layer to where a filter sees the map that is subsampled:

- behind the activation that follows, through norms, and through additions whose other summands have the same stride;
- behind the block that ends with the activation, if that is a function or a layer used elsewhere;
- before the layers that follow, if neither is possible;
- behind the layer itself if no activation follows: before an addition, a concatenation, the next block.
"""

import inspect
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn
from torch.nn.utils.parametrize import is_parametrized

from stillpoint.core.layers.downsample import Subsample
from stillpoint.core.surgery.filtered import Filtered, is_free
from stillpoint.core.surgery.striding import (
    CONVOLUTIONS,
    MAX_POOLS,
    asks_for_size,
    dims_of,
    is_activation,
    is_addition,
    is_filter,
    is_functional_activation,
    is_norm,
    left_out,
    stride_of,
    strides,
)
from stillpoint.core.surgery.tracing import Part, parts


@dataclass(eq=False)
class Place:
    """A strided layer, called in step `node` of a part.

    reason   why it is left; empty: it is treated
    bare     it is left and aliases, so other summands of its output must not be filtered either
    stem     no convolution comes before it
    joined   the places whose sum is filtered once, this one included
    end      the step whose output is filtered
    """

    name: str
    module: Any
    node: fx.Node
    part: Part
    stem: bool
    reason: str = ""
    bare: bool = False
    joined: list["Place"] = field(default_factory=list)
    end: fx.Node | None = None

    @property
    def stride(self) -> tuple[int, ...]:
        return stride_of(self.module)

    @property
    def is_convolution(self) -> bool:
        return isinstance(self.module, CONVOLUTIONS)

    @property
    def is_pointwise(self) -> bool:
        unpadded = self.module.padding in ("valid", (0,) * dims_of(self.module)) if self.is_convolution else False
        return unpadded and set(self.module.kernel_size) == {1}

    @property
    def overlaps(self) -> bool:
        """Whether its windows overlap, unlike those of a layer that cuts the image into patches."""
        windows = zip(self.module.kernel_size, self.module.dilation, self.stride, strict=True)
        return any(d * (k - 1) + 1 > s for k, d, s in windows)


class Network:
    """A network's graphs, its places, and what strides in it without a layer; `training` sets the mode to trace in,
    None keeps each module's own."""

    def __init__(self, model: nn.Module, *, training: bool | None = None) -> None:
        self.model = model
        self.modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
        self.parts, self.untraced = parts(model, training=training)
        nodes = [node for part in self.parts for node in part.graph.nodes]
        self.uses = Counter(id(module) for module in map(self.module, nodes) if module is not None)
        names = [name for part in self.parts for names in part.blocks.values() for name in names]
        self.block_uses = Counter(id(self.modules[name]) for name in names)
        self.places: list[Place] = []
        self.left: list[tuple[str, str]] = []
        self.at: dict[fx.Node, Place] = {}
        convolved = False  # whether an earlier part has a convolution
        for part in self.parts:
            behind: set[fx.Node] = set()  # steps behind a convolution
            shown: set[fx.Node] = set()  # steps that see pixels, not only sizes as tables of positions do
            for node in part.graph.nodes:
                module = self.module(node)
                if node.op == "placeholder" or (not asks_for_size(node) and shown & {*node.all_input_nodes}):
                    shown.add(node)
                if any(source in behind for source in node.all_input_nodes):
                    behind.add(node)
                if module is not None and strides(module):
                    stem = not convolved and node not in behind and isinstance(module, CONVOLUTIONS)
                    self.at[node] = Place(str(node.target), module, node, part, stem)
                    self.places.append(self.at[node])
                elif node in shown and (what := left_out(node, module)):
                    where = str(node.target) if module is not None else part.scope.get(node, "") or node.name
                    inside = "is not treated" if module is not None else "inside its forward cannot be exchanged"
                    self.left.append((where, f"{what} {inside}"))
                elif isinstance(module, Subsample) and max(module.stride) > 1:
                    self.left.append((str(node.target), "a Downsample without a filter: build it with another"))
                if isinstance(module, CONVOLUTIONS):
                    behind.add(node)
            convolved = convolved or bool(behind)

    def module(self, node: fx.Node) -> nn.Module | None:
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def places_of(self, name: str) -> Iterator[Place]:
        return (place for place in self.places if place.name == name)

    def once(self, module: nn.Module) -> bool:
        return self.uses[id(module)] <= 1 and is_free(module)

    def behind(self, place: Place) -> tuple[list[str], str]:
        """(modules, "behind" or "before"): where the filter of a strided convolution goes. Sets `place.joined` to the
        places that this filter serves, and `place.end`."""
        part, end, joined = place.part, place.node, [place]
        activated = False
        while len(end.users) == 1:
            step = next(iter(end.users))
            module = self.module(step)
            if module is not None and is_norm(module):
                act = getattr(module, "act", None)  # timm's norms carry the activation
                end = step
                if isinstance(act, nn.Module) and not isinstance(act, nn.Identity):
                    place.joined, place.end = joined, end
                    if self.once(module):
                        return ([f"{end.target}.act"] if is_free(act) else [str(end.target)]), "behind"
                    activated = True
                    break
            elif is_functional_activation(step) or (module is not None and is_activation(module)):
                end, activated = step, True
                break
            elif is_addition(step) and (summands := self._summands(step, place.stride)):
                end, joined = step, summands
            else:
                break
        place.joined, place.end = joined, end
        module = self.module(end)
        if activated and module is not None and self.once(module):
            return [str(end.target)], "behind"
        if activated or len(joined) > 1:
            for name in part.blocks.get(end, []):
                if self._takes_one_map(name):
                    return [name], "behind"
        if activated and end.users and all(self._takes(step) for step in end.users):
            return [str(step.target) for step in end.users], "before"
        place.joined, place.end = [place], place.node
        return [place.name], "behind"

    def _summands(self, node: fx.Node, stride: tuple[int, ...]) -> list[Place]:
        """The places of all summands of an addition if each is a convolution of that stride with norms; else none."""
        found: list[Place] = []
        for source in node.all_input_nodes:
            module = self.module(source)
            if len(source.users) > 1:
                return []
            if source in self.at:
                place = self.at[source]
                if place.reason or not place.is_convolution or place.stride != stride:
                    return []
                found.append(place)
            elif is_addition(source) or (module is not None and is_norm(module) and not hasattr(module, "act")):
                inner = self._summands(source, stride)
                if not inner:
                    return []
                found += inner
            else:
                carried = getattr(module, "act", None)
                if not (module is not None and is_norm(module) and isinstance(carried, nn.Identity)):
                    return []
                inner = self._summands(source, stride)
                if not inner:
                    return []
                found += inner
        return found

    def _takes(self, node: fx.Node) -> bool:
        """Whether a filter can be put before this layer."""
        module = self.module(node)
        if module is None or not self.once(module) or is_parametrized(module):
            return False
        return isinstance(module, (*CONVOLUTIONS, *MAX_POOLS))

    def _takes_one_map(self, name: str) -> bool:
        """Whether a filter can be put behind this block."""
        module = self.modules[name]
        if not name or self.block_uses[id(module)] > 1 or not is_free(module):
            return False
        own = getattr(type(module), "own_forward", type(module).forward)
        return len([p for p in inspect.signature(own).parameters if p != "self"]) == 1

    def channels(self, node: fx.Node) -> int | None:
        """Channels of a step's output, read from the nearest convolution or norm before it; None without one."""
        module, sources = self.module(node), node.all_input_nodes
        for name in ("out_channels", "num_features", "num_channels"):
            if hasattr(module, name):
                return int(getattr(module, name))
        if getattr(node.target, "__name__", "") == "cat" and (*node.args[1:], *node.kwargs.values()) in [(1,), (-3,)]:
            joined: Any = node.args[0]
            counts = [self.channels(part) for part in joined] if isinstance(joined, list | tuple) else [None]
            return None if None in counts else sum(filter(None, counts))
        return self.channels(sources[0]) if sources else None

    def keep_in_register(self) -> None:
        """Leaves all summands of an addition if one is left bare, since filtered and bare maps would be misaligned."""
        for part in self.parts:
            upstream: dict[fx.Node, frozenset[Place]] = {}
            for node in part.graph.nodes:
                seen = frozenset(p for source in node.all_input_nodes for p in upstream[source])
                upstream[node] = seen | {self.at[node]} if node in self.at else seen
            for node in part.graph.nodes:
                if not is_addition(node) or len(node.all_input_nodes) < 2:
                    continue
                sets = [upstream[source] for source in node.all_input_nodes]
                common = frozenset.intersection(*sets)
                own = [places - common for places in sets]
                if not all(own):
                    continue
                bare = next((p for places in own for p in places if p.bare), None)
                if bare is None:
                    continue
                for place in frozenset.union(*own):
                    for other in place.joined or [place]:
                        if not other.reason:
                            other.bare, other.reason = True, f"it is added to the output of {bare.name}, which is left"


def is_filtered(module: nn.Module) -> bool:
    """Whether a strided layer already sees its input through a filter at full size."""
    if not isinstance(module, Filtered):
        return False
    held: list[Any] = [inner for inner in module.filter_before.modules() if is_filter(inner)]
    return bool(held) and max(held[-1].stride) == 1
