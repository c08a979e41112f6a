"""Change of the logits under a shift; agreement alone hides failures: an untrained network may give all images one
class."""

import torch
from torch import Tensor

#: bound on the change that float32 rounding causes in an invariant network's logits; figures draw less as zero
ROUNDING = 1e-5


def relative_logit_change(reference: Tensor, shifted: Tensor) -> Tensor:
    """max |reference - shifted| / max |reference| of each image: (B, ...) and (B, ...) -> float64 (B,).

    Both maxima run over everything but the first axis, in float64 (float32 where the device has no float64). Two zero
    rows change by 0; a zero reference is divided by float32's smallest normal number, so that the result stays finite.
    NaN if either row holds a NaN. The measure is not symmetric, and does not change if both rows are scaled alike.
    ValueError for different shapes.

    Examples:
        >>> metrics.relative_logit_change(torch.tensor([[2.0, -4.0]]), torch.tensor([[3.0, -4.0]]))
        tensor([0.2500], dtype=torch.float64)
    """
    if reference.shape != shifted.shape:
        raise ValueError(f"logits of shapes {tuple(reference.shape)} and {tuple(shifted.shape)} cannot be compared")
    wide = torch.float32 if reference.device.type == "mps" else torch.float64
    reference, shifted = reference.to(wide).flatten(1), shifted.to(wide).flatten(1)
    scale = reference.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)
    return (reference - shifted).abs().amax(1) / scale
