"""Translation invariant polyphase sampling: every channel of every image mixes its four phases by weights computed from
where in the map it responds (Saha and Gokhale, "Improving shift invariance in convolutional neural networks with
translation invariant polyphase sampling", WACV 2025).

Despite its name it is not shift-invariant: the weights depend on the quadrants of the map, whose content a shift
changes, so the output changes by more than that of average pooling.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillpoint.core.base.modes import exporting
from stillpoint.core.kernels import translation
from stillpoint.core.layers import scripted
from stillpoint.core.layers.checks import check_device, check_map, check_sizes
from stillpoint.core.layers.downsample import Downsample, Grid
from stillpoint.core.layers.padding import pad
from stillpoint.core.layers.phase_convolution import wide
from stillpoint.core.layers.phases import Stride, mix_phases, stride_pair

#: how odd sides are extended, by one pixel at the top and the left
EXTENSIONS = ("reflect", "replicate", "zeros")

# torch.fx, which cannot trace its checks, treats this as one operation
torch.fx.wrap("translation_invariant_downsample2d")


class Response(NamedTuple):
    """The inputs of the method's two losses.

    x     (B, C, H', W'), the sampled map, extended to even sides
    psi   (B, C, H', W'), relu of its depthwise convolution; one smaller along each axis for an even kernel
    tau   (B, C, 4), the weights of the phases, of sum 1
    """

    x: Tensor
    psi: Tensor
    tau: Tensor


def translation_invariant_downsample2d(
    x: Tensor, weight: Tensor, *, scale: Tensor, extension: str = "reflect", return_response: bool = False
):
    """Halve a map by a convex combination of its four phases.

    Args:
        x: (B, C, H, W), sides of at least 2.
        weight: (C, 1, k, k), of the depthwise convolution, padded with (k - 1) // 2 zeros on every side.
        scale: (C, 1, 1, 1), the factor of the quadrants' means.
        extension: how odd sides grow by one pixel, at the top and the left: "reflect", "replicate" or "zeros".
        return_response: also return the `Response`.

    Returns:
        (B, C, ceil(H/2), ceil(W/2)), or that and the response.

    Raises:
        ValueError: a map that is not four-dimensional and floating, a weight or scale of another shape or device, an
            unknown extension, a side below 2.

    The weights of the phases (row, column) = (0,0), (1,0), (0,1), (1,1) are the softmax of scale times the means of psi
    over the quadrants top left, top right, bottom left, bottom right, in this order: phases move the row first and
    quadrants the column first, as in the authors' code.

    Law: at scale 0 it is 2 x 2 average pooling. It is not shift-equivariant.

    Examples:
        >>> weight, scale = torch.randn(8, 1, 3, 3), torch.zeros(8, 1, 1, 1)
        >>> x = torch.randn(2, 8, 6, 6)
        >>> y = layers.translation_invariant_downsample2d(x, weight, scale=scale)
        >>> torch.allclose(y, torch.nn.functional.avg_pool2d(x, 2), atol=1e-6)
        True
    """
    if extension not in EXTENSIONS:
        raise ValueError(f"extension must be one of {', '.join(EXTENSIONS)}, got {extension!r}")
    check_map(x)
    channels, taps = x.shape[1], weight.shape[-1] if weight.ndim else 0
    if not taps or weight.shape != (channels, 1, taps, taps) or scale.shape != (channels, 1, 1, 1):
        raise ValueError(
            f"a map of {channels} channels needs a weight ({channels}, 1, k, k) and a scale ({channels}, 1, 1, 1), "
            f"got {tuple(weight.shape)} and {tuple(scale.shape)}"
        )
    check_device(x, "weight", weight)
    check_device(x, "scale", scale)
    if min(x.shape[2:]) < 2:
        raise ValueError(f"a map of {x.shape[2]}x{x.shape[3]} has no quadrants: its sides must be at least 2")
    x = _evened(x, extension)
    if not exporting() and translation.fused(x, weight):
        y, tau, psi = translation.sample(x, weight, scale, keep=return_response)
        return (y, Response(x, psi, tau)) if return_response else y
    psi = F.conv2d(x, weight.to(x.dtype), padding=(taps - 1) // 2, groups=channels).relu()
    quadrants = F.adaptive_avg_pool2d(wide(psi), 2).flatten(2)  # (B, C, 4)
    tau = (quadrants * scale.to(quadrants.dtype).view(-1, 1)).softmax(2)
    y = mix_phases(x, tau)
    return (y, Response(x, psi, tau)) if return_response else y


def _evened(x: Tensor, extension: str) -> Tensor:
    """The map extended to even sides, at the top and the left."""
    if not exporting():
        return pad(x, [(x.shape[2] % 2, 0), (x.shape[3] % 2, 0)], padding=extension)
    for axis in (2, 3):  # sizes may be symbolic
        odd = x.shape[axis] % 2
        places = torch.arange(x.shape[axis] + odd, device=x.device) - odd
        inside = (places >= 0).to(x.dtype).unflatten(0, (1, -1, 1) if axis == 2 else (1, 1, -1))
        x = x.index_select(axis, places.abs() if extension == "reflect" else places.clamp(min=0))
        x = x * inside if extension == "zeros" else x
    return x


class TranslationInvariantDownsample2d(Downsample):
    """`translation_invariant_downsample2d` as a Module, a filling of the Downsample slot.

    Its choice cannot be shared with a shortcut, which gets its own layer of this class.

    Args:
        channels: C.
        stride: 2 only, since the four weights belong to four quadrants.
        size: k of the depthwise convolution.
        extension: of odd sides, as in the function.

    Parameters ``psi.weight`` (C, 1, k, k) and ``scale.weight`` (C, 1, 1, 1), both initialised by the backbone's rule,
    as in the authors' code: Kaiming normal, where the fan-out of a depthwise kernel is C * k * k.

    Raises:
        ValueError: another stride, a size below 1 or an unknown extension.

    Within `translation_losses.watch` it records the response of every forward.

    Examples:
        >>> layers.TranslationInvariantDownsample2d(8)(torch.randn(2, 8, 6, 6)).shape
        torch.Size([2, 8, 3, 3])
    """

    def __init__(
        self,
        channels: int,
        stride: Stride = 2,
        *,
        size: int = 3,
        extension: str = "reflect",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if stride_pair(stride) != (2, 2):
            raise ValueError(f"translation invariant polyphase sampling supports stride 2 only, got {stride!r}")
        check_sizes(channels=channels)
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"size must be a positive integer, got {size!r}")
        if extension not in EXTENSIONS:
            raise ValueError(f"extension must be one of {', '.join(EXTENSIONS)}, got {extension!r}")
        self.channels, self.stride, self.size, self.extension = channels, (2, 2), size, extension
        made: dict[str, Any] = {"groups": channels, "bias": False, "device": device, "dtype": dtype}
        self.psi = nn.Conv2d(channels, channels, size, padding=(size - 1) // 2, **made)
        self.scale = nn.Conv2d(channels, channels, 1, **made)
        self.reset_parameters()
        self.watched: list[Response] | None = None

    def reset_parameters(self) -> None:
        for conv in (self.psi, self.scale):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def sample(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """The mixture of phases by this layer's own weights; `grid` is ignored."""
        options: dict[str, Any] = {"scale": self.scale.weight, "extension": self.extension}
        if self.watched is None:
            return translation_invariant_downsample2d(x, self.psi.weight, **options)
        y, response = translation_invariant_downsample2d(x, self.psi.weight, **options, return_response=True)
        self.watched.append(response)
        return y

    def scripted_at(self, x: Tensor, phase: Tensor | None) -> Tensor:
        for axis in (2, 3):
            x = scripted.pad_axis(x, x.shape[axis] % 2, 0, axis, self.extension)
        weight, reach = self.psi.weight.to(x.dtype), (self.size - 1) // 2
        psi = F.conv2d(x, weight, padding=(reach, reach), groups=x.shape[1]).relu()
        quadrants = F.adaptive_avg_pool2d(wide(psi), (2, 2)).flatten(2)  # (B, C, 4)
        scale = self.scale.weight.to(quadrants.dtype).view(-1, 1)
        return scripted.mixed(x, (quadrants * scale).softmax(2), list(self.stride))

    def follower(self, channels: int) -> Downsample:
        """The layer for a shortcut, with its own weights."""
        like: dict[str, Any] = {"device": self.psi.weight.device, "dtype": self.psi.weight.dtype}
        return type(self)(channels, self.stride, size=self.size, extension=self.extension, **like)

    def extra_repr(self) -> str:
        return f"{self.channels}, size={self.size}, extension={self.extension!r}"
