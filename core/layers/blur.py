"""BlurPool: binomial low-pass filter, then subsampling (Zhang, "Making convolutional networks shift-invariant again",
ICML 2019)."""

from collections.abc import Sequence
from math import comb
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core import kernels
from stillpoint.core.layers import scripted
from stillpoint.core.layers.checks import check_pad_off, check_sizes, strides
from stillpoint.core.layers.constants import ConstantBuffers
from stillpoint.core.layers.dense_max_pool import dense_max_pool2d
from stillpoint.core.layers.downsample import Downsample, Grid, SoftGrid, sample_at
from stillpoint.core.layers.padding import check_padding, pad
from stillpoint.core.layers.phases import check_phase, take_phase
from stillpoint.core.layers.precision import without_autocast

SIZES = range(1, 8)

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

# torch.fx, which cannot follow its checks, takes this as one step
torch.fx.wrap("blur_with")


def binomial_taps(size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Row size - 1 of Pascal's triangle divided by its sum, (size,): 1; 1 1; 1 2 1; 1 3 3 1; ....

    Every tap and every product of two taps is exact in every floating dtype down to bfloat16. ValueError unless 1 <=
    size <= 7.

    Examples:
        >>> layers.binomial_taps(3)
        tensor([0.2500, 0.5000, 0.2500])
    """
    # `in range` would also accept 2.0 and True
    if not isinstance(size, int) or isinstance(size, bool) or size not in SIZES:
        raise ValueError(f"size must be an integer from 1 to 7, got {size!r}")
    return torch.tensor([comb(size - 1, i) / 2 ** (size - 1) for i in range(size)], device=device, dtype=dtype)


def binomial_kernel(
    size: int, dims: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Binomial filter of `dims` axes, (size, ..., size), of sum one: the outer product of `binomial_taps`.

    Examples:
        >>> layers.binomial_kernel(3, 2)[1]
        tensor([0.1250, 0.2500, 0.1250])
    """
    taps = kernel = binomial_taps(size, device=device, dtype=dtype)
    for _ in range(dims - 1):
        kernel = kernel[..., None] * taps
    return kernel


def blur_with(
    x: Tensor,
    kernel: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    padding: str = "reflect",
    pad_off: int = 0,
    phase: Tensor | None = None,
) -> Tensor:
    """`blur_pool1d`, `2d` or `3d` by a given filter, the `binomial_kernel` (k, ..., k) that a Module stores.

    In two dimensions each image can be sampled at its own `phase` (B,) instead of from the first pixel.
    """
    dims, size = kernel.ndim, kernel.shape[0]
    steps = strides(stride, dims)
    check_pad_off(pad_off)
    if x.ndim != dims + 2 or not x.is_floating_point():
        raise ValueError(
            f"blur_pool{dims}d needs a floating tensor (B, C, ...) with {dims + 2} axes, "
            f"got {x.dtype} of shape {tuple(x.shape)}"
        )
    before, after = (size - 1) // 2 + pad_off, size // 2 + pad_off
    if phase is not None:
        check_phase(x, phase)
    if dims == 2 and (size > 1 or phase is not None) and kernels.fused(x, size=size, padding=padding, pad_off=pad_off):
        return kernels.blur_pool2d(
            x, size=size, stride=(steps[0], steps[1]), padding=padding, pad_off=pad_off, phase=phase
        )
    if phase is not None:
        x = blur_with(x, kernel, padding=padding, pad_off=pad_off)
        return take_phase(x, phase, stride=(steps[0], steps[1]))
    if not x.shape[1]:  # neither padding nor grouped convolutions of PyTorch take a map without channels
        return x.reshape(len(x), 0, *((n + 2 * pad_off - 1) // s + 1 for n, s in zip(x.shape[2:], steps, strict=True)))
    x = pad(x, [(before, after)] * dims, padding=padding)
    if any(n < size for n in x.shape[2:]):
        raise ValueError(f"a filter of size {size} does not fit a padded map of size {tuple(x.shape[2:])}")
    if size == 1:
        return x[(slice(None), slice(None), *(slice(None, None, s) for s in steps))]
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, 1, *kernel.shape)
    # Autocast would round a float32 map to half precision here, which decides near ties of a phase choice at random.
    with without_autocast(x.device):
        return _CONVOLUTIONS[dims](x, weight, stride=steps, groups=channels)


def blur_pool1d(x: Tensor, *, size: int = 4, stride: int = 2, padding: str = "reflect", pad_off: int = 0) -> Tensor:
    """`blur_pool2d` along one axis: (B, C, L) -> (B, C, ceil(L/s)).

    Examples:
        >>> layers.blur_pool1d(torch.tensor([[[0.0, 0, 4, 0, 0, 0]]]), size=3)
        tensor([[[0., 2., 0.]]])
    """
    kernel = binomial_kernel(size, 1, device=x.device, dtype=torch.float32)
    return blur_with(x, kernel, stride=stride, padding=padding, pad_off=pad_off)


def blur_pool2d(
    x: Tensor, *, size: int = 4, stride: int | tuple[int, int] = 2, padding: str = "reflect", pad_off: int = 0
) -> Tensor:
    """Blur every channel with the binomial filter and keep every stride-th pixel, from the first one.

    Args:
        x: (B, C, H, W), any floating dtype.
        size: taps of the filter along an axis, 1 to 7; with 1 there is no filter, only subsampling.
        stride: pixels from one sample to the next, or (rows, columns); 1 blurs and keeps the size.
        padding: "reflect", "replicate", "zeros" or "circular", floor((size - 1) / 2) pixels before each axis and
            ceil((size - 1) / 2) after it: an even filter reaches one further down and to the right.
        pad_off: pixels added to all these pads; negative pads crop.

    Returns:
        (B, C, ceil(H/s), ceil(W/s)) at pad_off 0, else floor((H + 2 * pad_off - 1) / s) + 1; in the dtype of `x`, also
        under autocast.

    Raises:
        ValueError: an unknown size or padding, a stride or pad_off that is not an integer or out of range, an input of
            another rank or of integers, or a map too small for its padding.

    Law: with circular padding, stride s dividing H and W, f(roll(x, (s*i, s*j))) is roll(f(x), (i, j)), and at
    stride 1 every shift commutes. Except with zero padding, a constant map stays constant up to rounding.

    Examples:
        >>> layers.blur_pool2d(torch.ones(1, 3, 8, 8), size=4).shape
        torch.Size([1, 3, 4, 4])
    """
    kernel = binomial_kernel(size, 2, device=x.device, dtype=torch.float32)
    return blur_with(x, kernel, stride=stride, padding=padding, pad_off=pad_off)


def blur_pool3d(
    x: Tensor, *, size: int = 4, stride: int | tuple[int, int, int] = 2, padding: str = "reflect", pad_off: int = 0
) -> Tensor:
    """`blur_pool2d` along three axes: (B, C, D, H, W) -> (B, C, ceil(D/s), ceil(H/s), ceil(W/s)).

    Examples:
        >>> layers.blur_pool3d(torch.ones(1, 1, 4, 4, 4), size=2).shape
        torch.Size([1, 1, 2, 2, 2])
    """
    kernel = binomial_kernel(size, 3, device=x.device, dtype=torch.float32)
    return blur_with(x, kernel, stride=stride, padding=padding, pad_off=pad_off)


class _BlurPool(ConstantBuffers):
    dims: int
    kernel: Tensor
    if TYPE_CHECKING:  # TorchScript reads attributes' annotations, and infers this type from the value
        stride: Any

    def __init__(
        self,
        channels: int | None = None,
        stride: int | tuple[int, ...] = 2,
        *,
        size: int = 4,
        padding: str = "reflect",
        pad_off: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.size, self.pad_off = channels, size, check_pad_off(pad_off)
        self.stride = strides(stride, self.dims)
        self.padding = check_padding(padding)
        kernel = binomial_kernel(size, self.dims, device="cpu", dtype=torch.float64)
        self.register_constant("kernel", kernel, device=device, dtype=dtype)

    def _pool(self, x: Tensor, phase: Tensor | None = None) -> Tensor:
        return blur_with(x, self.kernel, stride=self.stride, padding=self.padding, pad_off=self.pad_off, phase=phase)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return scripted.blurred(x, self.kernel, self.stride, self.padding, self.pad_off)
        else:  # TorchScript does not compile this branch
            return self._pool(x)

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, stride={self.stride}, size={self.size}, padding={self.padding!r}, pad_off={self.pad_off}"
        )


class BlurPool1d(_BlurPool):
    """`blur_pool1d` as a Module; `channels` is informative only, and any number of channels is accepted.

    Examples:
        >>> layers.BlurPool1d(stride=2)(torch.ones(1, 3, 9)).shape
        torch.Size([1, 3, 5])
    """

    dims = 1


class BlurPool2d(Downsample, _BlurPool):  # the forward of a filling
    """`blur_pool2d` as a Module, a filling of the Downsample slot with a fixed grid.

    `channels` is informative only: any number of channels is accepted. Given a grid, the blurred map is sampled there;
    a map whose size is not a multiple of the stride is first extended circularly.

    Examples:
        >>> pool, x = layers.BlurPool2d(size=3, padding="circular"), torch.randn(1, 4, 8, 8)
        >>> torch.equal(pool(x.roll(2, -1)), pool(x).roll(1, -1))
        True
    """

    dims = 2

    def sample(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        if isinstance(grid, SoftGrid):
            blurred = blur_with(x, self.kernel, padding=self.padding, pad_off=self.pad_off)
            return sample_at(blurred, grid, stride=self.stride)
        return self._pool(x, grid)

    def scripted_at(self, x: Tensor, phase: Tensor | None) -> Tensor:
        return scripted.blurred_at(x, phase, self.kernel, list(self.stride), self.padding, self.pad_off)

    def follower(self, channels: int) -> Downsample:
        build: dict[str, Any] = {"device": self.kernel.device, "dtype": self.kernel.dtype}
        options: dict[str, Any] = {"size": self.size, "padding": self.padding, "pad_off": self.pad_off}
        return BlurPool2d(channels, self.stride, **options, **build)


class BlurPool3d(_BlurPool):
    """`blur_pool3d` as a Module; `channels` is informative only, and any number of channels is accepted.

    Examples:
        >>> layers.BlurPool3d(stride=2)(torch.ones(1, 3, 8, 8, 5)).shape
        torch.Size([1, 3, 4, 4, 3])
    """

    dims = 3


class MaxBlurPool2d(BlurPool2d):
    """Max-pooling at stride 1, then `BlurPool2d`: replaces a strided max-pool (Zhang, ICML 2019).

    Args:
        kernel_size, max_padding: of the replaced max-pool, in pixels.
        stride, size, padding, pad_off: of the blur, as in `blur_pool2d`.

    Raises:
        ValueError: what `blur_pool2d` raises, a kernel_size below 1, or a max_padding outside 0 to kernel_size // 2.

    Examples:
        >>> layers.MaxBlurPool2d(3, max_padding=1)(torch.ones(1, 4, 8, 8)).shape
        torch.Size([1, 4, 4, 4])
    """

    def __init__(
        self,
        kernel_size: int = 2,
        stride: int | tuple[int, int] = 2,
        *,
        max_padding: int = 0,
        size: int = 4,
        padding: str = "reflect",
        pad_off: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(None, stride, size=size, padding=padding, pad_off=pad_off, device=device, dtype=dtype)
        check_sizes(kernel_size=kernel_size, max_padding=max_padding)
        if max_padding > kernel_size // 2:
            raise ValueError(f"max_padding must be at most half of kernel_size {kernel_size}, got {max_padding}")
        self.kernel_size, self.max_padding = kernel_size, max_padding

    def sample(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        size, padding = self.kernel_size, self.max_padding
        if padding in (0, (size - 1) / 2):
            return super().sample(dense_max_pool2d(x, kernel_size=size, margin="same" if padding else "none"), grid)
        return super().sample(F.max_pool2d(x, size, stride=1, padding=padding), grid)

    def scripted_at(self, x: Tensor, phase: Tensor | None) -> Tensor:
        x = F.max_pool2d(x, self.kernel_size, stride=1, padding=self.max_padding)
        return scripted.blurred_at(x, phase, self.kernel, list(self.stride), self.padding, self.pad_off)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, max_padding={self.max_padding}, {super().extra_repr()}"
