"""Traces a network that is not ours: as a whole, or part by part where `torch.fx` cannot follow a forward.

Tracing uses a shadow of the network: separate modules with shared parameters. Whatever a forward stores while traced (a
cache, a counter, a list of maps) stays in the shadow.
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from stillpoint.core.surgery.striding import is_activation, is_filter, is_norm, is_pool_or_convolution

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")


@dataclass
class Part:
    """A graph whose `call_module` and `get_attr` nodes carry names in the whole network.

    blocks  for each node, the modules whose output it is, innermost first
    scope   for each node, the module whose forward runs it
    """

    graph: fx.Graph
    blocks: dict[fx.Node, list[str]] = field(default_factory=dict)
    scope: dict[fx.Node, str] = field(default_factory=dict)


def parts(model: nn.Module, *, training: bool | None = None) -> tuple[list[Part], dict[str, str]]:
    """The graphs of the largest parts that can be traced, in the order of registration, and the modules that cannot,
    each with the reason. A layer outside every traced part is a graph of one step."""
    found: list[Part] = []
    closed: dict[str, str] = {}
    twin = shadow(model)
    if training is not None:
        for module in twin.modules():
            module.training = training
    _collect(twin, "", found, closed)
    return found, closed


def shadow(model: nn.Module) -> nn.Module:
    """A copy of a network that shares its parameters and has no hooks, to be traced and thrown away."""
    copies: dict[int, Any] = {}

    def copied(value: Any) -> Any:
        if id(value) in copies:
            return copies[id(value)]
        if isinstance(value, torch.jit.ScriptModule):
            return value
        if isinstance(value, nn.Module):
            twin = copies[id(value)] = type(value).__new__(type(value))
            for name, held in vars(value).items():
                twin.__dict__[name] = OrderedDict() if name in _HOOKS else copied(held)
            return twin
        if type(value) in (dict, OrderedDict):
            again = copies[id(value)] = type(value)()
            again.update((key, copied(held)) for key, held in value.items())
            return again
        if type(value) is list:
            items: list[Any] = []
            copies[id(value)] = items
            items.extend(map(copied, value))
            return items
        if type(value) is tuple:
            return tuple(map(copied, value))
        if type(value) is set:
            return set(value)
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and value.grad_fn is None:
            return copies.setdefault(id(value), value.clone())
        if inspect.ismethod(value) and isinstance(value.__self__, nn.Module):  # a replaced forward
            return value.__func__.__get__(copied(value.__self__))
        return value

    return copied(model)


def _collect(root: nn.Module, prefix: str, found: list[Part], closed: dict[str, str]) -> None:
    if _single(root):
        found.append(_lone(prefix))
        return
    reason = _no_forward(root)
    if not reason:
        tracer = _Tracer()
        try:
            graph = _graph(tracer, root)
        except Exception as error:  # a user's forward may raise anything when traced
            reason = _first_line(error)
        else:
            found.append(_named(graph, tracer, prefix))
            for name, (module, why) in tracer.closed.items():
                closed[_join(prefix, name)] = why
                _children(module, _join(prefix, name), found, closed)
            return
        closed[prefix] = reason
    _children(root, prefix, found, closed)


def _children(module: nn.Module, prefix: str, found: list[Part], closed: dict[str, str]) -> None:
    for name, child in module.named_children():
        if any(_single(inner) for inner in child.modules()):
            _collect(child, _join(prefix, name), found, closed)


def _graph(tracer: "_Tracer", root: nn.Module) -> fx.Graph:
    given = inspect.signature(root.forward).parameters.values()
    usual = {p.name: p.default for p in given if p.default is None or isinstance(p.default, bool | int | float | str)}
    if usual:  # with default arguments fixed, branches on them can be traced
        try:
            return tracer.trace(root, concrete_args=usual)
        except Exception:
            tracer.forget()
    return tracer.trace(root)


class _Tracer(fx.Tracer):
    """Takes layers, norms, activations and filters as one step each; likewise modules it cannot trace (`closed`)."""

    def __init__(self) -> None:
        super().__init__()
        self.forget()

    def forget(self) -> None:
        self.closed: dict[str, tuple[nn.Module, str]] = {}
        self.blocks: dict[fx.Node, list[str]] = {}
        self.within: dict[fx.Node, str] = {}
        self.path: list[str] = [""]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            return False
        known = is_pool_or_convolution(m) or is_norm(m) or is_activation(m) or is_filter(m)
        return known or super().is_leaf_module(m, module_qualified_name)

    def create_node(self, *args: Any, **options: Any) -> fx.Node:
        node = super().create_node(*args, **options)
        self.within[node] = self.path[-1]
        return node

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        name = self.path_of_module(m)
        if self.is_leaf_module(m, name):
            return super().call_module(m, forward, args, kwargs)
        last = next(iter(reversed(self.graph.nodes)), None)
        self.path.append(name)
        try:
            result = super().call_module(m, forward, args, kwargs)
        except Exception as error:  # a user's forward may raise anything when traced
            for node in reversed(list(self.graph.nodes)):
                if node is last:
                    break
                if not node.users:
                    self.graph.erase_node(node)
            for inner in [inner for inner in self.closed if inner.startswith(f"{name}.")]:
                del self.closed[inner]
            self.closed[name] = (m, _first_line(error))
            return self.create_proxy("call_module", name, args, kwargs)
        finally:
            self.path.pop()
        if isinstance(result, fx.Proxy):
            self.blocks.setdefault(result.node, []).append(name)
        return result


def _named(graph: fx.Graph, tracer: _Tracer, prefix: str) -> Part:
    nodes = set(graph.nodes)
    for node in nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = _join(prefix, str(node.target))
    blocks = {node: [_join(prefix, name) for name in names] for node, names in tracer.blocks.items() if node in nodes}
    for node in nodes:
        if node.op == "output" and prefix and isinstance(node.args[0], fx.Node):
            blocks.setdefault(node.args[0], []).append(prefix)
    return Part(graph, blocks, {node: _join(prefix, name) for node, name in tracer.within.items() if node in nodes})


def _lone(name: str) -> Part:
    graph = fx.Graph()
    graph.output(graph.call_module(name, (graph.placeholder("x"),)))
    return Part(graph)


def _single(module: nn.Module) -> bool:
    return is_pool_or_convolution(module)


def _no_forward(module: nn.Module) -> str:
    holds = isinstance(module, nn.ModuleList | nn.ModuleDict) or type(module).forward is nn.Module.forward
    return "it only holds modules" if holds else ""


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name
