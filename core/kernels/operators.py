"""Registering kernels as operators of PyTorch."""

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


class Operator:
    """A PyTorch operator, `overload`, that calls its plain function directly where that makes no difference.

    With a cold cache, PyTorch's dispatcher and the Python around it take a noticeable share of the time to filter a
    map.
    """

    def __init__(self, function: Callable, overload: Any) -> None:
        self.function, self.overload = function, overload

    def __call__(self, *arguments: Any) -> Any:
        if unseen(arguments):
            return self.function(*arguments)
        return self.overload(*arguments)


def operator(name: str) -> Callable[[Callable], Operator]:
    """Makes the decorated function an operator of that name ("library::operator"), on the CPU, and returns it.

    The schema is read from the annotations. Fake and autograd rules are registered for its `overload` by
    `torch.library.register_fake` and `register_autograd`, a kernel for another device by `torch.library.impl(name,
    "cuda")`. Unlike an operator of `torch.library.custom_op`, its first call does not import PyTorch's compiler (two
    seconds and more).
    """

    def define(function: Callable) -> Operator:
        schema = torch.library.infer_schema(_readable(function), mutates_args=())
        torch.library.define(name, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(name, "cpu", function)
        library, _, op = name.partition("::")
        return Operator(function, getattr(getattr(torch.ops, library), op).default)

    return define


def _readable(function: Callable) -> Callable:
    """The function with annotations that torch 2.6 can read too: List[int] instead of list[int]."""
    signature = inspect.signature(function)
    older = {list[int]: typing.List[int]}  # noqa: UP006
    found = [
        part.replace(annotation=older.get(part.annotation, part.annotation)) for part in signature.parameters.values()
    ]

    @functools.wraps(function)
    def described(*arguments: Any) -> Any:
        return function(*arguments)

    described.__signature__ = signature.replace(parameters=found)  # type: ignore[attr-defined]
    return described


def _keys(x: Tensor) -> int:
    return torch._C._dispatch_keys(x).raw_repr()


# The dispatch keys of ordinary tensors: no subclass that intercepts calls, no torch.func transform, no pending
# conjugation or negation, dense, on the CPU.
_NUMBERS = {_keys(torch.empty(0))}
with torch.inference_mode():
    _NUMBERS.add(_keys(torch.empty(0)))


def ordinary(*tensors: Tensor) -> bool:
    """Whether a kernel may read these tensors by address, unobserved: on the CPU, no subclass but a parameter, no
    transform, no PyTorch mode that intercepts calls."""
    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        return False
    return all(type(x) in (Tensor, nn.Parameter) and _keys(x) in _NUMBERS for x in tensors)


def unseen(arguments: tuple[Any, ...]) -> bool:
    """Whether calling the plain function with these arguments goes unnoticed: no derivative, forward or backward, no
    dispatch mode, no tracing, no compiler, no profiler."""
    if torch.compiler.is_compiling():
        return False
    differentiable = torch.is_grad_enabled()
    for x in arguments:
        if isinstance(x, Tensor):
            if type(x) not in (Tensor, nn.Parameter) or _keys(x) not in _NUMBERS:
                return False
            if differentiable and x.requires_grad:
                return False
    return not (
        forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._is_tracing()
        or torch.autograd._profiler_enabled()
    )
