"""Checks of arguments that several layers share: each raises ValueError in one sentence.

They read only shapes, dtypes and devices, so that they never wait for a GPU.
"""

from collections.abc import Sequence

from torch import Tensor

#: the largest stride along an axis: the kernels hold a number for each of the s * t phases
MOST = 4096


def check_map(x: Tensor, *, floating: bool = True) -> None:
    """Raises ValueError unless `x` is a map (B, C, H, W), of floating numbers unless any will do."""
    if x.ndim != 4 or (floating and not x.is_floating_point()):
        kind = "a floating tensor" if floating else "a tensor"
        raise ValueError(f"{kind} (B, C, H, W) is needed, got {x.dtype} of shape {tuple(x.shape)}")


def check_channels(x: Tensor, **vectors: Tensor) -> None:
    """Raises ValueError unless each of `vectors` is (C,) for a map `x` (B, C, ...), and on its device."""
    size, device = x.shape[1:2], x.device
    for name, given in vectors.items():
        if given.shape != size:
            raise ValueError(f"{name} must be (C,) = {tuple(size)}, got {tuple(given.shape)}")
        if given.device != device:
            raise ValueError(f"{name} must be on the map's device {device}, got {given.device}")


def check_device(x: Tensor, name: str, given: Tensor) -> None:
    """Raises ValueError unless `given`, called `name`, is on the device of the map `x`."""
    if given.device != x.device:
        raise ValueError(f"{name} must be on the map's device {x.device}, got {given.device}")


def check_eps(eps: float) -> None:
    """Raises ValueError for a number that would make a divisor imaginary."""
    if not eps >= 0:
        raise ValueError(f"eps must be a number of at least 0, got {eps!r}")


def check_sizes(**sizes: int) -> None:
    """Raises ValueError for a size that is not an integer or below 1, or a padding below 0."""
    for name, value in sizes.items():
        least = 0 if name.endswith("padding") else 1
        if not isinstance(value, int):
            raise ValueError(f"{name} is {value!r}; it must be an integer")
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")


def strides(stride: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """One stride for each of `dims` axes; ValueError unless all are integers from 1 to `MOST`."""
    # + 0: a convolution refuses True
    found = (stride + 0,) * dims if isinstance(stride, int) else stride
    if isinstance(found, tuple | list) and len(found) == dims:
        for s in found:
            if not isinstance(s, int) or not 1 <= s <= MOST:
                break
        else:
            return tuple(found)
    several = "a pair" if dims == 2 else str(dims)
    raise ValueError(f"stride must be a positive integer or {several} of them, at most {MOST}, got {stride!r}")


def check_pad_off(pad_off: int) -> int:
    """Returns `pad_off`, or raises ValueError for one that is not an integer."""
    if not isinstance(pad_off, int):
        raise ValueError(f"pad_off must be an integer, got {pad_off!r}")
    return pad_off
