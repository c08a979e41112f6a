"""The cost of a forward pass in multiply-adds, bytes written and milliseconds, and the peak memory of a call."""

import math
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")


class Cost(NamedTuple):
    """Multiply-adds of convolutions, filters and matrix products; bytes of all tensors written by operations; the
    median time of three runs, in milliseconds."""

    multiply_adds: int
    written: int
    milliseconds: float

    def against(self, before: "Cost") -> str:
        """One line that compares this cost with the one `before`."""
        pairs = [
            ("multiply-adds", "G", 1e9, self.multiply_adds, before.multiply_adds),
            ("written", "MB", 1e6, self.written, before.written),
            ("time", "ms", 1.0, self.milliseconds, before.milliseconds),
        ]
        parts = [f"{what} {new / by:.3g} {unit}, was {old / by:.3g} {unit}" for what, unit, by, new, old in pairs]
        return f"one forward: {'; '.join(parts)}"


@torch.no_grad()
def cost(net: nn.Module, images: Any) -> Cost:
    """The cost of ``net(images)`` in evaluation mode; the network is left unchanged."""
    training = {module: module.training for module in net.modules()}
    net.eval()
    try:
        with _Meter() as meter:
            net(images)
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            net(images)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
    finally:
        for module, mode in training.items():
            module.training = mode
    return Cost(meter.multiply_adds, meter.written, 1000 * median(times))


class _Meter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.multiply_adds = self.written = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func._schema.name
        outputs = [y for y in (made if isinstance(made, list | tuple) else [made]) if isinstance(y, Tensor)]
        if not func.is_view:
            self.written += sum(y.numel() * y.element_size() for y in outputs)
        if name == "aten::convolution":
            self.multiply_adds += outputs[0].numel() * math.prod(args[1].shape[1:])
        elif name in _PRODUCTS:
            self.multiply_adds += outputs[0].numel() * args[-2 if name in ("aten::mm", "aten::bmm") else 1].shape[-1]
        elif not name.startswith("aten::"):  # a fused blur: taps in both directions
            size = next((n for n in args if isinstance(n, int) and not isinstance(n, bool)), 1)
            self.multiply_adds += outputs[0].numel() * 2 * size if outputs else 0
        return made


def peak_memory(call: Callable[[], Any], device: str) -> int:
    """Peak memory of a call, in bytes above what was allocated before it; `device` is "cuda" or "cpu"."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - held
    from torch.profiler import ProfilerActivity, profile

    # read when the profiler first starts; without it every start prints a line
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    results = seen.profiler.kineto_results  # type: ignore[union-attr]
    changes = sorted(
        (event.start_ns(), index, event.nbytes())
        for index, event in enumerate(results.events())
        if event.name() == "[memory]"
    )
    held = peak = 0
    for _, _, change in changes:
        held += change
        peak = max(peak, held)
    return peak
