"""Makes networks truly shift-invariant: each grid is chosen from the map and shared by the branches that meet, and all
windows wrap around (Chaman and Dokmanic, "Truly shift-invariant convolutional neural networks", CVPR 2021)."""

from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from stillpoint.core.base.words import counted
from stillpoint.core.layers.downsample import DownsampleFactory
from stillpoint.core.surgery.deployment import protect
from stillpoint.core.surgery.filtered import Averaged2d, CircularPad2d, attach
from stillpoint.core.surgery.flow import Flows, circular_pads
from stillpoint.core.surgery.places import Network, Place
from stillpoint.core.surgery.report import Change, Report
from stillpoint.core.surgery.shared_grid import ChosenSample2d, FollowingSample2d, Register
from stillpoint.core.surgery.striding import describe, each


class InvariantSurgeon:
    """Plans all changes before making any; if `reasons` says why the network cannot be made invariant, it plans none.

    A sampling layer goes where a filter would: after the activation, or before a 1x1 convolution. Of all layers that
    share a grid, the first to run chooses it.
    """

    def __init__(self, model: nn.Module, make: DownsampleFactory, *, average_head: bool = False) -> None:
        self.model, self.make, self.report = model, make, Report()
        self.network = Network(model, training=False)
        self.flows = Flows(self.network, average_head=average_head)
        self.reasons = list(self.flows.reasons)
        for name, module in self.flows.windows.items():
            if is_parametrized(module):
                self.reasons.append((name, "its weight is parametrised"))
        self.samples: list[tuple[Place, list[str], str]] = []
        self.attached: list[tuple[nn.Module, dict[str, nn.Module]]] = []

    def plan(self) -> Report:
        self.report.left = self.reasons
        if self.reasons:
            return self.report
        self._sites()
        registers: dict[Place, Register] = {}
        leaders: dict[Place, str] = {}
        for place, targets, side in self.samples:
            group = self.flows.leader(place)
            for target in targets:
                first = group not in registers
                register = registers.setdefault(group, Register())
                made = self._sample(place, side, register, first)
                leaders.setdefault(group, place.name)
                self.attached.append((self.network.modules[target], {f"{side}": made}))
            where = "it" if targets == [place.name] else ", ".join(targets)
            shares = "" if leaders[group] == place.name else f", on the grid of {leaders[group]}"
            after = f"stride 1, {describe(made.filling)} {side} {where}{shares}"
            for joined in place.joined or [place]:
                self.report.changes.append(Change(joined.name, describe(joined.module), after))
        for name in self.flows.averaged:
            self.report.changes.append(Change(name, type(self.network.modules[name]).__name__, "of the map's average"))
        if self.report.changes:
            self.report.notes.append(
                f"windows that wrap around (circular padding): {counted(len(self._windows()), 'layer')}"
            )
        return self.report

    def operate(self) -> None:
        strided: list[Any] = [place.module for place in self.network.places]
        pads = [(module, circular_pads(module)) for module in self._windows()]
        for module in strided:
            module.stride = (1, 1)
        for held, samples in self.attached:
            attach(held, **samples)
        for module, around in pads:
            attach(module, before=CircularPad2d(around))
            module.padding = each(0, 2)
            if hasattr(module, "padding_mode"):
                module.padding_mode = "zeros"
            if getattr(module, "ceil_mode", False):
                module.ceil_mode = False
        for name in self.flows.averaged:
            attach(self.network.modules[name], before=Averaged2d())
        protect(self.model, strided)

    def _windows(self) -> list[Any]:
        """Layers that need circular padding, each once."""
        found: dict[int, Any] = {id(m): m for m in self.flows.windows.values()}  # a layer may run twice
        return [m for m in found.values() if max(each(m.kernel_size, 2)) > 1 or any(map(any, circular_pads(m)))]

    def _sites(self) -> None:
        """Collects in `samples` the modules that each place's sampling goes behind or before, in execution order."""
        order = {node: i for i, node in enumerate(self.flows.part.graph.nodes)}
        when: dict[Place, int] = {}
        served: set[Place] = set()
        for place in self.network.places:
            if place in served:
                continue
            targets, side, end = [place.name], "behind", place.node
            if place.is_convolution:
                targets, side = self.network.behind(place)
                end = place.end or place.node
            if place.is_pointwise and len(place.joined) < 2:
                targets, side, end = [place.name], "before", place.node
            if side == "before" and targets != [place.name]:
                end = min((self._called(target) for target in targets), key=order.__getitem__)
            served.update(place.joined or [place])
            when[place] = order[end]
            self.samples.append((place, targets, side))
        self.samples.sort(key=lambda sample: when[sample[0]])

    def _called(self, target: str) -> Any:
        return next(node for node in self.flows.part.graph.nodes if str(node.target) == target)

    def _sample(self, place: Place, side: str, register: Register, first: bool) -> Any:
        conv = place.module
        if place.is_convolution:
            own = side == "before" and place.is_pointwise
            channels: Any = conv.in_channels if own else conv.out_channels
        else:
            channels = self.network.channels(place.node)
        rows, columns = place.stride
        filling = self.make(channels, rows if rows == columns else (rows, columns))
        if not first:
            filling = filling.follower(channels)
        reference = next((p for p in self.model.parameters() if p.is_floating_point()), None)
        if reference is not None:
            filling.to(reference.device, reference.dtype)
        made = (ChosenSample2d if first else FollowingSample2d)(filling, register)
        return made.train(conv.training)
