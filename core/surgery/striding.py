"""Recognises what strides in a network (layers, functions inside a forward, slices with a step) and its neighbours."""

import math
import operator
from typing import Any

import torch
from torch import fx, nn

from stillpoint.core.layers.blur import BlurPool1d, BlurPool3d
from stillpoint.core.layers.downsample import Downsample

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVERAGE_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
LAYERS = (*CONVOLUTIONS, *MAX_POOLS, *AVERAGE_POOLS, nn.LPPool1d, nn.LPPool2d, nn.LPPool3d)
RESIZERS = (
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.FractionalMaxPool2d, nn.FractionalMaxPool3d, nn.PixelUnshuffle, nn.Unfold, nn.Upsample),
)
PASSED = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_TORCH_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_FUNCTIONAL_ACTIVATIONS = (
    *("relu", "relu_", "relu6", "silu", "gelu", "hardswish", "hardtanh", "leaky_relu", "elu", "mish", "tanh"),
    *("sigmoid", "softplus", "clamp"),
)
# the position of the stride among the arguments of torch's functions
_FUNCTIONS = {
    f"{kind}{dims}d": position
    for kind, position in {"conv": 3, "max_pool": 2, "avg_pool": 2, "lp_pool": 3}.items()
    for dims in (1, 2, 3)
}


def strides(module: nn.Module) -> bool:
    """Whether the module is a layer that skips pixels."""
    return isinstance(module, LAYERS) and max(stride_of(module)) > 1


def is_pool_or_convolution(module: nn.Module) -> bool:
    return isinstance(module, (*LAYERS, *RESIZERS))


def dims_of(module: nn.Module) -> int:
    """Number of spatial axes of a layer's map."""
    return next(d for d in (1, 2, 3) for kind in type(module).__mro__ if kind.__name__.endswith(f"{d}d"))


def stride_of(module: nn.Module) -> tuple[int, ...]:
    """A layer's stride in pixels along each axis; in two dimensions, (rows, columns)."""
    stride: Any = module.kernel_size if module.stride is None else module.stride
    return each(stride, dims_of(module))


def each(number: Any, dims: int) -> tuple[int, ...]:
    """A setting of torch's layers for each axis: an integer is repeated, a sequence is kept."""
    return (number,) * dims if isinstance(number, int) else tuple(number)


def is_norm(module: nn.Module) -> bool:
    """Whether the module is a norm of any library, with or without an activation inside, or an identity or dropout."""
    named = isinstance(module, _TORCH_NORMS) and "Norm" in type(module).__name__
    return named or isinstance(module, (*PASSED, *_TORCH_NORMS[:2]))


def is_activation(module: nn.Module) -> bool:
    """Whether the module is an activation of torch, timm or Hugging Face, without modules inside."""
    home = type(module).__module__
    known = home == nn.ReLU.__module__ and not isinstance(module, nn.MultiheadAttention | nn.Softmax)
    return (known or home.rpartition(".")[2].startswith("activations")) and not list(module.children())


def is_filter(module: nn.Module) -> bool:
    """Whether the module is a low-pass filter, strided or not: ours, timm's BlurPool2d, or one of antialiased-cnns."""
    if isinstance(module, Downsample | BlurPool1d | BlurPool3d):
        return True
    return not any(True for _ in module.parameters()) and "filt" in module._buffers


def is_function(node: fx.Node, *names: str) -> bool:
    """Whether a step calls a function or a method of one of these names."""
    if node.op == "call_method":
        return str(node.target) in names
    return node.op == "call_function" and getattr(node.target, "__name__", "") in names


def is_functional_activation(node: fx.Node) -> bool:
    return is_function(node, *_FUNCTIONAL_ACTIVATIONS)


def is_addition(node: fx.Node) -> bool:
    return is_function(node, "add", "add_", "iadd")


def asks_for_size(node: fx.Node) -> bool:
    """Whether a step reads only a map's size, dtype or device, not its values."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in ("shape", "ndim", "dtype", "device")
    return is_function(node, "size", "dim", "numel", "zeros_like", "ones_like", "new_zeros", "new_ones")


def left_out(node: fx.Node, module: nn.Module | None) -> str:
    """What skips pixels in a step that is neither a convolution nor a pool, in words; otherwise ""."""
    if module is not None:
        return _resizer(module)
    if node.op not in ("call_function", "call_method"):
        return ""
    if node.target is operator.getitem:
        return "a slice" if _steps(node.args[1]) else ""
    name = getattr(node.target, "__name__", str(node.target)).lstrip("_").removesuffix("_with_indices")
    if name in _FUNCTIONS:
        stride = _argument(node, _FUNCTIONS[name], "stride")
        if stride is None or stride == ():
            stride = 1 if name.startswith("conv") else _argument(node, _FUNCTIONS[name] - 1, "kernel_size")
        numbers = stride if isinstance(stride, list | tuple) else [stride]
        # other than an integer: computed from the input's size, as global pools do
        return f"the function {name}" if any(not isinstance(n, int) or n > 1 for n in numbers) else ""
    if name.startswith("adaptive_"):
        return f"the function {name}" if _several(_argument(node, 1, "output_size")) else ""
    if name.startswith("fractional_max_pool"):
        return f"the function {name}"
    if name == "pixel_unshuffle" and node.op == "call_function":
        return "the function pixel_unshuffle"
    if name == "interpolate":
        return "the function interpolate" if _shrinks(_argument(node, 2, "scale_factor")) else ""
    if name == "unfold":
        step = _argument(node, 3 if node.op == "call_method" else 4, "step" if node.op == "call_method" else "stride")
        return "unfold" if any(isinstance(n, int) and n > 1 for n in _list(step)) else ""
    if name == "index_select":
        return "index_select" if _argument(node, 1, "dim") in (2, 3, -1, -2) else ""
    return ""


def describe(module: nn.Module) -> str:
    """A layer in words, such as "3x3 convolution of stride 2"; a filter by its class, taps and stride."""
    kinds = {CONVOLUTIONS: "convolution", MAX_POOLS: "max-pool", AVERAGE_POOLS: "average pool"}
    for kind, name in kinds.items():
        if isinstance(module, kind):
            size: Any = module.kernel_size
            sides = "x".join(map(str, each(size, dims_of(module))))
            return f"{sides} {name} of stride {shown(stride_of(module))}"
    taps: Any = getattr(module, "size", "")
    stride: Any = getattr(module, "stride", 1)
    name = getattr(type(module), "known_as", type(module).__name__)
    if taps == 1 and name == "BlurPool2d":  # a blur of one tap only samples
        name = "Subsample"
    return f"{name}{f' of {taps} taps' if taps and taps > 1 else ''}, stride {shown(each(stride, 1))}"


def shown(stride: tuple[int, ...]) -> str:
    return str(stride[0] if len(set(stride)) == 1 else stride)


def _resizer(module: nn.Module) -> str:
    settings: Any = module
    if isinstance(module, nn.Upsample):
        return "an Upsample below 1" if _shrinks(settings.scale_factor) else ""
    if isinstance(module, nn.Unfold):
        return "an Unfold" if max(_list(settings.stride)) > 1 else ""
    if isinstance(module, nn.PixelUnshuffle):
        return "a PixelUnshuffle"
    if isinstance(module, nn.FractionalMaxPool2d | nn.FractionalMaxPool3d):
        return "a fractional max-pool"
    if isinstance(module, RESIZERS):
        return f"{type(module).__name__} to {settings.output_size}" if _several(settings.output_size) else ""
    return ""


def _several(size: Any) -> bool:
    """Whether an output size has more than one pixel along some axis."""
    return any(n is None or (isinstance(n, int) and n > 1) for n in _list(size))


def _shrinks(scale: Any) -> bool:
    return any(isinstance(n, int | float) and not math.isnan(n) and n < 1 for n in _list(scale) if n is not None)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | torch.Size) else [value]


def _argument(node: fx.Node, position: int, name: str) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)


def _steps(index: Any) -> bool:
    """Whether an index of (B, C, H, W) skips rows or columns."""
    if not isinstance(index, tuple):
        return False
    places = range(index.index(...) if ... in index else 2, len(index))
    steps = [index[i].step for i in places if isinstance(index[i], slice)]
    return any(isinstance(step, int) and step > 1 for step in steps)
