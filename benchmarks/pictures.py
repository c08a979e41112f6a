"""Images for benchmarks, our way and torchvision's: the real data set if available, otherwise noise of its form.

A loader's cost does not depend on the content of images, so benchmarks run everywhere; results say which was used.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.randomness import generator
from stillpoint.core.config.catalogue import info
from stillpoint.core.data.datasets import load
from stillpoint.core.data.sets import ImageSet

NOISE = "uint8 noise"


def pictures(name: str, count: int, part: str = "train", root: Path | str | None = None) -> ImageSet:
    """`count` images of a data set, repeated if it has fewer; noise of the same form if it is not available."""
    entry = info(name)
    try:
        found = load(name, root, part, val_size=0)
    except UserError:
        random = generator("benchmark", name, part)
        shape = (count, entry.channels, entry.size, entry.size)
        images = torch.randint(256, shape, generator=random, dtype=torch.uint8)
        labels = torch.randint(entry.num_classes, (count,), generator=random)
        names = tuple(map(str, range(entry.num_classes)))
        return ImageSet(images, labels, names, entry.mean, entry.std, f"{NOISE} of the form of {entry.title}", NOISE)
    assert isinstance(found, ImageSet), "data sets timed this way are in memory"
    chosen = torch.arange(count) % len(found)
    kept = found.classes, found.mean, found.std, found.title, found.digest
    return ImageSet(found.images[chosen], found.labels[chosen], *kept)


class Pictures(Dataset):
    """An `ImageSet` as torchvision's own data sets return it: (image, label, number), a Pillow image, transformed.

    `change` is applied last, to the tensor and the image's number.
    """

    def __init__(
        self, images: ImageSet, transform: Callable[[Any], Any], change: Callable[[Any, int], Any] | None = None
    ) -> None:
        self.pixels = images.images.permute(0, 2, 3, 1).contiguous().numpy()  # (N, H, W, C)
        self.labels, self.transform, self.change = images.labels.tolist(), transform, change

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int, int]:
        pixels = self.pixels[index]
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        image = self.transform(picture)
        return self.change(image, index) if self.change else image, self.labels[index], index


def torchvision_loader(
    images: ImageSet,
    steps: Sequence[Any],
    batch: int,
    *,
    shuffle: bool = True,
    change: Callable[[Any, int], Any] | None = None,
) -> DataLoader:
    """torchvision's transforms `steps`, ToTensor and Normalize, then `change`, in a DataLoader.

    Without worker processes, which would move the work to another core, where this process's clock does not count it.
    """
    from torchvision import transforms

    chain = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(images.mean, images.std)])
    return DataLoader(Pictures(images, chain, change), batch, shuffle=shuffle)


def photographs(count: int) -> list[bytes]:
    """JPEG files of the sizes of ImageNet's: smooth noise, 500 x 375, quality 90, about 100 kB each."""
    random = np.random.Generator(np.random.PCG64(0))
    files = []
    for _ in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (47, 63, 3), dtype=np.uint8)).resize((500, 375))
        fine = np.asarray(coarse).astype(np.int16) + random.integers(-12, 13, (375, 500, 3))
        buffer = io.BytesIO()
        Image.fromarray(fine.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files
