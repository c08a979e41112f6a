"""Whether bfloat16 is fast on this processor, measured in a fraction of a second: some emulate it, others have tiles.

Which one wins cannot be read off the processor's list of instructions: with avx512_bf16 alone it goes either way.
"""

import time
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F

#: sides of the probe: images, channels, pixels; a small network's, so that even emulation takes a fraction of a second
_IMAGES, _CHANNELS, _SIDE = 16, 32, 16
#: two operations a multiply-add, three convolutions a training step
_OPERATIONS = 2 * 3 * _IMAGES * _CHANNELS * _CHANNELS * 9 * _SIDE * _SIDE
#: times each type is measured, and the seconds after which no further time is tried
_TIMES, _ENOUGH = 5, 0.3
#: float32 counts as faster from this ratio on: below, other operations than convolutions decide
CLEARLY = 1.3


class Speeds(NamedTuple):
    """Operations per second of a 3x3 convolution with both its gradients."""

    float32: float
    bfloat16: float

    @property
    def ratio(self) -> float:
        """How many times as fast float32 is."""
        return self.float32 / self.bfloat16


def speeds() -> Speeds:
    """Both speeds of this CPU with torch's current number of threads; measured once a process for each number."""
    return _speeds(torch.get_num_threads())


@cache
def _speeds(threads: int) -> Speeds:
    # no random numbers: a training's must not depend on whether it was measured
    x = torch.linspace(-1, 1, _IMAGES * _CHANNELS * _SIDE * _SIDE).reshape(_IMAGES, _CHANNELS, _SIDE, _SIDE)
    weight = torch.linspace(-0.1, 0.1, _CHANNELS * _CHANNELS * 9).reshape(_CHANNELS, _CHANNELS, 3, 3)
    x, weight = (one.contiguous(memory_format=torch.channels_last).requires_grad_() for one in (x, weight))

    def seconds(lower: bool) -> float:
        # as training does it: parameters and gradients in float32, and autocast; CPU time, since others may be at work
        began = time.process_time()
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=lower):
            y = F.conv2d(x, weight, padding=1)
        torch.autograd.grad(y, (x, weight), y.detach())
        return time.process_time() - began

    began, least = time.perf_counter(), (float("inf"), float("inf"))
    seconds(False), seconds(True)  # these also start the library
    for _ in range(_TIMES):
        least = min(least[0], seconds(False)), min(least[1], seconds(True))
        if time.perf_counter() - began > _ENOUGH:
            break
    return Speeds(*(_OPERATIONS / max(one, 1e-9) for one in least))


def advice(precision: str, device: torch.device) -> str:
    """A sentence for the user about to train in `precision` on `device` if float32 is clearly faster there, else ""."""
    if precision != "bfloat16" or device.type != "cpu" or (found := speeds()).ratio < CLEARLY:
        return ""
    return (
        f"bfloat16 is slow on this processor: a convolution takes {found.ratio:.1f} times as long as in float32. "
        "TRAIN.PRECISION float32 trains faster, but it is another run: give it its own --results folder and table"
    )
