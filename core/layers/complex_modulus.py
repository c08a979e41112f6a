"""CMod: the modulus of complex feature maps and the batch norm that goes with it.

Source: Leterme, Polisano, Perrier, Alahari, "From CNNs to Shift-Invariant Twin Models Based on Complex Wavelets": y =
relu(|(x * W) subsampled| + b) in place of relu, then max-pooling, of the real part. The modulus of a band-pass map
hardly changes when the image moves by less than the filter's wavelength, so it can be sampled at twice the stride.
"""

import torch
from torch import Tensor, nn

from stillpoint.core.layers.checks import check_channels, check_eps, check_map, check_sizes
from stillpoint.core.layers.norms import hypotenuse

# torch.fx, which cannot follow their checks, takes each of these as one step
torch.fx.wrap("complex_modulus")
torch.fx.wrap("modulus_batch_norm2d")
torch.fx.wrap("_biased")


def complex_modulus(x: Tensor) -> Tensor:
    """Modulus of (B, C, 2, H, W), real and imaginary parts along the third axis: (B, C, H, W).

    Its gradient is zero, not NaN, where the modulus is zero, and overflows or underflows only where the modulus
    does. ValueError for another shape, and for integers. Law: invariant to a rotation of every complex number.

    Examples:
        >>> layers.complex_modulus(torch.tensor([3.0, 4.0]).view(1, 1, 2, 1, 1)).item()
        5.0
    """
    if x.ndim != 5 or x.shape[2] != 2:
        raise ValueError(f"complex maps are (B, C, 2, H, W), got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"the parts of complex maps must be floating, got {x.dtype}")
    return hypotenuse(x[:, :, 0], x[:, :, 1])


class ComplexModulus(nn.Module):
    """`complex_modulus` as a Module.

    Examples:
        >>> layers.ComplexModulus()(torch.tensor([3.0, 4.0]).view(1, 1, 2, 1, 1)).item()
        5.0
    """

    def forward(self, x: Tensor) -> Tensor:
        return hypotenuse(x[:, :, 0], x[:, :, 1]) if torch.jit.is_scripting() else complex_modulus(x)


def modulus_batch_norm2d(
    x: Tensor,
    running_energy: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch norm for moduli: ``x / sqrt(E/2 + eps) * |weight| + bias``, without subtracting a mean.

    A modulus is not centred, and half of its energy E = mean(x**2) is the variance of the real part, so this scales the
    moduli as batch norm would scale the real parts. A negative scale would reverse the order of moduli: hence |weight|.

    Args:
        x: (B, C, H, W), non-negative.
        running_energy: (C,), used for E in evaluation; in training E is the batch's, gradient included, and updates the
            running one in place by `momentum`.
        weight, bias: (C,).

    Raises:
        ValueError: a map that is not four-dimensional and floating, a running energy, weight or bias of another shape
            or device, or a negative eps.

    Law: in training the result does not change when `x` is scaled by a positive factor, up to `eps`.

    Examples:
        >>> one, x = torch.ones(4), torch.rand(2, 4, 5, 5)
        >>> y = layers.modulus_batch_norm2d(x, 2 * one, one, 0 * one)  # the running energy is 2
        >>> torch.allclose(y, x, atol=1e-4)
        True
    """
    check_map(x)
    check_eps(eps)
    check_channels(x, running_energy=running_energy, weight=weight, bias=bias)
    return _normalised(x, running_energy, weight, bias, training, momentum, eps)


def _normalised(
    x: Tensor, running_energy: Tensor, weight: Tensor, bias: Tensor, training: bool, momentum: float, eps: float
) -> Tensor:
    energy = running_energy
    if training:
        energy = x.square().mean((0, 2, 3))
        running_energy.lerp_(energy.detach().to(running_energy.dtype), momentum)
    scale = weight.abs() * torch.rsqrt(energy / 2 + eps)
    return x * scale[:, None, None] + bias[:, None, None]


class ModulusBatchNorm2d(nn.Module):
    """`modulus_batch_norm2d` as a Module, initialised with weight 1, bias 0 and running energy 1.

    Maps of unit variance would have energy 2; the reference starts at 1.

    Examples:
        >>> layers.ModulusBatchNorm2d(4)(torch.rand(2, 4, 5, 5)).shape
        torch.Size([2, 4, 5, 5])
    """

    running_energy: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        channels: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels)
        check_eps(eps)
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype))
        self.register_buffer("running_energy", torch.ones(channels, device=device, dtype=dtype))
        self.register_buffer("num_batches_tracked", torch.zeros((), device=device, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked.add_(1)
        if torch.jit.is_scripting():
            return _normalised(x, self.running_energy, self.weight, self.bias, self.training, self.momentum, self.eps)
        else:  # TorchScript does not compile this branch
            return modulus_batch_norm2d(
                x,
                self.running_energy,
                self.weight,
                self.bias,
                training=self.training,
                momentum=self.momentum,
                eps=self.eps,
            )

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}, momentum={self.momentum}"


class ModulusBias2d(nn.Module):
    """Add a trained bias to each channel of (B, C, H, W): b in y = relu(|x * W| + b), without batch norm.

    Initialised uniformly in -1..1, as PyTorch initialises the bias of the depthwise 1x1 convolution that the reference
    uses here. ValueError for a map of another shape.

    Examples:
        >>> layers.ModulusBias2d(4)(torch.rand(2, 4, 5, 5)).shape
        torch.Size([2, 4, 5, 5])
    """

    def __init__(
        self, channels: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        check_sizes(channels=channels)
        self.bias = nn.Parameter(torch.empty(channels, device=device, dtype=dtype).uniform_(-1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return x + self.bias[:, None, None]
        else:  # TorchScript does not compile this branch
            return _biased(x, self.bias)


def _biased(x: Tensor, bias: Tensor) -> Tensor:
    check_map(x)
    check_channels(x, bias=bias)
    return x + bias[:, None, None]
