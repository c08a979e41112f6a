"""Reads parity cases: what a reference implementation computed on parameters that are derived from their names.

A case is one gzipped JSON file: system, model, kwargs, source, note, `state_shapes` {reference's parameter name:
shape}, `kept` {name: array that is not derived}, `inputs` {name: shape and kind, or array}, `outputs` {name: array}.
"""

import gzip
import json
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode


class _Drawn:
    """What was drawn last: cases share their networks' names and shapes, and drawing took most of their time."""

    ROOM = 1 << 30

    def __init__(self) -> None:
        self.kept: OrderedDict[tuple[Any, ...], torch.Tensor] = OrderedDict()
        self.bytes = 0

    def once(self, draw: Callable[..., torch.Tensor], name: str, shape: list[int], *more: str) -> torch.Tensor:
        """A copy of ``draw(name, shape, *more)``."""
        key = (draw, name, tuple(shape), *more)
        if key not in self.kept:
            self.kept[key] = draw(name, shape, *more)
            self.bytes += self.kept[key].nbytes
        self.kept.move_to_end(key)
        found = self.kept[key].clone()
        while self.bytes > self.ROOM:
            self.bytes -= self.kept.popitem(last=False)[1].nbytes
        return found


_drawn = _Drawn()


class Undrawn(TorchFunctionMode):
    """Networks built within begin with zeros, which are there at once: their weights are a case's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.__name__ in ("kaiming_uniform_", "kaiming_normal_", "trunc_normal_", "uniform_", "normal_"):
            with torch.no_grad():
                # a truncated distribution is drawn until it fits, which zeros do
                return (args[0] if args else kwargs["tensor"]).zero_()
        return func(*args, **kwargs)


def _rng(name: str) -> np.random.RandomState:
    # RandomState's streams are frozen by NumPy's compatibility policy
    return np.random.RandomState(zlib.crc32(name.encode()))


def tensor_for(name: str, shape: list[int]) -> torch.Tensor:
    """The value that the reference's state_dict entry `name` was given."""
    return _drawn.once(_tensor, name, shape)


def _tensor(name: str, shape: list[int]) -> torch.Tensor:
    shape_, rng, leaf = tuple(shape), _rng(name), name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return torch.zeros(shape_, dtype=torch.int64)
    if leaf == "running_mean":
        a = 0.1 * rng.standard_normal(shape_)
    elif leaf == "running_var":
        a = rng.uniform(0.5, 1.5, shape_)
    elif len(shape_) >= 2:
        a = rng.standard_normal(shape_) * (1.0 / np.prod(shape_[1:])) ** 0.5
    elif leaf == "bias":
        a = 0.1 * rng.standard_normal(shape_)
    else:
        a = rng.uniform(0.5, 1.5, shape_)
    return torch.as_tensor(np.asarray(a, dtype=np.float32))


def input_for(name: str, shape: list[int], kind: str = "normal") -> torch.Tensor:
    """The reference's input `name`."""
    return _drawn.once(_input, name, shape, kind)


def _input(name: str, shape: list[int], kind: str) -> torch.Tensor:
    rng = _rng("input:" + name)
    a = rng.standard_normal(shape) if kind == "normal" else rng.uniform(0, 1, shape)
    return torch.as_tensor(np.asarray(a, dtype=np.float32))


def _unpack(packed: dict[str, Any]) -> torch.Tensor:
    return torch.as_tensor(np.asarray(packed["data"], dtype=packed["dtype"]).reshape(packed["shape"]))


def load(path: str | Path) -> dict[str, Any]:
    """The case with `state`, `inputs` and `outputs` as dictionaries of tensors."""
    with gzip.open(path) as file:
        case = json.loads(file.read())
    kept = {name: _unpack(packed) for name, packed in case["kept"].items()}
    case["state"] = {
        name: kept[name] if name in kept else tensor_for(name, s) for name, s in case["state_shapes"].items()
    }
    case["inputs"] = {
        name: _unpack(v) if v["kind"] == "array" else input_for(name, v["shape"], v["kind"])
        for name, v in case["inputs"].items()
    }
    case["outputs"] = {name: _unpack(packed) for name, packed in case["outputs"].items()}
    return case


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest absolute difference over the largest absolute value wanted; infinite for another shape or a NaN."""
    got, want = torch.as_tensor(got).double(), torch.as_tensor(want).double()
    if got.shape != want.shape or not torch.isfinite(got).all():
        return float("inf")
    if got.numel() == 0:
        return 0.0
    return float((got - want).abs().max() / want.abs().max().clamp_min(1e-30))
