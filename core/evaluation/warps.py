"""The evaluations "rotation" and "scaling": small warps, to which no sampling method guarantees invariance."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.evaluation.view import ALONE, Result, View
from stillpoint.core.metrics import agreement
from stillpoint.core.metrics.accumulate import Tally

#: degrees, anticlockwise and clockwise
DEGREES = (1.0, -1.0)
#: factors by which the content shrinks and grows
SCALES = (0.97, 1.03)


def warped(images: Tensor, matrix: Sequence[Sequence[float]]) -> Tensor:
    """Images (B, C, H, W) warped by a matrix (2, 2) about their centre: bilinear, with zeros outside.

    The matrix maps the content's (x, y) in pixels, y downwards, also where height and width differ.
    """
    height, width = images.shape[2:]
    (a, b), (c, d) = torch.linalg.inv(torch.tensor(matrix, dtype=torch.float64)).tolist()
    # grid_sample maps output to input positions, in units of half a side
    rows = [[a, b * height / width, 0.0], [c * width / height, d, 0.0]]
    theta = torch.tensor(rows, dtype=images.dtype, device=images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class Warps:
    """Fraction of warps, one for each of `matrices`, that keep the image's class, with its standard error."""

    def __init__(self, name: str, matrices: Sequence[Sequence[Sequence[float]]]) -> None:
        self.name, self.matrices, self.kept = name, matrices, Tally(**ALONE)

    def update(self, view: View) -> None:
        moved = [view.predict(warped(view.images, matrix)) for matrix in self.matrices]
        self.kept.count(torch.stack([agreement(view.logits, one) for one in moved], 1))

    def compute(self) -> Result:
        return {
            f"{self.name}_consistency": self.kept.mean,
            f"{self.name}_consistency_standard_error": self.kept.standard_error,
        }


def rotation(config: EvaluateConfig, seed: int) -> Warps:
    """``rotation_consistency``: rotations by one degree, both ways."""
    turns = [math.radians(degrees) for degrees in DEGREES]
    return Warps("rotation", [[[math.cos(t), math.sin(t)], [-math.sin(t), math.cos(t)]] for t in turns])


def scaling(config: EvaluateConfig, seed: int) -> Warps:
    """``scaling_consistency``: content smaller and larger by 3 per cent."""
    return Warps("scaling", [[[scale, 0.0], [0.0, scale]] for scale in SCALES])
