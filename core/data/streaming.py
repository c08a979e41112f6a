"""Batches of photographs too many for memory, read from class folders by worker processes."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, Unpack, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.randomness import generator
from stillpoint.core.data.formats import decode_image
from stillpoint.core.data.loading import Batch, Feeder, LoaderOptions
from stillpoint.core.data.sets import FolderSet, LabelMapFiles

#: how the window that a network sees is chosen from a photograph
Window = Literal["centre", "random_resized", "random_scaled"]


def resize_short_side(
    image: Image.Image, size: int, resample: Image.Resampling = Image.Resampling.BILINEAR
) -> Image.Image:
    """Resizes the shorter side to `size` and the longer one to floor(size * long / short), anti-aliased."""
    width, height = image.size
    short = min(width, height)
    return image.resize((size * width // short, size * height // short), resample)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The central `size` x `size` window, odd margins rounded half to even as in torchvision."""
    left, top = (round((extent - size) / 2) for extent in image.size)
    return image.crop((left, top, left + size, top + size))


def resized_crop_box(
    height: int, width: int, random: torch.Generator, scale: tuple[float, float] = (0.08, 1.0)
) -> tuple[int, int, int, int]:
    """`data.augment.resized_crop_boxes` for one image (top, left, height, width), 20 times as fast in plain Python."""
    low, high = math.log(3 / 4), math.log(4 / 3)
    for u in torch.rand(10, 4, generator=random, dtype=torch.float64).tolist():
        area = height * width * (scale[0] + (scale[1] - scale[0]) * u[0])
        shape = math.exp(low + (high - low) * u[1])
        h, w = round(math.sqrt(area / shape)), round(math.sqrt(area * shape))
        if 0 < h <= height and 0 < w <= width:
            return int(u[2] * (height - h + 1)), int(u[3] * (width - w + 1)), h, w
    h, w = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def random_resized_crop(
    image: Image.Image,
    size: int,
    random: torch.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    resample: Image.Resampling = Image.Resampling.BILINEAR,
) -> Image.Image:
    """A random window with a share of the area within `scale`, of shape 3:4 to 4:3, resized to `size` x `size`."""
    top, left, height, width = resized_crop_box(image.height, image.width, random, scale)
    # crop first, as torchvision does, since Pillow's resize(box=...) would include pixels outside the box
    box = image.crop((left, top, left + width, top + height))
    return box.resize((size, size), resample)


def random_scaled_crop(
    image: Image.Image,
    size: int,
    random: torch.Generator,
    scale: tuple[float, float],
    resample: Image.Resampling = Image.Resampling.BILINEAR,
    fill: int = 0,
) -> Image.Image:
    """A random `size` x `size` window of the image resized by a random factor within `scale`.

    If the resized image is smaller, it is at a random position of the window, surrounded by `fill`.
    """
    factor, across, down = torch.rand(3, generator=random, dtype=torch.float64).tolist()
    factor = scale[0] + (scale[1] - scale[0]) * factor
    scaled = image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))), resample)
    left, top = (_offset(draw, side - size) for draw, side in ((across, scaled.width), (down, scaled.height)))
    window = Image.new(scaled.mode, (size, size), fill if scaled.mode == "L" else (fill,) * len(scaled.getbands()))
    window.paste(scaled, (-left, -top))
    return window


def _offset(draw: float, room: int) -> int:
    """`draw` in [0, 1) as an integer from 0 to `room`, which may be negative."""
    return int(draw * (abs(room) + 1)) * (1 if room > 0 else -1)


class Photographs(Dataset[tuple[Tensor | None, int, int, str]]):
    """A map from (epoch, index) to (pixels uint8 (C, size, size), label, index, ""), or (None, ..., the error)."""

    #: channels of an item; more than 3 for subclasses whose items have more than colours
    channels: ClassVar[int] = 3

    def __init__(self, files: Any, size: int, resize: int, crop: str, scale: tuple[float, float], seed: int) -> None:
        self.files, self.size, self.resize, self.crop, self.scale, self.seed = files, size, resize, crop, scale, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor | None, int, int, str]:
        epoch, index = key
        label = self.label(index)
        try:
            pixels = self.read(epoch, index)
        except UserError as error:
            return None, label, index, str(error)
        return torch.from_numpy(pixels).permute(2, 0, 1), label, index, ""  # (C, size, size)

    def label(self, index: int) -> int:
        return int(self.files.labels[index])

    def read(self, epoch: int, index: int) -> np.ndarray:
        """This epoch's window of an image, uint8 (size, size, C)."""
        return np.array(self.window(decode_image(Path(self.files.paths[index]), self.files.paths[index]), epoch, index))

    def window(
        self,
        image: Image.Image,
        epoch: int,
        index: int,
        resample: Image.Resampling = Image.Resampling.BILINEAR,
        fill: int = 0,
    ) -> Image.Image:
        """This epoch's window of an image, or of its map; `fill` surrounds an image that is smaller."""
        if self.crop != "centre":
            random = generator("photograph", self.seed, epoch, index)
            if self.crop == "random_scaled":
                return random_scaled_crop(image, self.size, random, self.scale, resample, fill)
            return random_resized_crop(image, self.size, random, self.scale, resample)
        return centre_crop(resize_short_side(image, self.resize, resample), self.size)

    def gather(
        self, items: list[tuple[Tensor | None, int, int, str]]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, list[str]]:
        """Pixels uint8 (B, C, size, size), labels, numbers and positions in the batch of readable images; the errors.

        Stacked in the worker, so that a batch is sent to the main process as a few shared files, not as one per image.
        """
        kept, pictures = [], []
        for place, (picture, _, _, _) in enumerate(items):
            if picture is not None:
                kept.append(place)
                pictures.append(picture)
        pixels = (
            torch.stack(pictures)
            if pictures
            else torch.zeros(0, self.channels, self.size, self.size, dtype=torch.uint8)
        )
        labels, indices = (torch.tensor([items[place][k] for place in kept], dtype=torch.int64) for k in (1, 2))
        faults = [reason for _, _, _, reason in items if reason]
        return pixels, labels, indices, torch.tensor(kept, dtype=torch.int64), faults


class _Keys:
    """The batches of keys of the current epoch, in one mutable object, so that worker processes outlive epochs."""

    batches: list[list[tuple[int, int]]]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


@contextmanager
def reader_deaths_reported() -> Iterator[None]:
    """A context in which the death of a data-loading worker, which torch may raise anywhere, becomes a `UserError`."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that reads images has ended ({str(error).splitlines()[0].rstrip('. ')}): if memory is short, "
            "use fewer workers or smaller batches; the same command continues from the last state"
        ) from error


class StreamLoader(Feeder):
    """Batches of a `FolderSet`, decoded by `workers` processes; yields as `data.loading.DeviceLoader` does.

    `crop` is "centre" (shorter side to `resize`, then the central `size` window), "random_resized" (a share of the area
    within `scale`, see `random_resized_crop`) or "random_scaled" (a factor within `scale`, see `random_scaled_crop`).
    The draw is a function of (seed, epoch, image), independent of the workers. `augment` then changes the whole batch,
    on the device. `UserError` names a file that cannot be decoded; with `skip_corrupt` it is left out of its batch
    instead, and its error is added to `skipped` once. The other options are `Feeder`'s. ValueError for an unknown
    `crop`, and for a central window larger than `resize`.
    """

    reader: ClassVar[type[Photographs]] = Photographs

    def __init__(
        self,
        image_set: FolderSet | LabelMapFiles,
        batch_size: int,
        *,
        size: int = 224,
        resize: int = 256,
        crop: Window = "centre",
        scale: tuple[float, float] = (0.08, 1.0),
        workers: int = 0,
        skip_corrupt: bool = False,
        **options: Unpack[LoaderOptions],
    ) -> None:
        if crop not in get_args(Window):
            raise ValueError(f"crop must be one of {', '.join(get_args(Window))}, got {crop!r}")
        if crop == "centre" and size > resize:
            # Pillow would add a black border
            raise ValueError(f"size must be at most resize, {resize}, got {size}")
        super().__init__(image_set, batch_size, **options)
        self.image_set, self.skip_corrupt = image_set, skip_corrupt
        self.skipped: dict[str, None] = {}
        self._keys = _Keys()
        self._photographs = self.reader(image_set, size, resize, crop, scale, self.seed)
        self._loader: DataLoader[Any] = DataLoader(
            self._photographs,
            batch_sampler=self._keys,  # type: ignore[arg-type]
            collate_fn=self._photographs.gather,
            num_workers=workers,
            persistent_workers=workers > 0,
            # or DataLoader would draw its workers' seed from the global generator
            generator=torch.Generator(),
        )

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from `start_step` on, each a `Batch`; see `DeviceLoader.epoch`."""
        order = self.order(epoch)
        steps = range(start_step, len(self))
        self._keys.batches = [[(epoch, i) for i in order[self.part(step)].tolist()] for step in steps]
        for step, (pixels, labels, indices, kept, faults) in zip(steps, self._loader, strict=True):
            if faults and not self.skip_corrupt:
                raise UserError(f"{faults[0]}: repair or remove it, or set DATA.SKIP_CORRUPT True to skip such images")
            self.skipped |= dict.fromkeys(faults)
            moved = pixels.to(self.device, non_blocking=True)
            images, targets = self.finished(moved, labels.to(self.device), epoch, step, kept)
            yield Batch(step, images, targets, indices.to(self.device))

    def finished(self, pixels: Tensor, labels: Tensor, epoch: int, step: int, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels of a batch, augmented and normalised, from this process's items on the device."""
        return self.finish(pixels, epoch, step, kept), labels
