"""The evaluation "erase": circular pairs on images with an erased square."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.randomness import uniform_integers
from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.evaluation.pairs import ShiftPairs
from stillpoint.core.evaluation.view import Evaluation, Result, View


def erased(images: Tensor, corners: Tensor, side: int) -> Tensor:
    """A `side` x `side` square of zeros in each image (B, C, H, W), its top left pixel at `corners` (B, 2)."""
    corners = corners.to(images.device)
    row, column = (torch.arange(n, device=images.device) - corners[:, k, None] for k, n in enumerate(images.shape[2:]))
    inside = ((row >= 0) & (row < side))[:, :, None] & ((column >= 0) & (column < side))[:, None, :]
    return images.masked_fill(inside[:, None], 0)


def erase_anywhere(view: View, seed: int, *, side: int) -> Tensor:
    """Erases a square that lies within each image, at a uniformly random position."""
    height, width = view.images.shape[2:]
    if side > min(height, width):
        raise UserError(f"a square of {side} pixels does not fit images of {height}x{width}: lower EVALUATE.ERASE")
    rows = uniform_integers(view.indices, 0, height - side + 1, 1, "erase rows", seed, side)
    columns = uniform_integers(view.indices, 0, width - side + 1, 1, "erase columns", seed, side)
    return erased(view.images, torch.cat([rows, columns], 1), side)


class Together:
    """Several evaluations under one name, such as one for each size of the erased square."""

    def __init__(self, parts: Sequence[Evaluation]) -> None:
        self.parts = parts

    def update(self, view: View) -> None:
        for part in self.parts:
            part.update(view)

    def compute(self) -> Result:
        return {key: value for part in self.parts for key, value in part.compute().items()}


def erase(config: EvaluateConfig, seed: int) -> Evaluation:
    """Circular pairs on images with an erased square, for each side in ``EVALUATE.ERASE``: ``erase5_consistency``."""
    if not config.erase:
        raise UserError("the evaluation erase needs the sides of its squares in pixels: set EVALUATE.ERASE")
    sides = {side: partial(erase_anywhere, side=side) for side in config.erase}
    return Together([ShiftPairs(config, seed, name=f"erase{side}", alter=alter) for side, alter in sides.items()])
