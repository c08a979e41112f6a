"""The evaluations "rotation" and "scaling": small changes that no method of sampling promises to bear."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.evaluation.view import ALONE, Result, View
from stillpoint.core.metrics import agreement
from stillpoint.core.metrics.accumulate import Tally

#: degrees, against the clock and with it
DEGREES = (1.0, -1.0)
#: the content becomes smaller and larger by so much
SCALES = (0.97, 1.03)


def warped(images: Tensor, matrix: Sequence[Sequence[float]]) -> Tensor:
    """Images (B, C, H, W) whose content is mapped by a matrix (2, 2) about the middle, bilinear, zeros coming in.

    The matrix acts on (x, y) in pixels, y downwards. Those of one side in another unit than the other are no matter:
    both axes are scaled by their own length.
    """
    height, width = images.shape[2:]
    (a, b), (c, d) = torch.linalg.inv(torch.tensor(matrix, dtype=torch.float64)).tolist()
    # grid_sample asks where a pixel comes from, in halves of each side
    rows = [[a, b * height / width, 0.0], [c * width / height, d, 0.0]]
    theta = torch.tensor(rows, dtype=images.dtype, device=images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class Warps:
    """Does a warped view keep the class of the image as it is? A share over `matrices`, with its standard error."""

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
    """``rotation_consistency``: by a degree, both ways."""
    turns = [math.radians(degrees) for degrees in DEGREES]
    return Warps("rotation", [[[math.cos(t), math.sin(t)], [-math.sin(t), math.cos(t)]] for t in turns])


def scaling(config: EvaluateConfig, seed: int) -> Warps:
    """``scaling_consistency``: smaller and larger by 3 per cent."""
    return Warps("scaling", [[[scale, 0.0], [0.0, scale]] for scale in SCALES])
