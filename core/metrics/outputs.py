"""Extracts logits from a network's output: a tensor, an array, a tuple, a dictionary or an object with fields."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Keys tried for a network's logits by default, in this order.
KEYS = ("logits", "out")
#: Where the logits are in an output: a key or attribute, a position, or a function that extracts them.
Output = str | int | Callable[[Any], Any]


def is_network(first: Any) -> bool:
    """Whether the first argument of an update is a network or another function of images."""
    return callable(first) and not isinstance(first, Tensor | np.ndarray)


def as_tensor(values: Any) -> Tensor:
    """A tensor from a tensor, a NumPy array (sharing its memory if possible), or (nested) numbers."""
    if isinstance(values, Tensor):
        return values
    if isinstance(values, np.ndarray) and not values.flags.writeable:
        values = values.copy()
    return torch.as_tensor(values)


def logits_of(output: Any, part: Output | None = None) -> Tensor:
    """The tensor of logits in a network's output.

    A tensor or array itself; the entry "logits", or else "out", of a mapping or an object with fields (Hugging Face's
    ModelOutput); the only tensor of a tuple or list. `part` selects another by key or attribute, position, or function.
    ValueError for an output without logits, or an ambiguous one.
    """
    if part is not None:
        output = _part(output, part)
    if isinstance(output, Tensor):
        return output
    if isinstance(output, np.ndarray):
        return as_tensor(output)
    fields = _fields(output)
    if fields is not None:
        for key in KEYS:
            if isinstance(fields.get(key), Tensor | np.ndarray):
                return as_tensor(fields[key])
        raise ValueError(
            f"the network's output is of type {type(output).__name__} ({', '.join(map(str, fields))}), and none of its "
            f"entries is a tensor called {' or '.join(KEYS)}: say which with output=, or wrap the network in a module "
            "that returns its logits alone"
        )
    if isinstance(output, tuple | list):
        tensors = [entry for entry in output if isinstance(entry, Tensor | np.ndarray)]
        if len(tensors) == 1:
            return as_tensor(tensors[0])
        raise ValueError(
            f"the network's output is a {type(output).__name__} that holds {len(tensors)} tensors: give the position "
            "of the logits with output="
        )
    raise ValueError(
        f"the network's output is of type {type(output).__name__}, not a tensor of logits (B, K): wrap the network in "
        "a module that returns its logits alone"
    )


def _fields(output: Any) -> dict[str, Any] | None:
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return output._asdict()  # type: ignore[attr-defined]
    if isinstance(output, tuple | list) or not any(hasattr(output, key) for key in KEYS):
        return None
    return {key: getattr(output, key) for key in KEYS if hasattr(output, key)}


def _part(output: Any, part: Output) -> Any:
    if callable(part):
        return part(output)
    try:
        return output[part] if not isinstance(part, str) or isinstance(output, Mapping) else getattr(output, part)
    except (KeyError, IndexError, TypeError, AttributeError):
        held = _fields(output)
        names = f" It holds {', '.join(map(str, held))}." if held else ""
        raise ValueError(f"the network's output ({type(output).__name__}) has no part {part!r}.{names}") from None
