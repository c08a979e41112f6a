"""Pairs of images (input, target) for reconstruction networks: their files, and batches of them.

Scanner data are converted once to pairs of float32 images, outside this project. `undersampled` does it for single-coil
magnetic resonance; filtered back-projections for computed tomography need a tomography library.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.randomness import generator
from stillpoint.core.data.loading import Batch, Feeder, LoaderOptions
from stillpoint.core.data.sets import FolderSet, ImageSet, LabelMapFiles, LabelMapSet, Selectable


@dataclass(frozen=True, slots=True)
class PairSet(Selectable):
    """One split: `inputs` and `labels` (the targets) float32 (N, C, H, W); `digest` identifies the pairs.

    Both may be memory-mapped, and are then read batch by batch. `mean` and `std` are 0 and 1: intensities are not
    normalised.
    """

    inputs: Tensor
    labels: Tensor
    title: str
    digest: str
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    classes: tuple[str, ...] = ()

    def _chosen(self, indices: Tensor) -> dict[str, Any]:
        return {"inputs": self.inputs[indices], "labels": self.labels[indices]}


#: what `core.data.datasets.load` returns
AnySet = ImageSet | LabelMapSet | FolderSet | LabelMapFiles | PairSet


class PairLoader(Feeder):
    """Batches of a `PairSet`: ``images`` are the inputs and ``labels`` the targets, float32 (B, C, H, W).

    Both are cropped to their central `size` x `size` pixels and transformed alike (flip, roll). Only batches are moved
    to the device. The other options are `Feeder`'s. `UserError` for a `size` larger than the images.
    """

    def __init__(
        self, pairs: PairSet, batch_size: int, *, size: int | None = None, **options: Unpack[LoaderOptions]
    ) -> None:
        super().__init__(pairs, batch_size, **options)
        height, width = pairs.labels.shape[2:]
        self.image_set, self.size = pairs, size or min(height, width)
        if self.size > min(height, width):
            raise UserError(f"DATA.IMAGE_SIZE {self.size}: images of {pairs.title} have {height}x{width} pixels only")

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from `start_step` on, with the numbers of their pairs within the set."""
        order = self.order(epoch)
        for step in range(start_step, len(self)):
            indices = order[self.part(step)]
            both = torch.cat(
                [self._middle(part[indices]) for part in (self.image_set.inputs, self.image_set.labels)], 1
            )
            both = self.finish(both.to(self.device), epoch, step)  # (B, 2C, size, size)
            inputs, targets = both.chunk(2, 1)
            yield Batch(step, inputs.contiguous(memory_format=self.memory_format), targets, indices)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Leaves intensities unchanged."""
        return pixels

    def _middle(self, images: Tensor) -> Tensor:
        top, left = ((n - self.size) // 2 for n in images.shape[2:])
        return images[:, :, top : top + self.size, left : left + self.size]


def mapped(path: Path) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a file of pairs, memory-mapped; `UserError` for any other file."""
    wanted = "tensors input and target, both float32 (N, 1, H, W) with N, H and W above 0"
    try:
        with safe_open(path, framework="pt") as file:
            if set(file.keys()) != {"input", "target"}:
                raise UserError(f"{path} holds {', '.join(sorted(file.keys())) or 'nothing'}: it must hold {wanted}")
            inputs, targets = file.get_tensor("input"), file.get_tensor("target")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or not a safetensors file ({error}): make it again") from None
    shapes = tuple(inputs.shape), tuple(targets.shape)
    right = shapes[0] == shapes[1] and len(shapes[0]) == 4 and shapes[0][1] == 1 and 0 not in shapes[0]
    if not right or {inputs.dtype, targets.dtype} != {torch.float32}:
        raise UserError(
            f"{path} holds {inputs.dtype} {shapes[0]} and {targets.dtype} {shapes[1]}: it must hold {wanted}"
        )
    return inputs, targets


def check_values(path: Path, inputs: Tensor, targets: Tensor) -> None:
    """`UserError` for values that are not finite, and for pairs without anything to learn: every input equals its
    target, or all targets are one value."""
    same, constant = True, True
    for start in range(0, len(inputs), 64):
        part, wanted = inputs[start : start + 64], targets[start : start + 64]
        if not (part.isfinite().all() and wanted.isfinite().all()):
            raise UserError(f"{path} holds numbers that are not finite in pairs {start} to {start + len(part) - 1}")
        same = same and bool((part == wanted).all())
        constant = constant and bool((wanted == targets[:1, :, :1, :1]).all())
    if same or constant:
        what = "every target is its input" if same else "all targets are one value"
        raise UserError(f"{path} holds nothing to reconstruct: {what}")


def line_mask(width: int, acceleration: int, centre_fraction: float, *key: int | str) -> Tensor:
    """The measured columns of the Fourier plane: bool (width,), with the zero frequency at ``width // 2``.

    The central ``round(width * centre_fraction)`` are measured, and the others with the probability for which the
    expected number is ``width / acceleration`` (the random masks of fastMRI, arXiv 1811.08839, section 4.9). The draw
    is a function of `key`. ValueError if the central columns already exceed it.
    """
    centre = round(width * centre_fraction)
    if acceleration < 1 or not 0 < centre_fraction <= 1 or centre * acceleration > width:
        raise ValueError(
            f"acceleration {acceleration} with centre_fraction {centre_fraction}: acceleration must be at least 1, "
            f"centre_fraction in (0, 1], and the central columns at most {width} / {acceleration}"
        )
    probability = (width / acceleration - centre) / max(width - centre, 1)
    mask = torch.rand(width, generator=generator("line mask", *key)) < probability
    first = (width - centre + 1) // 2
    mask[first : first + centre] = True
    return mask


def undersampled(kspace: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """A pair (input, target) from single-coil measurements, as for fastMRI's U-Net: magnitudes float32 (H', W').

    kspace   complex (H, W), the zero frequency in the middle
    target   the reconstruction from all measurements (H', W'), to whose size the input is centre-cropped
    mask     bool (W,): columns to keep

    The input is the magnitude of the orthonormal inverse Fourier transform, with zeros in the other columns. Both are
    normalised by the input's mean and standard deviation.
    """
    inverse = torch.fft.ifft2(torch.fft.ifftshift(torch.where(mask, kspace, 0), dim=(-2, -1)), norm="ortho")
    image = torch.fft.fftshift(inverse, dim=(-2, -1)).abs()
    top, left = ((n - m) // 2 for n, m in zip(image.shape[-2:], target.shape[-2:], strict=True))
    image = image[..., top : top + target.shape[-2], left : left + target.shape[-1]]
    mean, std = image.mean((-2, -1), keepdim=True), image.std((-2, -1), keepdim=True) + 1e-11
    return ((image - mean) / std).float(), ((target - mean) / std).float()


def undersample_images(images: Tensor, name: str, *, acceleration: int = 4, centre_fraction: float = 0.08) -> PairSet:
    """Pairs from images uint8 (N, 1, H, W), each measured with its own mask."""
    pairs = []
    for number, image in enumerate(images[:, 0].double() / 255):
        kspace = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(image), norm="ortho"))
        mask = line_mask(image.shape[1], acceleration, centre_fraction, name, number)
        pairs.append(undersampled(kspace, image, mask))
    inputs, targets = (torch.stack(part)[:, None] for part in zip(*pairs, strict=True))
    return PairSet(inputs, targets, "", "")
