"""Attaches filters to the input or output of modules, whose weight names, hooks and class stay."""

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stillpoint.core.layers import scripted
from stillpoint.core.layers.blur import BlurPool1d, BlurPool2d, BlurPool3d, blur_with
from stillpoint.core.layers.padding import pad
from stillpoint.core.surgery.striding import CONVOLUTIONS, is_norm

# one step for torch.fx, which cannot follow its sizes
torch.fx.wrap("edge_blur")


class Filtered(nn.Module):
    """Mixed into the class of a module by `attach`: its filters run before and after its own forward."""

    if TYPE_CHECKING:  # TorchScript reads attribute annotations, and cannot resolve modules there
        filter_before: nn.Module
        filter_behind: nn.Module
        own_forward: Callable[..., Tensor]

    def forward(self, x: Tensor) -> Tensor:
        return self.filter_behind(self.own_forward(self.filter_before(x)))

    def __reduce_ex__(self, protocol: Any) -> Any:  # pickle cannot find a class made at run time
        kind: Any = type(self)
        return _blank, (kind.own_class, kind.kept_from, isinstance(self, Filtered)), self.__getstate__()


def attach(module: nn.Module, *, before: nn.Module | None = None, behind: nn.Module | None = None) -> None:
    """Puts filters around a module, in place; further filters run after those already attached."""
    held: Any = module
    if not isinstance(module, Filtered):
        kind: Any = type(module)
        held.__class__ = _class(kind, ())
        held.filter_before, held.filter_behind = nn.Identity(), nn.Identity()
    if before is not None:
        held.filter_before = _chain(held.filter_before, before)
    if behind is not None:
        held.filter_behind = _chain(held.filter_behind, behind)


def is_free(module: nn.Module) -> bool:
    """Whether filters can be attached: the module's class defines its forward, and it is not scripted."""
    return not isinstance(module, torch.jit.ScriptModule) and "forward" not in vars(module)


def keep_from(module: nn.Module, methods: tuple[str, ...]) -> None:
    """Makes methods that rebuild a module's parts carry the filters over, or raise ValueError where they cannot."""
    kind: Any = type(module)
    own, kept = (kind.own_class, kind.kept_from) if hasattr(kind, "own_class") else (kind, ())
    module.__class__ = _class(own, tuple(sorted({*kept, *methods})), isinstance(module, Filtered))


def _chain(first: nn.Module, second: nn.Module) -> nn.Module:
    if isinstance(first, nn.Identity):
        return second
    return nn.Sequential(*(first if isinstance(first, nn.Sequential) else [first]), second)


@cache
def _class(kind: Any, kept: tuple[str, ...], filtered: bool = True) -> Any:
    made: dict[str, Any] = {"own_class": kind, "kept_from": kept, "__module__": __name__}
    if filtered:
        made["own_forward"] = _named(kind.forward, "own_forward")
    else:
        made["__reduce_ex__"] = Filtered.__reduce_ex__
    for method in kept:
        made[method] = _merging(method, getattr(kind, method))
    return type(f"Filtered{kind.__name__}", (Filtered, kind) if filtered else (kind,), made)


def _named(function: Any, name: str) -> Any:
    """A copy of a function under another name, since TorchScript compiles functions by name."""
    again = FunctionType(function.__code__, function.__globals__, name, function.__defaults__, function.__closure__)
    again.__kwdefaults__, again.__annotations__ = function.__kwdefaults__, function.__annotations__
    return again


def _merging(method: str, own: Callable[..., Any]) -> Callable[..., Any]:
    def merge(self: nn.Module, *args: Any, **options: Any) -> Any:
        parts = list(self.children())
        conv = next((part for part in parts if isinstance(part, Filtered)), None)
        # a filter that sums to one commutes with the norm after a convolution
        if (
            conv is not None
            and method == "fuse"
            and isinstance(conv, CONVOLUTIONS)
            and len(parts) == 2
            and is_norm(parts[1])
        ):
            merged: nn.Module = own(self, *args, **options)
            if isinstance(merged, CONVOLUTIONS):
                filters: Any = conv
                attach(merged, before=filters.filter_before, behind=filters.filter_behind)
                return merged
        raise ValueError(
            f"{method} would drop the filters of this {type(self).__name__.removeprefix('Filtered')}: "
            "call it before antialias"
        )

    return merge


def _blank(kind: Any, kept: tuple[str, ...], filtered: bool = True) -> nn.Module:
    made = _class(kind, kept, filtered)
    return made.__new__(made)


class CircularPad2d(nn.Module):
    """Pads (B, C, H, W) circularly by `pads`, ((top, bottom), (left, right)), which may exceed the map's sides."""

    def __init__(self, pads: tuple[tuple[int, int], tuple[int, int]]) -> None:
        super().__init__()
        self.pads = pads

    def forward(self, x: Tensor) -> Tensor:
        return pad(x, [self.pads[0], self.pads[1]], padding="circular")

    def extra_repr(self) -> str:
        return f"{self.pads}"


class SameStart2d(nn.Module):
    """Crops the map of a dense layer with TensorFlow's padding so that subsampling hits the windows of `stride`.

    That padding depends on the stride and the map's size, with windows of `reach` + 1 pixels. (B, C, H, W) ->
    (B, C, H - i, W - j).
    """

    def __init__(self, reach: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__()
        self.reach, self.stride = reach, stride

    def forward(self, x: Tensor) -> Tensor:
        rows = self.first(x.shape[2], self.reach[0], self.stride[0])
        columns = self.first(x.shape[3], self.reach[1], self.stride[1])
        return x[:, :, rows:, columns:]

    def first(self, size: int, reach: int, stride: int) -> int:
        """Index, in the dense layer's map, of the first window of the strided layer."""
        missed = max((size + stride - 1) // stride * stride - stride + reach + 1 - size, 0)
        return reach // 2 - missed // 2

    def extra_repr(self) -> str:
        return f"reach={self.reach}, stride={self.stride}"


def edge_blur(x: Tensor, kernel: Tensor, stride: Any, padding: str, pad_off: int) -> Tensor:
    """`blur_with`, except that it repeats the edge of maps too small to be reflected, no larger than its reach."""
    small = padding == "reflect" and min(x.shape[2:]) <= kernel.shape[0] // 2 + pad_off
    return blur_with(x, kernel, stride=stride, padding="replicate" if small else padding, pad_off=pad_off)


class _EdgeBlur(nn.Module):
    """Mixed into a blur on a fixed grid so that it takes maps of every size."""

    if TYPE_CHECKING:  # TorchScript infers these from their values
        kernel: Tensor
        stride: Any
        padding: str
        pad_off: int

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return scripted.edge_blurred(x, self.kernel, self.stride, self.padding, self.pad_off)
        else:  # TorchScript does not compile this branch
            return edge_blur(x, self.kernel, self.stride, self.padding, self.pad_off)


class EdgeBlurPool1d(_EdgeBlur, BlurPool1d):
    known_as = "BlurPool1d"


class EdgeBlurPool2d(_EdgeBlur, BlurPool2d):  # type: ignore[misc]
    known_as = "BlurPool2d"


class EdgeBlurPool3d(_EdgeBlur, BlurPool3d):
    known_as = "BlurPool3d"


EDGE_BLURS = (EdgeBlurPool1d, EdgeBlurPool2d, EdgeBlurPool3d)


class Averaged2d(nn.Module):
    """Replaces every pixel by its channel's mean: (B, C, H, W) -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True).expand(-1, -1, x.shape[2], x.shape[3])


def of_any_size(made: nn.Module) -> nn.Module:
    """Makes a blur repeat the edge of maps too small to be reflected; returns other fillings unchanged."""
    for kind, small in ((BlurPool1d, EdgeBlurPool1d), (BlurPool2d, EdgeBlurPool2d), (BlurPool3d, EdgeBlurPool3d)):
        if type(made) is kind:
            made.__class__ = small
    return made
