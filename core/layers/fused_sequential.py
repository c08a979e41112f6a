"""A sequence that fuses each batch norm with the convolution before it and the activation after it."""

import torch
from torch import Tensor, nn

from stillpoint.core.layers.conv_norm_act import CONVOLUTIONS, conv_norm_act
from stillpoint.core.layers.norm_act import KNOWN, norm_act


class FusedSequential(nn.Sequential):
    """`nn.Sequential`, with the same names and results, that computes every batch norm and its neighbours, the
    convolution before it and the activation after it, by `conv_norm_act`."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            for module in self:
                input = module(input)
            return input
        else:  # TorchScript does not compile this branch
            return self._run(input)

    @torch.jit.ignore
    def _run(self, x: Tensor) -> Tensor:
        steps = list(self)
        while steps:
            step = steps.pop(0)
            conv = step if steps and type(step) in CONVOLUTIONS and type(steps[0]) is nn.BatchNorm2d else None
            norm = step if conv is None else steps.pop(0)
            if type(norm) is not nn.BatchNorm2d:
                x = step(x)
                continue
            act = steps.pop(0) if steps and type(steps[0]) in KNOWN else None
            x = norm_act(x, norm, act) if conv is None else conv_norm_act(x, conv, norm, act)
        return x
