"""PyTorch operators for blurring, subsampling and choosing the grid, one pass over memory each.

Four operators with reverse-mode derivatives of every order, which torch.compile takes without a graph break. On a CPU
they run the C++ of `kernels.native`, on a GPU the Triton of `kernels.triton_pool`; the layers ask `fused` first. A blur
is linear: its derivative is its adjoint, and the adjoint's derivative is the blur.
"""

import ctypes
from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from stillpoint.core.base.modes import exporting
from stillpoint.core.kernels import native
from stillpoint.core.kernels.layout import empty_map, is_channels_last
from stillpoint.core.kernels.operators import operator

PADDINGS = {"reflect": 0, "replicate": 1, "zeros": 2, "circular": 3}
_CRITERIA = {"l2": 0, "l1": 1, "l_infty": 2, "max": 3, "l2_min": 4, "l1_min": 5}
CPU = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "BFloat16"}
_GPU = (torch.float32, torch.bfloat16, torch.float16)
HAS_TRITON = find_spec("triton") is not None


def fused(x: Tensor, *, size: int = 1, padding: str = "circular", pad_off: int = 0) -> bool:
    """Whether the operators support this tensor and this blur; otherwise use the plain code, which also reports errors.

    They need (B, C, H, W) of a dtype and device with a kernel. They are not used while a network is exported or traced,
    so that PyTorch's own operators are recorded, nor under torch.func or forward-mode derivatives, for which they have
    no rules.
    """
    if x.ndim != 4 or padding not in PADDINGS or plain_only():
        return False
    reach = max(size // 2 + pad_off, 0) if padding == "reflect" else 0
    if any(n <= reach or n + 2 * pad_off < 1 for n in x.shape[2:]):
        return False
    if x.is_cpu:
        return x.dtype in CPU and native.available(CPU[x.dtype])
    return triton_takes(x)


def triton_takes(x: Tensor) -> bool:
    """Whether a Triton kernel may be used for this tensor: on a GPU, of a supported dtype, and not switched off."""
    return x.device.type == "cuda" and x.dtype in _GPU and HAS_TRITON and native.enabled()


def blur_pool2d(
    x: Tensor, *, size: int, stride: tuple[int, int], padding: str, pad_off: int = 0, phase: Tensor | None = None
) -> Tensor:
    """The blur of `stillpoint.core.layers.blur`, sampled from the first pixel or at each image's `phase` (B,).

    (B, C, H, W) -> (B, C, h, w). With a phase, a blurred map whose size is not a multiple of the stride is extended
    circularly.
    """
    return _blur_pool(x, phase, size, list(stride), padding, pad_off)


def blur_pool2d_adjoint(
    y: Tensor, shape: tuple[int, int], *, size: int, stride: tuple[int, int], padding: str, phase: Tensor | None = None
) -> Tensor:
    """The transpose of `blur_pool2d` as a matrix: (B, C, h, w) -> (B, C, H, W) of the given height and width."""
    return _blur_pool_adjoint(y, phase, list(shape), size, list(stride), padding, 0)


def polyphase_pool2d(
    x: Tensor, *, size: int, stride: tuple[int, int], padding: str, criterion: str, after_blur: bool
) -> tuple[Tensor, Tensor]:
    """Choose each image's phase and sample the blurred map there: returns (B, C, h, w) and the phase (B,) int64."""
    return _polyphase_pool(x, size, list(stride), padding, criterion, after_blur)


def choose_phase(x: Tensor, *, stride: tuple[int, int], criterion: str) -> Tensor:
    """Each image's phase (B,) int64 by a criterion of `stillpoint.core.layers.phases`."""
    return _choose_phase(x, list(stride), criterion)


def plain_only() -> bool:
    """Whether only PyTorch's own operators may be used: exporting, tracing, torch.func, forward-mode derivatives."""
    if torch.compiler.is_compiling() or exporting():
        return exporting()
    if torch._C._is_tracing():
        return True
    return forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None


# The operators


@operator("stillpoint::blur_pool")
def _blur_pool(x: Tensor, phase: Tensor | None, size: int, stride: list[int], padding: str, pad_off: int) -> Tensor:
    return _run_pool(x, phase, None, size, stride, padding, pad_off)


@torch.library.register_fake(_blur_pool.overload)
def _(x: Tensor, phase: Tensor | None, size: int, stride: list[int], padding: str, pad_off: int) -> Tensor:
    return empty_map(x, _sizes(x.shape[2:], size, stride, pad_off))


@operator("stillpoint::blur_pool_adjoint")
def _blur_pool_adjoint(
    y: Tensor, phase: Tensor | None, shape: list[int], size: int, stride: list[int], padding: str, pad_off: int
) -> Tensor:
    return _run_pool(y, phase, (shape[0], shape[1]), size, stride, padding, pad_off)


@torch.library.register_fake(_blur_pool_adjoint.overload)
def _(
    y: Tensor, phase: Tensor | None, shape: list[int], size: int, stride: list[int], padding: str, pad_off: int
) -> Tensor:
    return empty_map(y, shape)


@operator("stillpoint::polyphase_pool")
def _polyphase_pool(
    x: Tensor, size: int, stride: list[int], padding: str, criterion: str, after_blur: bool
) -> tuple[Tensor, Tensor]:
    x, plan = _planned(x, None, size, stride, padding, 0)
    y = plan.empty()
    return y, _run_adaptive(x, y, plan, size if after_blur else 1, criterion)


@torch.library.register_fake(_polyphase_pool.overload)
def _(x: Tensor, size: int, stride: list[int], padding: str, criterion: str, after_blur: bool) -> tuple[Tensor, Tensor]:
    return empty_map(x, _sizes(x.shape[2:], size, stride, 0)), x.new_empty(x.shape[:1], dtype=torch.int64)


@operator("stillpoint::choose_phase")
def _choose_phase(x: Tensor, stride: list[int], criterion: str) -> Tensor:
    x, plan = _planned(x, None, 1, stride, "circular", 0)
    return _run_adaptive(x, None, plan, 1, criterion)


@torch.library.register_fake(_choose_phase.overload)
def _(x: Tensor, stride: list[int], criterion: str) -> Tensor:
    return x.new_empty(x.shape[:1], dtype=torch.int64)


# On a GPU. Triton is imported when the first operator runs there.


@torch.library.impl(_blur_pool.overload.name(), "cuda")
def _(x: Tensor, phase: Tensor | None, size: int, stride: list[int], padding: str, pad_off: int) -> Tensor:
    from stillpoint.core.kernels import triton_pool

    return triton_pool.blur_pool(x, phase, size, stride, padding, pad_off)


@torch.library.impl(_blur_pool_adjoint.overload.name(), "cuda")
def _(
    y: Tensor, phase: Tensor | None, shape: list[int], size: int, stride: list[int], padding: str, pad_off: int
) -> Tensor:
    from stillpoint.core.kernels import triton_pool

    return triton_pool.blur_pool_adjoint(y, phase, shape, size, stride, padding, pad_off)


@torch.library.impl(_polyphase_pool.overload.name(), "cuda")
def _(x: Tensor, size: int, stride: list[int], padding: str, criterion: str, after_blur: bool) -> tuple[Tensor, Tensor]:
    from stillpoint.core.kernels import triton_pool

    return triton_pool.polyphase_pool(x, size, stride, padding, criterion, after_blur)


@torch.library.impl(_choose_phase.overload.name(), "cuda")
def _(x: Tensor, stride: list[int], criterion: str) -> Tensor:
    from stillpoint.core.kernels import triton_pool

    return triton_pool.choose_phase(x, stride, criterion)


# Derivatives


def _keep_blur(ctx, inputs, output) -> None:
    x, phase, *ctx.options = inputs
    ctx.shape = list(x.shape[2:])
    ctx.save_for_backward(phase)


def _blur_backward(ctx, grad: Tensor):
    (phase,) = ctx.saved_tensors
    return _blur_pool_adjoint(grad, phase, ctx.shape, *ctx.options), None, None, None, None, None


def _keep_adjoint(ctx, inputs, output) -> None:
    _, phase, _, *ctx.options = inputs
    ctx.save_for_backward(phase)


def _adjoint_backward(ctx, grad: Tensor):
    (phase,) = ctx.saved_tensors
    return _blur_pool(grad, phase, *ctx.options), None, None, None, None, None, None


def _keep_polyphase(ctx, inputs, output) -> None:
    x, size, stride, padding, _, _ = inputs
    ctx.shape, ctx.options = list(x.shape[2:]), (size, stride, padding, 0)
    ctx.save_for_backward(output[1])


def _polyphase_backward(ctx, grad: Tensor, _: Tensor | None):
    (phase,) = ctx.saved_tensors
    return _blur_pool_adjoint(grad, phase, ctx.shape, *ctx.options), None, None, None, None, None


torch.library.register_autograd(_blur_pool.overload, _blur_backward, setup_context=_keep_blur)
torch.library.register_autograd(_blur_pool_adjoint.overload, _adjoint_backward, setup_context=_keep_adjoint)
torch.library.register_autograd(_polyphase_pool.overload, _polyphase_backward, setup_context=_keep_polyphase)


# The C++ behind them


def _sizes(shape: torch.Size, size: int, stride: list[int], pad_off: int) -> list[int]:
    # The pads are size - 1 in all, so that the blurred map has the size of the input, and 2 * pad_off more.
    return [(n + 2 * pad_off - 1) // s + 1 for n, s in zip(shape, stride, strict=True)]


class _Plan(NamedTuple):
    """The arguments of a C++ call other than the data."""

    dtype: torch.dtype
    batch: int
    channels: int
    axes: ctypes.Array  # input, output, stride and the two pads of the rows, then of the columns
    padding: int
    size: int
    last: bool
    shape: torch.Size  # of the result, and its strides
    strides: tuple[int, ...]

    def empty(self) -> Tensor:
        # the device is explicit, since torch.set_default_device also affects functions called directly
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device="cpu")


# Cached: computing it costs as much as a small map.
@lru_cache(1024)
def _plan(
    shape: torch.Size,
    strides: tuple[int, ...],
    dtype: torch.dtype,
    adjoint: tuple[int, int] | None,
    size: int,
    stride: tuple[int, int],
    padding: str,
    pad_off: int,
) -> _Plan | None:
    """The plan for a map of this shape and layout (`adjoint`: height and width of the result); None: copy it first."""
    x = torch.empty_strided(shape, strides, dtype=dtype, device="meta")
    if not (x.is_contiguous() or is_channels_last(x)):
        return None
    y = empty_map(x, list(adjoint) if adjoint else _sizes(shape[2:], size, list(stride), pad_off))
    (height, width), (out_height, out_width) = (y.shape[2:], shape[2:]) if adjoint else (shape[2:], y.shape[2:])
    pads = (size - 1) // 2 + pad_off, size // 2 + pad_off
    axes = (ctypes.c_int64 * 10)(height, out_height, stride[0], *pads, width, out_width, stride[1], *pads)
    return _Plan(dtype, shape[0], shape[1], axes, PADDINGS[padding], size, is_channels_last(x), y.shape, y.stride())


def _planned(x: Tensor, adjoint: tuple[int, int] | None, size: int, stride: list[int], padding: str, pad_off: int):
    options = adjoint, size, tuple(stride), padding, pad_off
    plan = _plan(x.shape, x.stride(), x.dtype, *options)
    if plan is None:
        x = x.contiguous()
        plan = _plan(x.shape, x.stride(), x.dtype, *options)
    return x, plan


def cpu_library(dtype: torch.dtype, source: str = "pool") -> ctypes.CDLL:
    """The compiled kernels of a source for `dtype`; RuntimeError if they are not available."""
    found = native.library(CPU[dtype], source)
    if found is None:
        raise RuntimeError(
            "the CPU kernels are not available on this machine: call the function in stillpoint.core.layers instead"
        )
    return found


def _run_pool(
    source: Tensor,
    phase: Tensor | None,
    adjoint: tuple[int, int] | None,
    size: int,
    stride: list[int],
    padding: str,
    pad_off: int,
) -> Tensor:
    source, plan = _planned(source, adjoint, size, stride, padding, pad_off)
    target = plan.empty()
    phase = None if phase is None else phase.to(torch.int64).contiguous()
    status = cpu_library(plan.dtype).stillpoint_pool(
        source.data_ptr(),
        target.data_ptr(),
        None if phase is None else phase.data_ptr(),
        plan.batch,
        plan.channels,
        plan.axes,
        plan.padding,
        plan.size,
        plan.last,
        adjoint is not None,
        torch.get_num_threads(),
    )
    if status:
        assert phase is not None
        raise ValueError(f"phase must lie between 0 and {stride[0] * stride[1] - 1}, got {phase.tolist()}")
    return target


def _run_adaptive(x: Tensor, y: Tensor | None, plan: _Plan, judged: int, criterion: str) -> Tensor:
    phase = torch.empty(plan.batch, dtype=torch.int64, device="cpu")
    cpu_library(plan.dtype).stillpoint_adaptive(
        x.data_ptr(),
        None if y is None else y.data_ptr(),
        phase.data_ptr(),
        plan.batch,
        plan.channels,
        plan.axes,
        plan.padding,
        plan.size,
        judged,
        _CRITERIA[criterion],
        plan.last,
        torch.get_num_threads(),
    )
    return phase
