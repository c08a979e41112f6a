"""Gumbel softmax over the phases of a map: a choice softened in training by a temperature and noise (Jang et al.,
"Categorical reparameterization with Gumbel-softmax", ICLR 2017)."""

import torch
from torch import Tensor, nn

from stillpoint.core.base.randomness import open_uniform, seed_for

# torch.fx, which cannot trace their checks, treats each of these as one operation
torch.fx.wrap("open_uniform")
torch.fx.wrap("phase_weights")


def phase_weights(scores: Tensor, *, tau: Tensor | float, noise: Tensor | None = None) -> Tensor:
    """softmax((scores + noise) / tau) over the phases, (B, K).

    Raises:
        ValueError: scores without two axes, noise of another shape, a number tau that is not positive and finite, or a
            Tensor of several elements, which is not read.

    Law: as tau tends to 0 the weights tend to one-hot at the best phase.

    Examples:
        >>> layers.phase_weights(torch.zeros(1, 4), tau=1.0)
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    if scores.ndim != 2:
        raise ValueError(f"scores must be (B, K), one for each phase, got {tuple(scores.shape)}")
    if not isinstance(tau, Tensor):
        _check(tau)
    elif tau.numel() != 1:
        raise ValueError(f"tau must be a number or a tensor of one element, got {tuple(tau.shape)}")
    if noise is not None:
        if noise.shape != scores.shape:
            raise ValueError(f"noise must have the scores' shape {tuple(scores.shape)}, got {tuple(noise.shape)}")
        scores = scores + noise
    return (scores / tau).softmax(1)


def _check(tau: float) -> None:
    if not 0 < tau < float("inf"):
        raise ValueError(f"tau must be positive and finite, got {tau}")


class Tempered:
    """A mixin for Modules with a temperature: the buffer `tau`, initially 1, and Gumbel noise.

    A layer without soft weights has no temperature, and both setters skip it.
    """

    tau: Tensor | None
    noise_key: Tensor | None

    def set_tau(self, tau: float) -> None:
        """Sets the temperature; ValueError unless it is positive and finite."""
        _check(tau)
        if self.tau is not None:
            self.tau.fill_(tau)

    def set_noise(self, *key: int | str) -> None:
        """Makes the noise of the next passes a function of `key`, the position in the batch and the phase.

        Until it is called, noise is drawn from PyTorch's own generator.
        """
        if self.tau is not None:
            self.noise_key = torch.tensor(seed_for("gumbel", *key), device=self.tau.device)

    def _weights(self, scores: Tensor, noise: Tensor | None = None) -> Tensor:
        """`phase_weights` at this layer's temperature."""
        assert self.tau is not None, "a layer without a temperature has no soft weights"
        return phase_weights(scores, tau=self.tau, noise=noise)

    def _noise(self, scores: Tensor) -> Tensor:
        if self.noise_key is None:
            # as torch.nn.functional.gumbel_softmax draws it
            return -torch.empty_like(scores).exponential_().log()
        return -(-open_uniform(scores.shape, self.noise_key).log()).log().to(scores.dtype)


def set_tau(net: nn.Module, tau: float) -> None:
    """Sets the temperature of every layer of `net` that has one; ValueError unless it is positive and finite."""
    for module in net.modules():
        if isinstance(module, Tempered):
            module.set_tau(tau)


def set_noise(net: nn.Module, *key: int | str) -> None:
    """Makes the noise of every layer of `net` a function of `key`, (seed, epoch, step) say, and of its path."""
    for name, module in net.named_modules():
        if isinstance(module, Tempered):
            module.set_noise(*key, name)
