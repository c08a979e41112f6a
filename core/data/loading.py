"""Batches of an `ImageSet` kept on the device as uint8: no worker processes, no per-image Python, no state.

The order of an epoch is a function of (seed, epoch), the augmentation of a batch of (seed, epoch, step). So a run
resumed at step k of an epoch sees exactly what an uninterrupted one sees. Without shuffling, augmentation is a function
of (seed, epoch, image), so that measurements do not depend on the batch size.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypedDict, Unpack

import torch
from torch import Tensor
from torch.nn import functional

from stillpoint.core.base.randomness import generator
from stillpoint.core.data.augment import Augment, Crop
from stillpoint.core.data.sets import ImageSet


class Batch(NamedTuple):
    """One step: its number, normalised images float32 (B, C, H, W), labels and indices in the set, int64 (B,).

    For pairs, labels are the targets float32 (B, C, H, W); for label maps, int64 (B, H, W).
    """

    step: int
    images: Tensor
    labels: Tensor
    indices: Tensor


class Described(Protocol):
    """What a loader needs from a set: its length and its normalisation."""

    @property
    def mean(self) -> tuple[float, ...]: ...

    @property
    def std(self) -> tuple[float, ...]: ...

    def __len__(self) -> int: ...


class LoaderOptions(TypedDict, total=False):
    """The options of every loader, as `Feeder` describes them."""

    device: torch.device | str
    seed: int
    shuffle: bool
    augment: Augment | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    drop_last: bool
    channels_last: bool
    rank: int
    world_size: int


class Feeder:
    """The base of all loaders: the order of an epoch, a rank's part, augmentation and normalisation.

    `augment` comes from `data.augment.build_augment`. `mean` and `std` replace the set's own, for pixels scaled to
    [0, 1]; ``(0.0,)`` and ``(1.0,)`` only scale. With `drop_last` an incomplete last batch is left out.

    `batch_size` is that of the global batch, which is divided among `world_size` processes: each takes a contiguous
    part, parts differ by at most one image, and together they are exactly the batch of a single process, with the same
    augmentation. No image is repeated as padding, so an evaluation counts each once. ValueError for a batch size, rank
    or `drop_last` that leaves no batches.
    """

    def __init__(
        self,
        image_set: Described,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        shuffle: bool = False,
        augment: Augment | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        drop_last: bool = False,
        channels_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        count = len(image_set)
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size}: at least 1 is needed")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size} processes: ranks go from 0 to {world_size - 1}")
        if drop_last and count < batch_size:
            raise ValueError(f"batch_size {batch_size} with drop_last leaves no batch of {count} images")
        self.count, self.batch_size, self.seed, self.shuffle = count, batch_size, seed, shuffle
        self.device, self.drop_last, self.rank, self.world_size = torch.device(device), drop_last, rank, world_size
        self.augment = augment
        self._whole: tuple[tuple[int, int, int], list[Tensor]] | None = None
        self._order: tuple[int, Tensor] | None = None
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        # (x / 255 - mean) / std = x * scale + shift, in one multiplication and one addition
        centre = torch.tensor(image_set.mean if mean is None else mean, dtype=torch.float64)[:, None, None]  # (C, 1, 1)
        spread = torch.tensor(image_set.std if std is None else std, dtype=torch.float64)[:, None, None]
        self.scale, self.shift = ((v.float().to(self.device)) for v in (1 / (255 * spread), -centre / spread))

    def __len__(self) -> int:
        """Number of steps in an epoch."""
        return self.count // self.batch_size if self.drop_last else -(-self.count // self.batch_size)

    def global_size(self, step: int) -> int:
        """Number of images of the batch at `step` over all processes; the last batch may be smaller."""
        return min(self.batch_size, self.count - step * self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """All image numbers in the order of the epoch, int64 (N,), on the CPU."""
        if not self.shuffle:
            return torch.arange(self.count)
        return torch.randperm(self.count, generator=generator("order", self.seed, epoch))

    def local(self, step: int) -> slice:
        """This process's part of the batch at `step`, counted within the batch."""
        size = self.global_size(step)
        return slice(self.rank * size // self.world_size, (self.rank + 1) * size // self.world_size)

    def part(self, step: int) -> slice:
        """This process's part of the batch at `step`, counted within the epoch's order."""
        local, start = self.local(step), step * self.batch_size
        return slice(start + local.start, start + local.stop)

    def finish(self, pixels: Tensor, epoch: int, step: int, keep: Tensor | None = None) -> Tensor:
        """Augments and normalises this process's images: uint8 (B, C, H, W) -> float32, in the loader's memory format.

        `keep` has the positions of these images within this process's part; default: all.
        """
        return self.changed(pixels, epoch, step, keep, self.normalise)

    def changed(
        self,
        pixels: Tensor,
        epoch: int,
        step: int,
        keep: Tensor | None = None,
        normalise: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """`finish` with another normalisation, or none."""
        if self.augment is None:
            return normalise(pixels) if normalise else pixels
        local = self._draws(self.augment, epoch, step, pixels.shape[2], pixels.shape[3])
        if keep is not None:
            local = [draw[keep] for draw in local]
        return self.augment.apply(pixels, local, normalise)

    def _draws(self, augment: Augment, epoch: int, step: int, height: int, width: int) -> list[Tensor]:
        """The random numbers of this process's part of the batch at `step`."""
        if self.shuffle:
            # drawn for the global batch and then sliced, so that the draws do not depend on the number of processes
            random = generator("augment", self.seed, epoch, step)
            draws = augment.draw(self.global_size(step), height, width, random)
            draws = [draw[self.local(step)] for draw in draws]
            return augment.take_turns(draws, lambda: self._numbers(epoch, step), self.seed, epoch)
        # without shuffling, an image's row in the epoch's draws is its number, whatever the batch size
        if self._whole is None or self._whole[0] != (epoch, height, width):
            random = generator("augment", self.seed, epoch)
            draws = augment.draw(self.count, height, width, random)
            draws = augment.take_turns(draws, lambda: torch.arange(self.count), self.seed, epoch)
            self._whole = (epoch, height, width), draws
        return [draw[self.part(step)] for draw in self._whole[1]]

    def _numbers(self, epoch: int, step: int) -> Tensor:
        """The numbers of this process's images at `step`; the epoch's order is cached."""
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self.order(epoch)
        return self._order[1][self.part(step)]

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32 (x / 255 - mean) / std."""
        images = pixels.to(torch.float32, memory_format=self.memory_format)
        return images.mul_(self.scale).add_(self.shift)


class DeviceLoader(Feeder):
    """Batches of an `ImageSet` that is kept on `device`; the options are `Feeder`'s."""

    def __init__(self, image_set: ImageSet, batch_size: int, **options: Unpack[LoaderOptions]) -> None:
        super().__init__(image_set, batch_size, **options)
        self.image_set = image_set
        self.images, self.labels = image_set.images.to(self.device), image_set.labels.to(self.device)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from `start_step` on, with the numbers of their images within the set."""
        order = self.order(epoch).to(self.device)
        for step in range(start_step, len(self)):
            indices = order[self.part(step)]
            images = self.finish(self.images[indices], epoch, step)
            yield Batch(step, images, self.labels[indices], indices)

    def sample(self, count: int) -> Tensor:
        """The first `count` images of epoch 0, normalised and not augmented, float32 (n, C, H, W)."""
        return self.normalise(self.images[self.order(0)[:count].to(self.device)])

    def canvas(self, indices: Tensor) -> Tensor | None:
        """The whole padded images, normalised, from which the batches cut random windows; None if they do not."""
        step = self.augment.steps[0][0] if self.augment else None
        if not isinstance(step, Crop) or step.size is None:
            return None
        return self.normalise(functional.pad(self.images[indices], (step.padding,) * 4))
