"""Adaptive polyphase upsampling: puts a map back on the grid from which it was sampled (Chaman and Dokmanic, "Truly
shift-equivariant convolutional neural networks with adaptive polyphase upsampling", 2021).
"""

import torch
from torch import Tensor

from stillpoint.core.layers import scripted
from stillpoint.core.layers.blur import binomial_kernel, blur_with
from stillpoint.core.layers.constants import ConstantBuffers
from stillpoint.core.layers.padding import check_padding
from stillpoint.core.layers.phases import Stride, check_phase, extend, place_phase, shortened, stride_pair

# torch.fx, which cannot follow its checks, takes this as one step
torch.fx.wrap("_upsample")


def polyphase_upsample2d(
    y: Tensor,
    phase: Tensor,
    *,
    stride: Stride = 2,
    size: int = 1,
    padding: str = "circular",
    extend_input: bool = False,
) -> Tensor:
    """Put each image back on the grid from which it was sampled, zeros elsewhere, then blur.

    The filter sums to one, without gain.

    Args:
        y: (B, C, h, w).
        phase: (B,) int64 from `polyphase_downsample2d` with the same stride.
        stride, size, padding: as in `polyphase_downsample2d`; at stride 1 the map is returned unchanged, without a
            blur.
        extend_input: first extend y circularly to multiples of the stride, which makes the result larger than s * h.
            Only needed to reproduce the authors' code at odd sizes.

    Returns:
        (B, C, s * h, t * w).

    Raises:
        ValueError: an unknown size or padding, a bad stride or shape.

    Law: with circular padding, downsampling followed by upsampling commutes with every circular shift, if the
    downsampling obeys its law. With size 1 it is the adjoint of sampling at `phase`.

    Examples:
        >>> y = layers.polyphase_upsample2d(torch.ones(1, 1, 1, 1), torch.tensor([3]))
        >>> y.flatten()
        tensor([0., 0., 0., 1.])
    """
    kernel = binomial_kernel(size, 2, device=y.device, dtype=torch.float32)
    return _upsample(y, kernel, phase, stride, padding, extend_input)


class PolyphaseUpsample2d(ConstantBuffers):
    """`polyphase_upsample2d` as a Module: ``forward(y, grid)`` with the phase (B,) that the downsampling chose.

    `size` (H, W) crops what the downsampling appended to sides that the stride does not divide, before the blur;
    ValueError for a size that does not extend to (s * h, t * w).

    Examples:
        >>> layers.PolyphaseUpsample2d()(torch.randn(2, 8, 3, 3), torch.tensor([0, 3])).shape
        torch.Size([2, 8, 6, 6])
    """

    kernel: Tensor

    def __init__(
        self,
        channels: int | None = None,
        stride: Stride = 2,
        *,
        size: int = 1,
        padding: str = "circular",
        extend_input: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.size, self.extend_input = channels, size, extend_input
        self.stride, self.padding = stride_pair(stride), check_padding(padding)
        kernel = binomial_kernel(size, 2, device="cpu", dtype=torch.float64)
        self.register_constant("kernel", kernel, device=device, dtype=dtype)

    def forward(self, y: Tensor, grid: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        if torch.jit.is_scripting():
            return self._scripted(y, grid, size)
        else:  # TorchScript does not compile this branch
            return _upsample(y, self.kernel, grid, self.stride, self.padding, self.extend_input, size)

    def _scripted(self, y: Tensor, phase: Tensor, size: tuple[int, int] | None) -> Tensor:
        if self.stride == (1, 1):
            return y
        if self.extend_input:
            y = scripted.extended(y, list(self.stride))
        placed = scripted.placed(y, phase, list(self.stride))
        if size is not None:
            placed = scripted.cut_back(placed, size, list(self.stride))
        return scripted.blurred(placed, self.kernel, [1, 1], self.padding, 0)

    def extra_repr(self) -> str:
        return f"{self.channels}, stride={self.stride}, size={self.size}, padding={self.padding!r}"


def _upsample(
    y: Tensor,
    kernel: Tensor,
    phase: Tensor,
    stride: Stride,
    padding: str,
    extend_input: bool,
    size: tuple[int, int] | None = None,
) -> Tensor:
    check_phase(y, phase)
    check_padding(padding)
    if stride_pair(stride) == (1, 1):
        return y
    if extend_input:
        y = extend(y, stride)
    placed = place_phase(y, phase, stride=stride)
    return blur_with(placed if size is None else shortened(placed, size, stride), kernel, padding=padding)
