"""Counts the cost of the variants: multiply-accumulates, parameters and values that the stem stores for backward.

Nothing is computed: torch's fake tensors have only shapes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from stillpoint.core.layers.wavelet_twin import TwinStem, WaveletTwin2d
from stillpoint.pipelines.wavelet_twins.catalogue import CLASSIFIERS
from stillpoint.pipelines.wavelet_twins.models import network

#: the classifiers of ImageNet: every variant of AlexNet and of ResNet-34
VARIANTS = tuple(name for name in CLASSIFIERS if "I" in name)


@dataclass(frozen=True)
class Cost:
    """Of one image: multiply-accumulates of convolutions and linear layers; values that the stem stores in training.

    `stem_by_stages` is that of the stem with packets computed as the authors do (see `stages_macs`); None without
    wavelets.
    """

    stem_macs: int
    stem_by_stages: int | None
    macs: int
    parameters: int
    stem_saved: int


def multiply_accumulates(net: nn.Module, x: Tensor) -> int:
    """Multiply-accumulates of convolutions, linear layers and matrix products in one forward pass in evaluation."""
    net.eval()
    return _counted(lambda: net(x))


def _counted(work: Callable[[], object]) -> int:
    # our kernels count as the convolutions that they replace
    kernels = {torch.ops.stillpoint.blur_pool: _blur_flops, torch.ops.stillpoint.packets: _packets_flops}
    counter = FlopCounterMode(display=False, custom_mapping=kernels)
    with counter, torch.no_grad():
        work()
    return counter.get_total_flops() // 2


def _blur_flops(x, phase, size, stride, padding, pad_off, out_shape=None, **_) -> int:  # type: ignore[no-untyped-def]
    return 2 * prod(out_shape) * size**2


def _packets_flops(x, vertical, horizontal, places, *_, out_shape=None, **__) -> int:  # type: ignore[no-untyped-def]
    batch, channels, _, width = x
    down = prod(vertical) * out_shape[-2] * width  # all paths of both trees
    across = prod(out_shape[2:]) * vertical[-1]
    return 2 * batch * channels * (down + across)


def stages_macs(first: WaveletTwin2d, x: Tensor) -> int:
    """Multiply-accumulates of a twin computed as the authors do: stage by stage in four real filter banks, whose first
    stages all packets share, with every packet and both parts at the layer's stride.

    For one image whose colours are mixed first. Stage j turns 4^j maps into 4^(j+1) by a vertical and a horizontal
    filter of 12 taps, 10 from the second stage on, with stride 2 until the layer's stride is reached.
    """
    packing, packets = first.wavelet.packing, first.wavelet.packets
    side, maps, left, spread, total = x.shape[-1] + 2 * packets.before, 1, packets.stride, 1, 0
    for stage in range(packing.depth):
        taps, step = 12 if stage == 0 else 10, 2 if left > 1 else 1
        out = (side - spread * (taps - 1) - 1) // step + 1
        total += 4 * taps * out * (2 * maps * side + 4 * maps * out)
        side, maps, left, spread = out, 4 * maps, left // 2, spread * (2 if step == 1 else 1)
    weights = sum(o * i // g for o, i, g in zip(packing.outputs, packing.inputs, packing.groups, strict=True))
    colours = x.shape[1] * x.shape[-2] * x.shape[-1]
    return total + 2 * weights * side**2 + colours + _counted(lambda: first.free(x))


def _by_stages(head: nn.Module, x: Tensor, macs: int) -> int | None:
    twins = [module for module in head.modules() if isinstance(module, TwinStem)]
    if not twins:
        return None
    first, joint = twins[0].first, twins[0].joint is not None
    return macs - _counted(lambda: first(x) if joint else first.halves(x)) + stages_macs(first, x)


def saved_numbers(net: nn.Module, x: Tensor) -> int:
    """Numbers that autograd saves from forward to backward in training: each tensor once, without parameters."""
    own = {id(parameter) for parameter in net.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if id(tensor) not in own and not isinstance(tensor, nn.Parameter):
            kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = net.train()(x)
    # the result keeps the graph alive until everything is counted
    assert result.requires_grad
    return sum(tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in kept.values())


def cost(arch: str, config: str, *, size: int = 224, num_classes: int = 1000) -> Cost:
    """The cost of one image of `size` x `size` pixels."""
    with FakeTensorMode():
        net = network(arch, config, num_classes=num_classes)
        one, two = torch.empty(1, 3, size, size), torch.empty(2, 3, size, size)
        head = net.stem
        macs = multiply_accumulates(head, one)
        return Cost(
            stem_macs=macs,
            stem_by_stages=_by_stages(head, one, macs),
            macs=multiply_accumulates(net, one),
            parameters=sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad),
            # the second image's share, because batch norm keeps a few numbers for the whole batch
            stem_saved=saved_numbers(head, two) - saved_numbers(head, one),
        )
