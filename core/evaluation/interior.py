"""A context in which every padding is circular, as if images had no border.

A convolution that pads with zeros does not commute with circular shifts near the border, which hides the effect of its
strides. Zero, replicated and reflected borders of convolutions, pools and `torch.nn.functional.pad` are replaced by the
opposite edge; weights and sizes stay.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

#: functions whose padding is replaced -> number of spatial axes
_CONVOLUTIONS = {torch.conv1d: 1, F.conv1d: 1, torch.conv2d: 2, F.conv2d: 2, torch.conv3d: 3, F.conv3d: 3}
_MAX_POOLS = {F.max_pool1d: 1, torch.max_pool1d: 1, F.max_pool2d: 2, torch.max_pool2d: 2}
_AVERAGE_POOLS = {F.avg_pool1d: 1, F.avg_pool2d: 2}


class Interior(TorchFunctionMode):
    """A context in which eager PyTorch pads circularly."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        arguments, named = list(args), dict(kwargs or {})
        if func in _CONVOLUTIONS:
            _convolution(arguments, named, _CONVOLUTIONS[func])
        elif func in _MAX_POOLS:
            _pool(arguments, named, _MAX_POOLS[func])
        elif func in _AVERAGE_POOLS:
            _pool(arguments, named, _AVERAGE_POOLS[func])
        elif (
            func is F.pad and (named.get("mode") or (arguments[2] if len(arguments) > 2 else "constant")) != "circular"
        ):
            return _padded(arguments, named, func)
        return func(*arguments, **named)


def _pairs(value: Any, count: int) -> list[int]:
    return [int(value)] * count if isinstance(value, int) else [int(v) for v in value] * (count // len(value))


def _argument(arguments: list[Any], named: dict[str, Any], name: str, place: int, default: Any) -> Any:
    return named.get(name, arguments[place] if len(arguments) > place else default)


def _round(x: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """`x` padded circularly along its last axes, repeatedly if needed."""
    for axis, (b, a) in enumerate(zip(before, after, strict=True), start=x.ndim - len(before)):
        if b or a:
            places = torch.arange(-b, x.shape[axis] + a, device=x.device) % x.shape[axis]
            x = x.index_select(axis, places)
    return x


def _convolution(arguments: list[Any], named: dict[str, Any], axes: int) -> None:
    weight: Any = named.get("weight", arguments[1] if len(arguments) > 1 else None)
    padding = _argument(arguments, named, "padding", 4, 0)
    if isinstance(padding, str):
        dilation = _pairs(_argument(arguments, named, "dilation", 5, 1), axes)
        whole = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, weight.shape[2:], strict=True)]
        before, after = [w // 2 for w in whole], [w - w // 2 for w in whole]
    else:
        before = after = _pairs(padding, axes)
    if any(before) or any(after):
        _first(arguments, named, _round(_first(arguments, named), before, after))
        _set(arguments, named, "padding", 4, 0)


def _pool(arguments: list[Any], named: dict[str, Any], axes: int) -> None:
    padding = _pairs(_argument(arguments, named, "padding", 3, 0), axes)
    if any(padding):
        _first(arguments, named, _round(_first(arguments, named), padding, padding))
        _set(arguments, named, "padding", 3, 0)


def _padded(arguments: list[Any], named: dict[str, Any], func: Callable[..., Any]) -> Any:
    x, pad = arguments[0], _argument(arguments, named, "pad", 1, ())
    axes = len(pad) // 2
    # spatial axes only: an added channel is not a border
    if not isinstance(x, Tensor) or x.ndim < 3 or axes > x.ndim - 2 or min(pad, default=0) < 0:
        return func(*arguments, **named)
    return _round(x, pad[0::2][::-1], pad[1::2][::-1])


def _first(arguments: list[Any], named: dict[str, Any], value: Any = None) -> Any:
    if value is not None:
        if arguments:
            arguments[0] = value
        else:
            named["input"] = value
    return arguments[0] if arguments else named["input"]


def _set(arguments: list[Any], named: dict[str, Any], name: str, place: int, value: Any) -> None:
    if len(arguments) > place:
        arguments[place] = value
    else:
        named[name] = value
