"""Batches of images with a class for each pixel; an image and its map are transformed together.

A map is one more channel of its image, with 1 added, so that 255 ("no class") becomes 0. Pixels added by a padded crop
are 0 too, and so have no class.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stillpoint.core.base.errors import UserError
from stillpoint.core.data.formats import decode_image, decode_label_map
from stillpoint.core.data.loading import Batch, Feeder, LoaderOptions
from stillpoint.core.data.sets import LabelMapSet
from stillpoint.core.data.streaming import Photographs, StreamLoader

#: the label of pixels without a class: at the borders of objects, and outside the image
IGNORED = 255


def _parted(feeder: Feeder, both: Tensor, epoch: int, step: int, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Augmented images float32 (B, C, H, W) and maps int64 (B, H, W) from uint8 (B, C + 1, H, W)."""
    moved = feeder.changed(both, epoch, step, keep)
    return feeder.normalise(moved[:, :-1]), (moved[:, -1] - 1).long()


class LabelMapLoader(Feeder):
    """Batches of a `LabelMapSet` that is kept on `device`; ``labels`` are int64 (B, H, W).

    The options are `Feeder`'s; `augment` may flip, roll and crop, but not resize, which would mix classes.
    """

    def __init__(self, image_set: LabelMapSet, batch_size: int, **options: Unpack[LoaderOptions]) -> None:
        super().__init__(image_set, batch_size, **options)
        self.image_set = image_set
        self.both = torch.cat([image_set.images, (image_set.labels + 1)[:, None]], 1).to(self.device)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from `start_step` on, with the numbers of their images within the set."""
        order = self.order(epoch).to(self.device)
        for step in range(start_step, len(self)):
            indices = order[self.part(step)]
            images, maps = _parted(self, self.both[indices], epoch, step)
            yield Batch(step, images, maps, indices)


class _Labelled(Photographs):
    """Photographs whose last channel is their map plus 1."""

    channels: ClassVar[int] = 4

    def label(self, index: int) -> int:
        return 0

    def read(self, epoch: int, index: int) -> np.ndarray:
        path, of = self.files.paths[index], self.files.maps[index]
        image = decode_image(Path(path), path)
        classes = decode_label_map(Path(of), of, image.size)
        if len(wrong := classes[(classes >= len(self.files.classes)) & (classes != IGNORED)]):
            raise UserError(
                f"the label map {of} holds the class {wrong.max()}: classes are 0 to {len(self.files.classes) - 1}, "
                f"and {IGNORED} marks unlabelled pixels"
            )
        pixels = np.array(self.window(image, epoch, index))  # (size, size, 3)
        cut = np.array(self.window(Image.fromarray(classes), epoch, index, Image.Resampling.NEAREST, IGNORED))
        return np.concatenate([pixels, (cut + np.uint8(1))[..., None]], 2)


class LabelMapStream(StreamLoader):
    """Batches of `LabelMapFiles`, decoded by worker processes; ``labels`` are int64 (B, size, size).

    A map is cropped and resized like its image, by nearest neighbour. The options are those of `StreamLoader`. A map
    whose size differs from its image's is treated like an image that cannot be decoded.
    """

    reader: ClassVar[type[Photographs]] = _Labelled

    def finished(self, pixels: Tensor, labels: Tensor, epoch: int, step: int, kept: Tensor) -> tuple[Tensor, Tensor]:
        return _parted(self, pixels, epoch, step, kept)
