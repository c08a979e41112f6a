"""What of a network strides, as far as `torch.fx` shows it: layers, functions inside a forward, slices with a step."""

import operator
from typing import Any

from torch import fx, nn

from stillpoint.core.layers.downsample import Downsample

LAYERS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool1d, nn.LPPool2d, nn.LPPool3d),
)
NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d, nn.SyncBatchNorm, nn.Identity, nn.Dropout, nn.Dropout2d)
# the position of the stride among the arguments of torch's functions
_FUNCTIONS = {
    f"{kind}{dims}d": position
    for kind, position in {"conv": 3, "max_pool": 2, "avg_pool": 2, "lp_pool": 3}.items()
    for dims in (1, 2, 3)
}


def traced(model: nn.Module) -> fx.Graph:
    """The network's graph, a convolution, a norm or a Downsample being one node; ValueError where there is none."""
    try:
        return _Tracer().trace(model)
    except Exception as error:  # whatever a user's forward raises when it is traced
        try:
            return _Tracer(closed=True).trace(model)
        except Exception:
            raise ValueError(
                f"torch.fx cannot trace this {type(model).__name__}: {str(error).partition(chr(10))[0]}"
            ) from error


def strides(module: nn.Module) -> bool:
    """Whether the module is a layer that leaves pixels out."""
    return isinstance(module, LAYERS) and max(stride_of(module)) > 1


def stride_of(module: nn.Module) -> tuple[int, ...]:
    """Pixels from one output to the next along each axis; of a layer of two dimensions, (rows, columns)."""
    stride: Any = module.kernel_size if module.stride is None else module.stride
    return pair(stride)


def pair(number: Any) -> tuple[int, ...]:
    """An integer twice, several as they are: how torch's layers of two dimensions read their settings."""
    return (number, number) if isinstance(number, int) else tuple(number)


def function_strides(node: fx.Node) -> str:
    """What strides in a step that is no layer, "a function" or "a slice"; else nothing."""
    if node.op != "call_function":
        return ""
    if node.target is operator.getitem:
        return "a slice" if _steps(node.args[1]) else ""
    name = getattr(node.target, "__name__", "").removeprefix("_").removesuffix("_with_indices")
    if name not in _FUNCTIONS:
        return ""
    stride = _argument(node, _FUNCTIONS[name], "stride")
    if stride is None or stride == ():
        stride = 1 if name.startswith("conv") else _argument(node, _FUNCTIONS[name] - 1, "kernel_size")
    numbers = stride if isinstance(stride, list | tuple) else [stride]
    # a number that is no integer is read from the input's size, as global pools do
    return "a function" if any(not isinstance(n, int) or n > 1 for n in numbers) else ""


def describe(module: nn.Module) -> str:
    """Such as "3x3 convolution of stride 2"; a filter by its class, taps and stride."""
    kinds = {nn.Conv2d: "convolution", nn.MaxPool2d: "max-pool", nn.AvgPool2d: "average pool"}
    for kind, name in kinds.items():
        if isinstance(module, kind):
            rows, columns = pair(module.kernel_size)
            return f"{rows}x{columns} {name} of stride {_shown(stride_of(module))}"
    taps: Any = getattr(module, "size", "")
    stride: Any = getattr(module, "stride", 1)
    return f"{type(module).__name__}{f' of {taps} taps' if taps else ''}, stride {_shown(pair(stride))}"


class _Tracer(fx.Tracer):
    """Sees a convolution or a norm of a library's own, which carries its padding or its activation, as one layer.

    `closed`: so too every module in which no layer strides, for networks where one of those branches in its forward.
    """

    def __init__(self, closed: bool = False) -> None:
        super().__init__()
        self.closed = closed

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        layers = (*LAYERS, *NORMS, Downsample)
        if isinstance(m, layers) or super().is_leaf_module(m, module_qualified_name):
            return True
        return self.closed and not isinstance(m, nn.Sequential) and not any(map(strides, m.modules()))


def _argument(node: fx.Node, position: int, name: str) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)


def _steps(index: Any) -> bool:
    """Whether an index of (B, C, H, W) leaves rows or columns out."""
    if not isinstance(index, tuple):
        return False
    places = range(index.index(...) if ... in index else 2, len(index))
    steps = [index[i].step for i in places if isinstance(index[i], slice)]
    return any(isinstance(step, int) and step > 1 for step in steps)


def _shown(stride: tuple[int, ...]) -> str:
    return str(stride[0] if len(set(stride)) == 1 else stride)
