"""Images that maximise a class or neuron, by gradient ascent from a zero image.

Source: Feydy, "From wavelet transforms to convolutional neural networks, part 2". Zero is the normalised value, a grey
between black and white. The first layer of a perceptron trained on objects at all positions approaches stripes:
operators that commute with translations are diagonal in the Fourier basis.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.modes import evaluating

#: Number of ascent steps, and their Euclidean length in units of the normalised image.
STEPS, LENGTH = 20, 1.0


@dataclass(frozen=True)
class Maximised:
    """Images (N, C, H, W) of classes, the losses (N,) they reach, and the probabilities (N, K) of all classes."""

    images: Tensor
    losses: Tensor
    probabilities: Tensor


def ascend(score: Callable[[Tensor], Tensor], images: Tensor, *, steps: int = STEPS, length: float = LENGTH) -> Tensor:
    """Images (N, C, H, W) after `steps` moves of `length` along the normalised gradient of their own scores (N,).

    An image whose gradient vanishes is not changed.
    """
    images = images.detach().clone()
    for _ in range(steps):
        images.requires_grad_(True)
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(score(images).sum(), images)
        norm = slope.flatten(1).norm(dim=1).clamp_min(1e-30)[:, None, None, None]
        images = (images + length * slope / norm).detach()
    return images


def class_images(
    net: nn.Module,
    shape: Sequence[int],
    classes: Sequence[int] | None = None,
    *,
    device: torch.device | str = "cpu",
    steps: int = STEPS,
) -> Maximised:
    """The images of `shape` (C, H, W) that maximise the log probability of `classes`, one each; None: all classes.

    Raises `UserError` for a class that the network does not have.
    """
    with _frozen(net), torch.inference_mode(False):
        count = _outputs(net, net, shape, device)
        wanted = torch.tensor(_checked(classes, count, "class"), device=device)
        rows = torch.arange(len(wanted), device=device)

        def score(images: Tensor) -> Tensor:
            return net(images).float().log_softmax(1)[rows, wanted]

        images = ascend(score, torch.zeros(len(wanted), *shape, device=device), steps=steps)
        with torch.no_grad():
            chances = net(images).float().log_softmax(1)
    # zero is added so that a certain class has the loss 0 and not -0
    return Maximised(images, 0.0 - chances[rows, wanted], chances.exp())


def neuron_images(
    net: nn.Module,
    shape: Sequence[int],
    neurons: Sequence[int] | None = None,
    *,
    layer: str = "fc1",
    device: torch.device | str = "cpu",
    steps: int = STEPS,
) -> Tensor:
    """The images (N, C, H, W) that maximise `neurons` of a linear layer before its ReLU; None: all neurons.

    Raises `UserError` for a layer or a neuron that the network does not have.
    """
    named = dict(net.named_modules())
    if layer not in named or not isinstance(named[layer], nn.Linear):
        linear = [name for name, module in named.items() if isinstance(module, nn.Linear)]
        raise UserError(f"the network has no linear layer {layer!r}: choose from {', '.join(linear)}")
    held: list[Tensor] = []
    hook = named[layer].register_forward_hook(lambda module, inputs, output: held.append(output))
    try:
        with _frozen(net), torch.inference_mode(False):
            count = int(named[layer].out_features)  # type: ignore[arg-type]
            wanted = torch.tensor(_checked(neurons, count, "neuron"), device=device)
            rows = torch.arange(len(wanted), device=device)

            def score(images: Tensor) -> Tensor:
                held.clear()
                net(images)
                return held[-1][rows, wanted]

            return ascend(score, torch.zeros(len(wanted), *shape, device=device), steps=steps)
    finally:
        hook.remove()


def strongest_pair_share(images: Tensor) -> Tensor:
    """Share (N,) of each image's spectral energy in its strongest pair of frequencies (f, -f): 1 is a pure stripe.

    Args:
        images: (N, H, W), real. The mean is ignored: a constant is not a stripe, and its share is 0.

    Law: 1 for a cosine of any whole frequency and phase; unchanged by a circular shift, a constant or a factor.
    """
    real = images.double()
    energy = torch.fft.fft2(real - real.mean((1, 2), keepdim=True)).abs().square()  # (N, H, W)
    opposite = energy.flip(1, 2).roll((1, 1), (1, 2))  # -f has the same energy
    rows, columns = (torch.arange(n, device=images.device) for n in images.shape[1:])
    # a Nyquist frequency is its own opposite, and counts once
    alone = ((2 * rows) % len(rows) == 0)[:, None] & ((2 * columns) % len(columns) == 0)[None, :]
    pairs = torch.where(alone, energy, energy + opposite)
    total = energy.sum((1, 2))
    return (pairs.amax((1, 2)) / total.clamp_min(torch.finfo(torch.float64).tiny)).float()


@contextmanager
def _frozen(net: nn.Module) -> Iterator[None]:
    """A context with `net` in eval mode and without parameter gradients."""
    learned = [p for p in net.parameters() if p.requires_grad]
    with evaluating(net):
        for parameter in learned:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in learned:
                parameter.requires_grad_(True)


def _outputs(net: nn.Module, module: nn.Module, shape: Sequence[int], device: torch.device | str) -> int:
    with torch.no_grad():
        return module(torch.zeros(1, *shape, device=device)).shape[1]


def _checked(wanted: Sequence[int] | None, count: int, what: str) -> list[int]:
    if wanted is None:
        return list(range(count))
    for index in wanted:
        if not 0 <= index < count:
            raise UserError(f"{what} {index} does not exist: the network has 0 to {count - 1}")
    return list(wanted)
