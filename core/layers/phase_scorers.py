"""The scorers of learnable polyphase sampling: one score for each image and phase (Rojas-Gomez et al., "Learnable
polyphase sampling for shift invariant and equivariant convolutional networks", NeurIPS 2022).

Every scorer applies the same weights to all phases, so that permuting the phases permutes the scores. With circular
padding, rolling a phase by whole pixels leaves its score unchanged. Together: a circular shift of a map whose sides are
multiples of the stride permutes the scores as it permutes the phases.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillpoint.core.layers.checks import check_sizes
from stillpoint.core.layers.padding import check_padding
from stillpoint.core.layers.phase_convolution import (
    convolution,
    convolve_phases,
    mean_convolution,
    mean_rectified,
    phase_means,
    wide,
)
from stillpoint.core.layers.phases import Stride, stride_pair

# torch.fx, which cannot follow their checks, takes each of these as one step
for _name in ("convolve_phases", "mean_convolution", "mean_rectified", "phase_means", "wide"):
    torch.fx.wrap(_name)


class _Scorer(nn.Module):
    """Scores of all phases: ``forward(x, stride)`` maps (B, C, H, W) to (B, s * t), the row moving first.

    Args:
        channels: C.
        hidden: inner width h; by default C.
        padding: of every convolution, "circular", "zeros", "reflect" or "replicate". Only "circular" obeys the law.

    Raises:
        ValueError: a width below one or an unknown padding; in `forward`, sides that are not multiples of the stride,
            or phases too small for their padding.

    Means are taken in float32 or better. Weights are initialised by PyTorch's uniform default, not by a backbone's rule
    for convolutions, and have no weight decay (`decays`), as the authors train them.
    """

    decays = False

    def __init__(
        self,
        channels: int,
        *,
        hidden: int | None = None,
        padding: str = "circular",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels)
        self.channels, self.hidden = channels, channels if hidden is None else hidden
        self.padding = check_padding(padding)
        if not isinstance(self.hidden, int) or self.hidden < 1:
            raise ValueError(f"hidden must be a positive number of channels, got {hidden}")

    def forward(self, x: Tensor, stride: Stride = 2) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{self.channels}, hidden={self.hidden}, padding={self.padding!r}"


class ConvScorer(_Scorer):
    """The mean over channels and pixels of conv2(relu(conv1(X_k))), both 3x3: the paper's scorer.

    Args:
        residual: add X_k to conv2's result before the mean; needs h = C.

    Examples:
        >>> layers.ConvScorer(8)(torch.randn(2, 8, 6, 6), stride=2).shape  # a score for each grid
        torch.Size([2, 4])
    """

    def __init__(
        self,
        channels: int,
        *,
        hidden: int | None = None,
        padding: str = "circular",
        residual: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, hidden=hidden, padding=padding)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        if residual and self.hidden != channels:
            raise ValueError(f"a residual scorer has as many hidden channels as the map, {channels}, got {hidden}")
        self.residual = residual
        self.conv1 = convolution(channels, self.hidden, **made)
        self.conv2 = convolution(self.hidden, self.hidden, **made)

    def forward(self, x: Tensor, stride: Stride = 2) -> Tensor:
        inner = convolve_phases(x, self.conv1["weight"], self.conv1["bias"], stride, self.padding)
        means = mean_convolution(inner, self.conv2["weight"], self.conv2["bias"], padding=self.padding, rectified=True)
        scores = _by_image(means, stride)  # (B, K, h)
        return (scores + phase_means(x, stride=stride) if self.residual else scores).mean(2)


class AttentionScorer(_Scorer):
    """Attention of phases to phases: scores softmax(phi psi^T) beta, unscaled, with one row for each phase.

    phi, psi and beta are the spatial means of conv 3x3 (C to h), ReLU, conv 3x3 (h to h), each with its own weights;
    beta is averaged over the channels too.

    Args:
        batch_norm: batch normalisation before the second convolutions, and no bias in the first.

    Examples:
        >>> layers.AttentionScorer(8)(torch.randn(2, 8, 6, 6), stride=2).shape  # a score for each grid
        torch.Size([2, 4])
    """

    def __init__(
        self,
        channels: int,
        *,
        hidden: int | None = None,
        padding: str = "circular",
        batch_norm: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, hidden=hidden, padding=padding)
        self.phi, self.psi, self.beta = (
            _Branch(channels, self.hidden, batch_norm, device=device, dtype=dtype) for _ in range(3)
        )

    def forward(self, x: Tensor, stride: Stride = 2) -> Tensor:
        phi, psi = self.phi(x, stride, self.padding), self.psi(x, stride, self.padding)
        beta = self.beta(x, stride, self.padding)
        weights = (phi @ psi.transpose(1, 2)).softmax(2)  # (B, K, K)
        return (weights @ beta.mean(2, keepdim=True)).squeeze(2)


class _Branch(nn.Module):
    def __init__(
        self,
        channels: int,
        hidden: int,
        batch_norm: bool,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv1 = convolution(channels, hidden, bias=not batch_norm, **made)
        self.bn = nn.BatchNorm2d(hidden, **made) if batch_norm else None
        self.conv2 = convolution(hidden, hidden, **made)

    def forward(self, x: Tensor, stride: Stride, padding: str) -> Tensor:
        """Means (B, K, h) of all phases."""
        weight, weight2, bias2 = self.conv1["weight"], self.conv2["weight"], self.conv2["bias"]
        if self.bn is None:
            inner = convolve_phases(x, weight, self.conv1["bias"], stride, padding)
            return _by_image(mean_convolution(inner, weight2, bias2, padding=padding, rectified=True), stride)
        inner = self.bn(convolve_phases(x, weight, None, stride, padding).relu_())
        return _by_image(mean_convolution(inner, weight2, bias2, padding=padding, rectified=False), stride)


class GraphScorer(_Scorer):
    """A message-passing network whose nodes are the phases, each connected to all, itself included.

    Node: spatial mean of relu(conv 3x3). Message: two linear layers, each followed by a ReLU, of sender and receiver.
    Score: two linear layers, with a ReLU between them, of the mean of the received messages.

    Examples:
        >>> layers.GraphScorer(8)(torch.randn(2, 8, 6, 6), stride=2).shape  # a score for each grid
        torch.Size([2, 4])
    """

    def __init__(
        self,
        channels: int,
        *,
        hidden: int | None = None,
        padding: str = "circular",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, hidden=hidden, padding=padding)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        h = self.hidden
        self.conv1 = convolution(channels, h, **made)
        self.edge = nn.ModuleList([nn.Linear(2 * h, h, **made), nn.Linear(h, h, **made)])
        self.node = nn.ModuleList([nn.Linear(h, h, **made), nn.Linear(h, 1, **made)])

    def forward(self, x: Tensor, stride: Stride = 2) -> Tensor:
        inner = convolve_phases(x, self.conv1["weight"], self.conv1["bias"], stride, self.padding)
        nodes = _by_image(mean_rectified(inner), stride)  # (B, K, h)
        senders = nodes.unsqueeze(2).expand(-1, -1, nodes.shape[1], -1)  # (B, sender, receiver, h)
        messages = torch.cat([senders, senders.transpose(1, 2)], 3)
        for layer in self.edge:
            messages = _linear(messages, layer.weight, layer.bias).relu()  # type: ignore[arg-type]
        found = messages.mean(1)
        for layer in self.node:
            found = _linear(found.relu(), layer.weight, layer.bias)  # type: ignore[arg-type]
        return found.squeeze(2)


class PerceptronScorer(_Scorer):
    """A linear function of a phase's channel means; `padding` and `hidden` are unused.

    Examples:
        >>> layers.PerceptronScorer(8)(torch.randn(2, 8, 6, 6), stride=2).shape  # a score for each grid
        torch.Size([2, 4])
    """

    def __init__(
        self,
        channels: int,
        *,
        hidden: int | None = None,
        padding: str = "circular",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, hidden=hidden, padding=padding)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv = convolution(channels, 1, taps=1, **made)

    def forward(self, x: Tensor, stride: Stride = 2) -> Tensor:
        weight, bias = wide(self.conv["weight"]), wide(self.conv["bias"])
        return F.linear(phase_means(x, stride=stride).to(weight.dtype), weight.flatten(1), bias).squeeze(2)


def _by_image(x: Tensor, stride: Stride) -> Tensor:
    s, t = stride_pair(stride)
    return x.unflatten(0, (-1, s * t))


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x.to(wide(weight).dtype), wide(weight), wide(bias))


SCORERS: dict[str, Callable[..., nn.Module]] = {
    "conv": ConvScorer,
    "residual_conv": partial(ConvScorer, residual=True),
    "attention": AttentionScorer,
    "normalised_attention": partial(AttentionScorer, batch_norm=True),
    "graph": GraphScorer,
    "perceptron": PerceptronScorer,
}


def phase_scorer(kind: str, *, channels: int, **options: Any) -> nn.Module:
    """The scorer called `kind`, a name of `SCORERS`: ``forward(x, stride)`` maps (B, C, H, W) to (B, s * t).

    Args:
        channels: C.
        options: `hidden`, its inner width (default C), `padding` of its convolutions ("circular"; others obey no law),
            `device`, `dtype`.

    ValueError for an unknown name.

    Examples:
        >>> layers.phase_scorer("conv", channels=8)(torch.randn(2, 8, 6, 6), stride=2).shape
        torch.Size([2, 4])
    """
    if kind not in SCORERS:
        raise ValueError(f"scorer must be one of {', '.join(SCORERS)}, got {kind!r}")
    return SCORERS[kind](channels, **options)
