"""The timed cases: one job each, its contenders, and its minimal memory traffic."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillpoint.core.layers import BlurPool2d, PaddedConv2d, PolyphaseDownsample2d, binomial_kernel, pad
from stillpoint.core.layers.adaptive_blur import adaptive_blur2d

BATCH, CHANNELS, HEIGHT = 32, 64, 56
#: error allowed, relative to the largest value: rounding of short sums; the last of eight bits in bfloat16
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02}
#: a seed for which no float32 code is so close to its threshold that rounding decides its gradient
DICTIONARY = 1
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
MODES = ("forward", "forward+backward")


@dataclass
class Case:
    """One job. `others` compute something slightly different, named accordingly, and are not compared; `bounds` are
    necessary pieces of the job, timed alone."""

    job: str
    about: dict[str, Any]
    input: Tensor
    reference: Callable[[Tensor], Tensor]  # plain, run in float64
    contenders: dict[str, Callable[[Tensor], Tensor]]
    others: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    bounds: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    output: int = 0  # elements
    baseline: str = "plain"
    tolerance: float = 1e-5
    backward: bool = False

    @property
    def floor(self) -> int:
        """Minimal memory traffic in bytes: input read once and output written once; gradients double it."""
        return (self.input.numel() + self.output) * self.input.element_size() * (2 if self.backward else 1)


def plain_blur(x: Tensor, size: int, padding: str, stride: int = 2) -> Tensor:
    """The textbook BlurPool: pad, then a depthwise convolution with a stride."""
    before, after = (size - 1) // 2, size // 2
    x = F.pad(x, (before, after, before, after), mode="constant" if padding == "zeros" else padding)
    return F.conv2d(x, _weight(size, x.shape[1], x.device, x.dtype), stride=stride, groups=x.shape[1])


@cache
def _weight(size: int, channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The kernel of `plain_blur`, made once, as in a module."""
    return binomial_kernel(size, 2, device=device, dtype=dtype).expand(channels, 1, size, size)


def plain_adaptive(x: Tensor, size: int, select: str) -> Tensor:
    """The textbook adaptive sampling: four phases sliced and stacked, their norms, the largest gathered."""
    blurred = plain_blur(x, size, "circular", stride=1) if size > 1 else x

    def phases(v: Tensor) -> Tensor:
        slices = [v[:, :, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return torch.stack(slices, dim=1)  # (B, 4, C, H/2, W/2)

    split = phases(blurred)
    judged = split if select == "after_blur" or size == 1 else phases(x)
    best = judged.flatten(2).norm(dim=2).argmax(1)
    index = best.view(-1, 1, 1, 1, 1).expand(-1, 1, *split.shape[2:])
    return split.gather(1, index).squeeze(1)


def plain_adaptive_blur(x: Tensor, logits: Tensor, size: int) -> Tensor:
    """The textbook adaptive blur: unfold every window, multiply, add."""
    batch, channels, height, width = x.shape
    groups = logits.shape[1] // size**2
    weights = logits.softmax(1).view(batch, groups, 1, size**2, *logits.shape[2:])
    windows = F.unfold(F.pad(x, (size // 2,) * 4, mode="reflect"), size, stride=2)
    windows = windows.view(batch, groups, channels // groups, size**2, (height + 1) // 2, (width + 1) // 2)
    return (windows * weights).sum(3).flatten(1, 2)


def plain_sparse_coding(x: Tensor, weight: Tensor, step: Tensor, penalty: float) -> Tensor:
    """Two iterations of textbook FISTA; as many channels as atoms, 3x3."""
    code = before = torch.zeros_like(x)
    momentum = 1.0
    for _ in range(2):
        residual = x - F.conv_transpose2d(code, weight, padding=1)
        after = torch.relu(code + step * F.conv2d(residual, weight, padding=1) - step * penalty)
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        code, before, momentum = after + (momentum - 1) / following * (after - before), after, following
    return before


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _map(layout: str, dtype: torch.dtype, device: str, shape: tuple[int, ...] = ()) -> Tensor:
    x = torch.randn(shape or (BATCH, CHANNELS, HEIGHT, HEIGHT), generator=torch.Generator().manual_seed(0))
    return x.to(device, dtype).to(memory_format=LAYOUTS[layout])


def _blur(device: str, size: int, padding: str, layout: str, dtype: torch.dtype, backward: bool) -> Case:
    x = _map(layout, dtype, device)
    case = Case(
        "BlurPool",
        {"size": size, "padding": padding, "layout": layout, "dtype": _name(dtype)},
        x,
        lambda v: plain_blur(v, size, padding),
        {
            "stillpoint": BlurPool2d(CHANNELS, size=size, padding=padding).to(device),
            "plain": lambda v: plain_blur(v, size, padding),
        },
        output=x.numel() // 4,
        tolerance=TOLERANCE[dtype],
        backward=backward,
        bounds={} if backward else {"reading": lambda v: v.sum()},
    )
    if find_spec("timm") and padding == "reflect":
        from timm.layers import BlurPool2d as TimmBlurPool2d

        timm = TimmBlurPool2d(CHANNELS, filt_size=size, stride=2).to(device, dtype)
        if timm(x).shape[2] == HEIGHT // 2:
            case.contenders["timm"] = timm
        else:
            case.others[f"timm ({timm(x).shape[2]}x{timm(x).shape[3]})"] = timm
    if find_spec("kornia"):
        from kornia.filters import BlurPool2D

        kornia = BlurPool2D(size, 2)
        case.others["kornia (zeros)"] = kornia
    return case


def _adaptive(device: str, size: int, select: str, layout: str, dtype: torch.dtype, backward: bool) -> Case:
    x = _map(layout, dtype, device)
    x[:, :, ::2, 1::2] *= 1.5  # phases of noise have almost equal norms, and textbook code rounds these to the dtype
    layer = PolyphaseDownsample2d(CHANNELS, size=size, select=select).to(device)
    return Case(
        "APS",
        {"size": size, "select": select, "layout": layout, "dtype": _name(dtype)},
        x,
        lambda v: plain_adaptive(v, size, select),
        {"stillpoint": layer, "plain": lambda v: plain_adaptive(v, size, select)},
        output=x.numel() // 4,
        tolerance=TOLERANCE[dtype],
        backward=backward,
    )


def _circular_padding(device: str, layout: str, dtype: torch.dtype, backward: bool) -> Case:
    x = _map(layout, dtype, device)
    return Case(
        "Circular padding",
        {"margin": 1, "layout": layout, "dtype": _name(dtype)},
        x,
        lambda v: F.pad(v, (1,) * 4, mode="circular"),
        {
            "stillpoint": lambda v: pad(v, [(1, 1)] * 2, padding="circular"),
            "PyTorch": lambda v: F.pad(v, (1,) * 4, mode="circular"),
        },
        output=BATCH * CHANNELS * (HEIGHT + 2) ** 2,
        baseline="PyTorch",
        tolerance=TOLERANCE[dtype],
        backward=backward,
    )


def _circular_convolution(device: str, layout: str, dtype: torch.dtype, backward: bool) -> Case:
    """A convolution of the first stage of a CIFAR ResNet-20; neither side computes a gradient of the weights."""
    x = _map(layout, dtype, device, (128, 16, 32, 32))
    theirs = nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular", bias=False)
    ours = PaddedConv2d(16, 16, 3, padding=1, padding_mode="circular", bias=False)
    ours.load_state_dict(theirs.state_dict())
    for net in (theirs, ours):
        net.requires_grad_(False).to(device, dtype, memory_format=LAYOUTS[layout])
    weight = ours.weight
    return Case(
        "Circular convolution",
        {"shape": "128x16x32x32", "kernel": 3, "layout": layout, "dtype": _name(dtype)},
        x,
        lambda v: F.conv2d(F.pad(v, (1,) * 4, mode="circular"), weight.to(v.dtype)),
        {"stillpoint": ours, "PyTorch": theirs},
        output=x.numel(),
        baseline="PyTorch",
        tolerance=TOLERANCE[dtype],
        backward=backward,
    )


def _adaptive_blur(device: str, layout: str, dtype: torch.dtype, backward: bool) -> Case:
    x = _map(layout, dtype, device)
    logits = _map(layout, dtype, device, (BATCH, 8 * 9, HEIGHT // 2, HEIGHT // 2))
    return Case(
        "Adaptive blur",
        {"size": 3, "groups": 8, "layout": layout, "dtype": _name(dtype)},
        x,
        lambda v: plain_adaptive_blur(v, logits.to(v.dtype), 3),
        {
            "stillpoint": lambda v: adaptive_blur2d(v, logits, size=3, stride=2),
            "plain": lambda v: plain_adaptive_blur(v, logits, 3),
        },
        output=x.numel() // 4 + logits.numel(),
        tolerance=TOLERANCE[dtype],
        backward=backward,
    )


def _lend_pytorch_wavelets_what_it_misses() -> None:
    """Patches in two functions that version 1.3 calls and that current NumPy and setuptools lack."""
    import importlib.resources
    import sys
    import types

    import numpy

    if not hasattr(numpy, "asfarray"):
        setattr(numpy, "asfarray", lambda v, dtype=float: numpy.asarray(v, dtype=dtype))  # noqa: B010
    if "pkg_resources" not in sys.modules and not find_spec("pkg_resources"):
        stand_in = types.ModuleType("pkg_resources")
        stand_in.resource_stream = lambda package, name: (  # type: ignore[attr-defined]
            importlib.resources.files(package).joinpath(name).open("rb")
        )
        sys.modules["pkg_resources"] = stand_in


def _packets(device: str, depth: int, dtype: torch.dtype, backward: bool) -> Case | None:
    """At stride 2**J as many coefficients as the dual-tree transform has; the transforms differ, so only ours is
    checked."""
    if not find_spec("pytorch_wavelets"):
        return None
    _lend_pytorch_wavelets_what_it_misses()
    from pytorch_wavelets import DTCWTForward

    from stillpoint.core.layers.wavelet_packets import WaveletPackets2d

    x = _map("contiguous", dtype, device, (8, 3, 224, 224))
    ours = WaveletPackets2d(depth=depth, stride=2**depth, padding="circular").to(device, dtype)
    double = WaveletPackets2d(depth=depth, stride=2**depth, padding="circular").to(device).double()
    peer = DTCWTForward(J=depth).to(device, dtype)

    def transform(v: Tensor) -> Tensor:
        low, high = peer(v)
        return torch.cat([low.flatten(), *[level.flatten() for level in high]])

    return Case(
        "Dual-tree packets",
        {"depth": depth, "stride": 2**depth, "dtype": _name(dtype)},
        x,
        double,
        {"stillpoint": ours},
        {"pytorch_wavelets": transform},
        output=8 * x.numel(),
        baseline="pytorch_wavelets",
        tolerance=TOLERANCE[dtype],
        backward=backward,
    )


def _sparse_coding(device: str, layout: str, dtype: torch.dtype, backward: bool) -> Case:
    """Two steps of FISTA; the plain side is the same iteration, differentiated by autograd."""
    from stillpoint.core.layers.sparse_coding import SparseCoding2d

    x = _map(layout, dtype, device, (16, 64, 32, 32))
    torch.manual_seed(DICTIONARY)
    layer = SparseCoding2d(64, 64, 3, padding=1, iterations=2, normalise=False)
    layer = layer.to(device, dtype, memory_format=LAYOUTS[layout])
    with torch.no_grad():
        layer.weight.div_(8)
        layer(x)
    layer.eval()
    weight, step, penalty = layer.weight, layer.step(x), layer.penalty

    def plain(v: Tensor) -> Tensor:
        return plain_sparse_coding(v, weight.to(v.dtype), step.to(v.dtype), penalty)

    def convolutions(v: Tensor) -> Tensor:
        code = F.conv2d(v, weight, padding=1)
        return F.conv2d(F.conv_transpose2d(code, weight, padding=1), weight, padding=1)

    bounds = {"its convolutions": convolutions}
    if not backward:
        rows = torch.ones(x.numel() // 64, 64 * 9, dtype=dtype, device=device)
        columns = torch.ones(64 * 9, 3 * 64, dtype=dtype, device=device)
        bounds["a matrix product of as many multiplications"] = lambda _: rows @ columns

    return Case(
        "Sparse coding, T=2",
        {"shape": "16x64x32x32", "dictionary": 64, "kernel": 3, "layout": layout, "dtype": _name(dtype)},
        x,
        plain,
        {"stillpoint": layer, "plain": plain},
        output=x.numel(),
        # bfloat16 moves some codes across their threshold, which changes their gradient
        tolerance=(10 if backward or dtype == torch.float32 else 1) * TOLERANCE[dtype],
        bounds=bounds,
        backward=backward,
    )


def cases(device: str) -> Iterator[Case]:
    """All cases, forward alone and forward with backward."""
    dtypes = (torch.float32, torch.bfloat16)
    for backward in (False, True):
        for layout in LAYOUTS:
            for padding in ("reflect", "replicate", "zeros", "circular"):
                for size in (2, 3, 4, 5):
                    yield _blur(device, size, padding, layout, torch.float32, backward)
            for size in (2, 3, 4, 5):
                yield _blur(device, size, "reflect", layout, torch.bfloat16, backward)
            for size in (1, 2, 3, 4, 5):
                yield _adaptive(device, size, "before_blur", layout, torch.float32, backward)
            yield _adaptive(device, 3, "after_blur", layout, torch.float32, backward)
            for select in ("before_blur", "after_blur"):
                yield _adaptive(device, 3, select, layout, torch.bfloat16, backward)
            for dtype in dtypes:
                yield _circular_padding(device, layout, dtype, backward)
                yield _circular_convolution(device, layout, dtype, backward)
                yield _adaptive_blur(device, layout, dtype, backward)
                yield _sparse_coding(device, layout, dtype, backward)
        for dtype in dtypes:
            for depth in (2, 3):
                packets = _packets(device, depth, dtype, backward)
                if packets:
                    yield packets
