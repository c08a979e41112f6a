"""The two losses of translation invariant polyphase sampling (Saha and Gokhale, WACV 2025): psi, from which the weights
are computed, should equal a randomly shifted map, and the weights should be far from equal.

In the first no gradient flows into the target, as in the paper's figure. The authors' code intends that but does not
detach the target, which also pulls the features towards psi; ``detach=False`` reproduces it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillpoint.core.base.randomness import generator
from stillpoint.core.layers.phase_convolution import wide
from stillpoint.core.layers.translation_invariant import Response, TranslationInvariantDownsample2d

SHIFTS = ("circular", "standard")

Shift = tuple[int, int]


def shift_features(x: Tensor, *, shift: Shift, kind: str = "standard") -> Tensor:
    """Shift (..., H, W) down and to the right by whole pixels, `shift` = (rows, columns).

    `kind` "standard" loses the pixels that leave and fills with zeros, "circular" wraps. ValueError for another kind, a
    map of fewer than two axes, or a shift that is not two integers.

    Examples:
        >>> layers.shift_features(torch.tensor([[1.0, 2.0, 3.0]]), shift=(0, 1))
        tensor([[0., 1., 2.]])
    """
    if kind not in SHIFTS:
        raise ValueError(f"kind must be one of {', '.join(SHIFTS)}, got {kind!r}")
    if x.ndim < 2:
        raise ValueError(f"a map (..., H, W) is needed, got shape {tuple(x.shape)}")
    if not isinstance(shift, tuple | list) or len(shift) != 2 or not all(isinstance(n, int) for n in shift):
        raise ValueError(f"shift must be (rows, columns) in whole pixels, got {shift!r}")
    if kind == "circular":
        return x.roll(shift, (-2, -1))
    (down, right), (height, width) = shift, x.shape[-2:]
    if abs(down) >= height or abs(right) >= width:
        return torch.zeros_like(x)
    return F.pad(x, (right, -right, down, -down))


def draw_shift(largest: Shift, *key: int | str) -> Shift:
    """(rows, columns), each uniform between minus and plus `largest`, both included: a function of `key`."""
    drawing = generator("feature shift", *key)
    down, right = (int(torch.randint(-m, m + 1, (), generator=drawing)) for m in largest)
    return down, right


def undoing_losses(
    responses: Sequence[Response], *, shifts: Sequence[Shift], kind: str = "standard", detach: bool = True
) -> Tensor:
    """Mean squared distance of psi from the shifted map at every level of a network, (levels,).

    Args:
        responses: of all layers, in the order of execution; those with maps of one size are a level. Levels keep this
            order, so the largest maps come first.
        shifts: (rows, columns), one for each response.
        kind: of the shifts, see `shift_features`.
        detach: let no gradient flow into the shifted map.

    Raises:
        ValueError: no response, another number of shifts than of responses, or psi of another size than the map (an
            even kernel).

    A level's mean is over all elements, so its layers count in proportion to their channels; the caller weights all
    levels equally.

    Examples:
        >>> from stillpoint.core.layers.translation_losses import watch
        >>> pool = layers.TranslationInvariantDownsample2d(8)
        >>> with watch(pool) as responses:
        ...     _ = pool(torch.randn(2, 8, 6, 6))
        >>> layers.undoing_losses(responses, shifts=[(1, 0)]).shape
        torch.Size([1])
    """
    _check_any(responses)
    if len(shifts) != len(responses):
        raise ValueError(f"{len(responses)} responses need as many shifts, got {len(shifts)}")
    levels: dict[tuple[int, int], list[tuple[Tensor, int]]] = {}
    for (x, psi, _), shift in zip(responses, shifts, strict=True):
        if psi.shape != x.shape:
            raise ValueError(f"psi of shape {tuple(psi.shape)} cannot match a map of shape {tuple(x.shape)}")
        target = shift_features(x.detach() if detach else x, shift=shift, kind=kind)
        squares = F.mse_loss(wide(psi), wide(target), reduction="sum")
        levels.setdefault((x.shape[2], x.shape[3]), []).append((squares, x.numel()))
    found = [sum(part for part, _ in parts) / sum(count for _, count in parts) for parts in levels.values()]
    return torch.stack(found)  # type: ignore[arg-type]


def evenness_penalty(responses: Sequence[Response]) -> Tensor:
    """Mean of 1 - |tau| (2-norm) over the images and the channels of all layers: 0 for one-hot weights, 1/2 for equal
    ones.

    Raises:
        ValueError: no response, or responses of different numbers of images.

    Examples:
        >>> from stillpoint.core.layers.translation_losses import watch
        >>> pool = layers.TranslationInvariantDownsample2d(8)
        >>> _ = torch.nn.init.zeros_(pool.scale.weight)
        >>> with watch(pool) as responses:
        ...     _ = pool(torch.randn(2, 8, 6, 6))
        >>> layers.evenness_penalty(responses).item()
        0.5
    """
    _check_any(responses)
    if len({len(response.tau) for response in responses}) > 1:
        raise ValueError(f"responses must be of the same images, got {[len(response.tau) for response in responses]}")
    tau = torch.cat([response.tau for response in responses], 1)  # (B, channels of all layers, 4)
    return 1 - torch.linalg.vector_norm(tau, dim=2).mean()


def _check_any(responses: Sequence[Response]) -> None:
    if not responses:
        raise ValueError("a loss needs the response of at least one layer, got none")


@contextmanager
def watch(net: nn.Module) -> Iterator[list[Response]]:
    """A context that records the response of every `TranslationInvariantDownsample2d` of `net` in the yielded list, in
    the order of execution."""
    layers = [m for m in net.modules() if isinstance(m, TranslationInvariantDownsample2d)]
    found: list[Response] = []
    for layer in layers:
        layer.watched = found
    try:
        yield found
    finally:
        for layer in layers:
            layer.watched = None
