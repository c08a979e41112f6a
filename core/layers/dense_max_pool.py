"""Max-pooling at stride one: the part of a max-pool that commutes with shifts (Zhang, ICML 2019, section 3.2)."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillpoint.core.kernels import max_pool
from stillpoint.core.layers.padding import pad

MARGINS = ("none", "same", "circular", "zeros")


def dense_max_pool2d(x: Tensor, *, kernel_size: int = 2, margin: str = "none") -> Tensor:
    """Max-pooling over k x k windows at stride 1.

    Args:
        x: (B, C, H, W).
        kernel_size: side k of the window in pixels, at least 1.
        margin: "none" takes only whole windows and loses k - 1 rows and columns (Zhang's ResNets, k = 2); "same" keeps
            the size by centred windows that ignore positions outside the map (k odd; 3 in torchvision's ResNets);
            "circular" and "zeros" append k - 1 rows and columns at the bottom and the right (APS, k = 2).

    Returns:
        (B, C, H, W), or (B, C, H - k + 1, W - k + 1) with margin "none".

    Raises:
        ValueError: an unknown margin, a kernel below 1, or an even one with margin "same", a map without four axes or
            pixels, or smaller than the kernel with margin "none".

    Law: with margin "circular", f(roll(x, s)) is roll(f(x), s) exactly.

    Examples:
        >>> layers.dense_max_pool2d(torch.arange(4.0).view(1, 1, 1, 4), kernel_size=1).flatten()
        tensor([0., 1., 2., 3.])
    """
    _checked(kernel_size, margin)
    plain = partial(_plain, kernel_size=kernel_size, margin=margin)
    if max_pool.fused(x, kernel_size):
        return max_pool.max_pool2d(x, kernel_size, margin, plain)
    least = kernel_size if margin == "none" else 1
    followed = not isinstance(x, Tensor) or torch.jit.is_tracing()  # by torch.fx, too, which follows no comparisons
    if not followed and (x.ndim != 4 or not x.shape[1] or min(x.shape[2:]) < least):
        raise ValueError(
            f"max-pooling needs a map (B, C, H, W) of at least {least}x{least} pixels for margin {margin!r}, "
            f"got shape {tuple(x.shape)}"
        )
    return plain(x)


def _checked(kernel_size: int, margin: str) -> None:
    if margin not in MARGINS:
        raise ValueError(f"margin must be one of {', '.join(MARGINS)}, got {margin!r}")
    if not isinstance(kernel_size, int) or kernel_size < 1 or (margin == "same" and kernel_size % 2 == 0):
        raise ValueError(f"kernel_size must be a positive integer, and odd for margin 'same', got {kernel_size!r}")


def _plain(x: Tensor, kernel_size: int, margin: str) -> Tensor:
    if margin in ("circular", "zeros"):
        x = pad(x, [(0, kernel_size - 1), (0, kernel_size - 1)], padding=margin)
    centre = (kernel_size - 1) // 2 if margin == "same" else 0
    return F.max_pool2d(x, kernel_size, stride=1, padding=centre)


class DenseMaxPool2d(nn.Module):
    """`dense_max_pool2d` as a Module.

    Examples:
        >>> layers.DenseMaxPool2d(2, margin="circular")(torch.randn(2, 8, 6, 6)).shape
        torch.Size([2, 8, 6, 6])
    """

    def __init__(self, kernel_size: int = 2, *, margin: str = "none") -> None:
        super().__init__()
        _checked(kernel_size, margin)
        self.kernel_size, self.margin = kernel_size, margin

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return _plain(x, self.kernel_size, self.margin)
        else:  # TorchScript does not compile this branch
            return dense_max_pool2d(x, kernel_size=self.kernel_size, margin=self.margin)

    def extra_repr(self) -> str:
        return f"{self.kernel_size}, margin={self.margin!r}"
