"""Every function of the layers with one wrong argument at a time, with the kernels and without.

``python -m tests.core.layers.fuzz MODULE [CALLS [BEGINNING]]`` does it for the calls of a module, or for those whose
title begins so, in a process of its own, for a kernel that reads beyond a tensor ends it: every tensor lies against a
page that cannot be read. It prints the call that it begins, and at the end one line of JSON: how many calls, the
kernels that ran, and what was wrong.
"""

import ctypes
import faulthandler
import importlib
import json
import math
import mmap
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten, tree_flatten_with_path, tree_unflatten

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.modes import weights_fixed
from stillpoint.core.kernels import native

#: what a refusal is; anything else is an accident. An IndexError is PyTorch's word for an axis that is not there
REFUSALS = (ValueError, TypeError, RuntimeError, UserError, IndexError)
#: options whose number is how long a call takes
LENGTHS = {"iterations"}
SECONDS, BYTES = 5, 8 << 30
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Call:
    """A function and its arguments."""

    function: Callable[..., Any]
    given: tuple[Any, ...]
    options: dict[str, Any]

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        for name, thing in {"": self.function, **dict(enumerate(self.given)), **self.options}.items():
            if isinstance(thing, nn.Module):
                yield str(name), thing


Change = Callable[[Call], None]


class Guard:
    """Memory that ends where a page begins that cannot be read; kept, for making it takes longer than a call."""

    _free: ClassVar[dict[int, list[Tensor]]] = {}
    _taken: ClassVar[list[tuple[int, Tensor]]] = []

    @classmethod
    def take(cls, pages: int) -> Tensor:
        """Bytes to the end of the last of several pages, all of them 255: NaN, or -1."""
        free = cls._free.setdefault(pages, [])
        found = free.pop() if free else cls._made(pages * mmap.PAGESIZE)
        cls._taken.append((pages, found))
        return found.fill_(255)

    @staticmethod
    def _made(usable: int) -> Tensor:
        memory = mmap.mmap(-1, usable + mmap.PAGESIZE)
        place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert _libc.mprotect(ctypes.c_void_p(place + usable), mmap.PAGESIZE, 0) == 0
        return torch.frombuffer(memory, dtype=torch.uint8, count=usable)

    @classmethod
    def release(cls) -> None:
        """All that was taken may be used again."""
        for pages, memory in cls._taken:
            cls._free[pages].append(memory)
        cls._taken.clear()


def guarded(t: Tensor) -> Tensor:
    """The same numbers in memory that ends where a page begins that cannot be read."""
    if type(t) is not Tensor or t.layout != torch.strided or t.device.type != "cpu" or t.is_neg():
        return t
    extent = 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) if t.numel() else 0
    whole = Guard.take(-(-max(extent * t.itemsize, 1) // mmap.PAGESIZE)).view(t.dtype)
    start = len(whole) - extent
    if extent:
        whole[start:].copy_(torch.as_strided(t, (extent,), (1,)))
    return whole.as_strided(t.shape, t.stride(), start)


def _longer(axis: int) -> Callable[[Tensor], Tensor]:
    return lambda t: torch.cat([t, t.narrow(axis, 0, 1)], axis)


def _of_size(axis: int, size: int) -> Callable[[Tensor], Tensor]:
    return lambda t: t.narrow(axis, 0, size).clone()


def _filled(value: float) -> Callable[[Tensor], Tensor]:
    def filled(t: Tensor) -> Tensor:
        t = t.clone()
        t.view(-1)[t.numel() // 2] = value
        return t

    return filled


def _strided(t: Tensor) -> Tensor:
    return torch.stack([t, t.flip(-1)], -1)[..., 0]


def _apart(t: Tensor) -> Tensor:
    """The first image alone, with a stride that no address reaches."""
    return t[:1].clone().as_strided((1, *t.shape[1:]), (2**40, *t[:1].clone().stride()[1:]))


def changes_of(t: Tensor, *, held: bool = False) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """Other tensors in the place of `t`: wrong ones, and right ones in another layout.

    What a module holds is never a view that shares its numbers, nor changed in its values.
    """
    for axis, n in enumerate(t.shape):
        yield f"axis {axis} shorter", _of_size(axis, n - 1)
        if not held or axis == 0:
            yield f"axis {axis} longer", _longer(axis)
        if n > 1 and not held:
            yield f"axis {axis} of none", _of_size(axis, 0)
        if n > 2:
            yield f"axis {axis} of one", _of_size(axis, 1)
    yield "an axis more", lambda t: t[None].clone()
    if t.ndim > 1:
        yield "turned", lambda t: t.transpose(-1, -2).contiguous()
        yield "turned in memory", lambda t: t.transpose(0, -1).contiguous().transpose(0, -1)
    for dtype in (torch.bfloat16, torch.float64):
        if dtype != t.dtype:
            yield str(dtype), lambda t, dtype=dtype: t.to(dtype)
    if held:
        return
    # not of what a module holds: PyTorch's convolution takes a weight without numbers, and returns what memory holds
    yield "elsewhere", lambda t: t.to("meta")
    for dtype in (torch.int64, torch.bool, torch.float16, torch.complex64):
        if dtype != t.dtype:
            yield str(dtype), lambda t, dtype=dtype: t.to(dtype)
    if t.ndim:
        yield "an axis less", lambda t: t[0].clone()
        yield "a number", lambda t: t.flatten()[0].clone()
        yield "strided", _strided
        yield "expanded", lambda t: t[:1].expand(t.shape)
        yield "apart", _apart
    if t.ndim > 1:
        yield "flat", lambda t: t.flatten()
    if t.ndim == 4:
        yield "channels last", lambda t: t.contiguous(memory_format=torch.channels_last)
    if t.is_floating_point():
        yield "negated later", lambda t: torch._neg_view(t)
    elif t.dtype == torch.int64:
        for number in (-1, 10**4, -(2**62)):
            yield str(number), _filled(number)


def values_for(value: Any) -> list[Any]:
    """Other values in the place of an option: wrong ones, and for a switch the other one."""
    if isinstance(value, bool):
        return [not value, None]
    if isinstance(value, int):
        return [0, -1, value + 1, value + 0.5, -(2**31), 2**31, "2", None]
    if isinstance(value, float):
        return [math.nan, math.inf, -1.0, "1", None]
    if isinstance(value, str):
        return ["nonsense", 3, None]
    if isinstance(value, tuple | list):
        kind = type(value)
        several = [(), (*value, *value[:1]), value[:-1]]
        if value and isinstance(value[0], int):
            several += [(-1, *value[1:]), (2**31, *value[1:]), (1.5, *value[1:])]
        return [*map(kind, several), 7, None] if kind in (tuple, list) else [None]
    return [0, -1, 1.5, "nonsense", torch.ones(5)] if value is None else []


def _at(name: str, change: Callable[[Tensor], Tensor]) -> Change:
    """A change of the weight or buffer of that name of the call's modules."""

    def done(call: Call) -> None:
        holder, _, path = name.partition(":")
        module = dict(call.modules())[holder]
        *parents, last = path.split(".")
        for parent in parents:
            module = getattr(module, parent)
        old = getattr(module, last)
        put(module, last, change(old.detach()))

    return done


def put(module: nn.Module, name: str, t: Tensor) -> None:
    """A weight or buffer without the checks of its module."""
    if name in module._parameters:
        module._parameters[name] = nn.Parameter(t, requires_grad=t.is_floating_point())
    else:
        module._buffers[name] = t


def _leaf(number: int, change: Callable[[Any], Any]) -> Change:
    def done(call: Call) -> None:
        leaves, spec = tree_flatten((call.given, call.options))
        leaves[number] = change(leaves[number])
        call.given, call.options = tree_unflatten(leaves, spec)

    return done


def _option(name: str, value: Any) -> Change:
    return lambda call: call.options.update({name: value})


def changes(call: Call, defaults: dict[str, Any]) -> Iterator[tuple[str, Change]]:
    """One change at a time of a call that is right; the first of them changes nothing."""
    yield "as it is", lambda call: None
    for number, (path, leaf) in enumerate(tree_flatten_with_path((call.given, call.options))[0]):
        if isinstance(leaf, Tensor):
            for what, change in changes_of(leaf):
                yield f"{keystr(path)} {what}", _leaf(number, change)
            # of the map alone: no weight times the zeros of a padding is NaN or nothing, as the loop goes
            for value in (math.nan, math.inf) if number == 0 and leaf.is_floating_point() else ():
                yield f"{keystr(path)} {value}", _leaf(number, _filled(value))
        elif isinstance(leaf, int | float) and path[0].idx == 0:
            for value in (v for v in values_for(leaf) if not isinstance(v, int) or abs(v) < 100):
                yield f"{keystr(path)} {value!r}", _leaf(number, lambda _, value=value: value)
    for holder, module in call.modules():
        # what a user can give it: neither its constants nor its counters
        for name, t in module.state_dict().items():
            if not t.is_floating_point():
                continue
            for what, change in changes_of(t.detach(), held=True):
                yield f"{holder}:{name} {what}", _at(f"{holder}:{name}", change)
    for name, value in {**defaults, **call.options}.items():
        if not isinstance(value, Tensor | nn.Module):
            for other in values_for(value):
                if name in LENGTHS and isinstance(other, int) and other > 99:
                    continue
                yield f"= {other!r} for {name}", _option(name, other)


def protect(call: Call) -> None:
    """Every tensor of the call against a page that cannot be read."""
    leaves, spec = tree_flatten((call.given, call.options))
    leaves = [guarded(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    call.given, call.options = tree_unflatten(leaves, spec)
    for _, module in call.modules():
        for part in module.modules():
            for name, t in [*part._parameters.items(), *part._buffers.items()]:
                if t is not None:
                    put(part, name, guarded(t.detach()))


def outcome(make: Callable[[], Call], change: Change, training: bool, kernels: bool) -> list[Any] | BaseException:
    """What a changed call returns, with its gradients and the state that it leaves; or what it raises."""
    Switch.on, Switch.asked = kernels, False
    # PyTorch's own function asks for a GPU each time, which takes longer than a call
    torch.default_generator.manual_seed(0)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        call = make()
        change(call)
        if kernels:
            protect(call)
        for _, module in call.modules():
            module.train(training)
        first = next((leaf for leaf in call.given if isinstance(leaf, Tensor) and leaf.is_floating_point()), None)
        if training and first is not None:
            first.requires_grad_()
        with torch.set_grad_enabled(training), weights_fixed(Folded()) if kernels and not training else nullcontext():
            y = call.function(*call.given, **call.options)
        found = tree_flatten(y)[0]
        state = [t for _, module in call.modules() for t in module.parameters()]
        to = [t for t in tree_flatten(y)[0] if isinstance(t, Tensor) and t.requires_grad and t.is_floating_point()]
        asked = [t for t in ([] if first is None else [first]) + state if t.requires_grad]
        if training and to and asked:
            # one number: PyTorch imports its compiler for gradients that are given
            total = sum((t * torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view_as(t)).sum() for t in to)
            found += torch.autograd.grad(total, asked, allow_unused=True)
        found += [t for _, module in call.modules() for t in module.buffers()]
        return [t.detach().clone() if isinstance(t, Tensor) else t for t in found]
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        Guard.release()


class Folded(dict[Any, Any]):
    """What is kept of fixed weights; to look there is to ask for another way."""

    def __contains__(self, key: object) -> bool:
        Switch.asked = True
        return super().__contains__(key)


def difference(got: list[Any], want: list[Any]) -> str:
    """How two results differ; empty: they do not."""
    if len(got) != len(want):
        return f"{len(got)} results instead of {len(want)}"
    # a gradient in more digits is of the map's few
    short = any(isinstance(t, Tensor) and t.dtype in (torch.float16, torch.bfloat16) for t in want)
    for one, other in zip(got, want, strict=True):
        if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
            if one != other:
                return f"{one!r} instead of {other!r}"
            continue
        if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
            return f"{one.dtype} {tuple(one.shape)} instead of {other.dtype} {tuple(other.shape)}"
        if one.is_meta:
            continue
        if one.numel() and one.dtype != torch.bool:
            tolerance = 0.05 if short else 1e-3
            one, other = (t.to(torch.complex128 if t.is_complex() else torch.float64) for t in (one, other))
            most = other.abs().nan_to_num(0, 0, 0).max().item()
            if torch.allclose(one, other, rtol=tolerance, atol=tolerance * max(most, 0.01), equal_nan=True):
                continue
        if not torch.equal(one, other):
            return "other numbers"
    return ""


def verdict(with_kernels: list[Any] | BaseException, without: list[Any] | BaseException) -> str:
    """What is wrong with two outcomes; empty: nothing."""
    for which, found in (("with", with_kernels), ("without", without)):
        if isinstance(found, BaseException):
            if isinstance(found, MemoryError):  # what was asked for is that large
                continue
            if not isinstance(found, REFUSALS) or len(str(found).split()) < 3:
                return f"{which} kernels: {type(found).__name__}: {str(found)[:120]}"
    if isinstance(with_kernels, BaseException) != isinstance(without, BaseException):
        refused, found = ("refused", with_kernels) if isinstance(with_kernels, BaseException) else ("taken", without)
        return f"{refused} with kernels alone: {str(found)[:120]}"
    if isinstance(with_kernels, BaseException) or isinstance(without, BaseException):
        return ""
    return difference(with_kernels, without)


#: wrong in every mode alike
ONCE = ("torch.int64", "torch.bool", "torch.complex64", "elsewhere", "an axis less", "an axis more", "a number")


def modes(name: str, what: str, number: int) -> tuple[bool, ...]:
    """In evaluation, in training with gradients, or in both: a layer, whose function was changed in both, in one."""
    if what.startswith("=") or what.endswith(ONCE):
        return (False,)
    layer = name.endswith(", called") and what != "as it is"
    return (bool(number % 2),) if layer or what.startswith(":") else (False, True)


class Switch:
    """The loader of the kernels, with a switch, and with a note of what of them ran."""

    on, asked, ran, _loader, _seen = True, False, set[str](), native.library, set[int]()

    @classmethod
    def install(cls) -> None:
        native.library = cls.library  # type: ignore[assignment]

    @classmethod
    def library(cls, number: str, source: str = "pool") -> ctypes.CDLL | None:
        cls.asked = True
        if not cls.on:
            return None
        found = cls._loader(number, source)
        if found is not None and id(found) not in cls._seen:
            cls._seen.add(id(found))
            for name in entries(found):
                setattr(found, name, cls._noted(getattr(found, name), f"{source}: {name}"))
        return found

    @classmethod
    def _noted(cls, function: Any, name: str) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            cls.ran.add(name)
            return function(*arguments)

        return called


def entries(library: ctypes.CDLL) -> list[str]:
    """The functions of a library that the loader knows: those whose types it set."""
    return [name for name in vars(library) if name.startswith("stillpoint_")]


def _late(*_: object) -> None:
    raise TimeoutError


def main(module: str, name_of_calls: str = "CALLS", only: str = "") -> None:
    faulthandler.enable()
    signal.signal(signal.SIGPROF, _late)
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Switch.install()
    calls, wrong = 0, []
    for name, (make, defaults) in getattr(importlib.import_module(module), name_of_calls).items():
        torch.default_generator.manual_seed(0)
        for number, (what, change) in enumerate(changes(make(), defaults)):
            for training in modes(name, what, number):
                title = f"{name}{' in training' if training else ''}: {what}"
                if not title.startswith(only):
                    continue
                print(title)
                found = outcome(make, change, training, kernels=True)
                # without a question to the loader, there is no other way
                other = found
                if Switch.asked:
                    print(f"{title}, without kernels")
                    other = outcome(make, change, training, kernels=False)
                calls += 1
                if what == "as it is" and isinstance(found, BaseException):
                    wrong.append(f"{title}: {found!r}")
                elif said := verdict(found, other):
                    wrong.append(f"{title}: {said}")
    print(json.dumps({"calls": calls, "ran": sorted(Switch.ran), "wrong": wrong}))


if __name__ == "__main__":
    os.environ["STILLPOINT_KERNELS"] = "1"
    main(*sys.argv[1:])
