"""Random augmentation of a whole batch at once, on its device, mostly on uint8 before normalisation.

A step has two halves: `draw` makes the random numbers of n images (row i belongs to image i), `apply` uses them. So the
draws of a batch can be split among processes, and each step can be tested image by image against its definition.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from stillpoint.core.base.errors import UserError, nearest
from stillpoint.core.base.randomness import uniform_fraction
from stillpoint.core.data.shifts import crop_window, roll

Stage = Literal["pixels", "normalised"]


def resized_crop_boxes(
    n: int,
    height: int,
    width: int,
    random: torch.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """int64 (n, 4): top, left, height, width of random windows, with torchvision's distribution.

    The share of the area is uniform in `scale`, the logarithm of width / height in that of `ratio`; the first of ten
    attempts that fits, otherwise the largest central window whose shape is within `ratio`.
    """
    u = torch.rand(n, 10, 4, generator=random, dtype=torch.float64)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[..., 0])
    shape = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * u[..., 1])
    h, w = (area / shape).sqrt().round(), (area * shape).sqrt().round()  # (n, 10)
    fits = (h > 0) & (h <= height) & (w > 0) & (w <= width)
    top, left = (u[..., 2] * (height - h + 1)).floor(), (u[..., 3] * (width - w + 1)).floor()
    boxes = torch.stack([top, left, h, w], -1)  # (n, 10, 4)
    central_h = min(height, round(width / ratio[0]))
    central_w = min(width, round(height * ratio[1]))
    central = [(height - central_h) // 2, (width - central_w) // 2, central_h, central_w]
    chosen = boxes[torch.arange(n), fits.int().argmax(1)]
    return torch.where(fits.any(1)[:, None], chosen, torch.tensor(central, dtype=torch.float64)).long()


def _triangle_weights(start: Tensor, extent: Tensor, source: int, target: int) -> Tensor:
    """(B, target, source): weights that resample [start, start + extent) of an axis to `target` pixels, rows sum to 1.

    Bilinear interpolation, widened by the factor when shrinking (Pillow's anti-aliased bilinear filter); pixels outside
    the interval have no weight.
    """
    start, extent = start[:, None, None].float(), extent[:, None, None].float()
    step = extent / target
    centre = start + (torch.arange(target, device=start.device)[:, None] + 0.5) * step  # (B, target, 1)
    pixel = torch.arange(source, device=start.device) + 0.5
    weights = (1 - (pixel - centre).abs() / step.clamp(min=1)).clamp(min=0)  # (B, target, source)
    weights = weights * ((pixel > start) & (pixel < start + extent))
    return weights / weights.sum(2, keepdim=True)


def resized_crop(images: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Each image's box (top, left, height, width) cut out, then resized: (B, C, H, W) -> (B, C, height, width).

    Pillow's anti-aliased bilinear filter, by two small matrix products per image (it is separable). uint8 is rounded
    once at the end, so a pixel may differ by one level from Pillow, which also rounds between the two axes.
    """
    top, left, h, w = boxes.to(images.device, non_blocking=True).unbind(1)
    down = _triangle_weights(top, h, images.shape[2], height)[:, None]  # (B, 1, height, H)
    across = _triangle_weights(left, w, images.shape[3], width)[:, None].mT  # (B, 1, W, width)
    resized = down @ images.float() @ across
    return resized.round().clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else resized.to(images.dtype)


def _integers(n: int, low: int, high: tuple[int, int], per: str, random: torch.Generator) -> Tensor:
    """int64 (n, 2): row and column uniform in low..high, a pair for each image or, with per="batch", one for all."""
    rows = n if per == "image" else 1
    pairs = [torch.randint(low, h + 1, (rows,), generator=random) for h in high]
    return torch.stack(pairs, 1).expand(n, 2)


def _check_per(per: str) -> None:
    if per not in ("image", "batch"):
        raise ValueError(f"per={per!r}: choose 'image' or 'batch'")


@dataclass(frozen=True)
class Flip:
    """Mirrors each image left to right with probability `p`."""

    name: ClassVar[str] = "flip"
    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"p={self.p}: must be between 0 and 1")

    def draw(self, n: int, height: int, width: int, random: torch.Generator) -> Tensor:
        return torch.rand(n, generator=random) < self.p

    def apply(self, images: Tensor, draw: Tensor) -> Tensor:
        mirrored = draw.to(images.device, non_blocking=True)[:, None, None, None]
        return torch.where(mirrored, images.flip(3), images)


@dataclass(frozen=True)
class TurningFlip(Flip):
    """`Flip` drawn once for each image, which is then mirrored in every second epoch, so that two epochs show both
    sides of every image (Jordan, arXiv 2404.00498). It needs a loader, which knows the images' numbers."""

    def draw_images(self, numbers: Tensor, seed: int, epoch: int) -> Tensor:
        """bool (n,) for the images `numbers` (n,) of a set, a function of (seed, number, epoch)."""
        return (uniform_fraction(numbers, "first flip", seed) < self.p) ^ bool(epoch % 2)


@dataclass(frozen=True)
class Roll:
    """Circular shift, rows and columns uniform in -max_shift..max_shift, or over the whole image without `max_shift`.

    ``half_open=True`` leaves out +max_shift and ``per="batch"`` draws one shift for all: the APS authors' augmentation.
    """

    name: ClassVar[str] = "roll"
    max_shift: int | None = None
    per: str = "image"
    half_open: bool = False

    def __post_init__(self) -> None:
        _check_per(self.per)
        if self.max_shift is not None and self.max_shift < 1:
            raise ValueError(f"max_shift={self.max_shift}: must be at least 1, or None for the whole image")

    def draw(self, n: int, height: int, width: int, random: torch.Generator) -> Tensor:
        if self.max_shift is None:
            return _integers(n, 0, (height - 1, width - 1), self.per, random)
        high = self.max_shift - self.half_open
        return _integers(n, -self.max_shift, (high, high), self.per, random)

    def apply(self, images: Tensor, draw: Tensor) -> Tensor:
        if self.per == "batch" and len(images):
            return roll(images, draw[0].tolist())  # with one shift, known on the CPU, a plain copy and no gather
        return roll(images, draw)


@dataclass(frozen=True)
class Crop:
    """Pads each side by `padding` zeros, then cuts a random `size` x `size` window (default: the image's own size).

    With padding 28 and size 56, a 28x28 image is placed at one of 29x29 equally likely positions on a canvas.
    """

    name: ClassVar[str] = "crop"
    padding: int = 4
    size: int | None = None
    per: str = "image"

    def __post_init__(self) -> None:
        _check_per(self.per)
        if self.padding < 0:
            raise ValueError(f"padding must be at least 0, got {self.padding}")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")

    def _window(self, height: int, width: int) -> tuple[int, int]:
        h, w = self.size or height, self.size or width
        if h > height + 2 * self.padding or w > width + 2 * self.padding:
            raise ValueError(f"size={self.size} is larger than a {height}x{width} image padded by {self.padding}")
        return h, w

    def draw(self, n: int, height: int, width: int, random: torch.Generator) -> Tensor:
        h, w = self._window(height, width)
        return _integers(n, 0, (height + 2 * self.padding - h, width + 2 * self.padding - w), self.per, random)

    def apply(self, images: Tensor, draw: Tensor) -> Tensor:
        h, w = self._window(*images.shape[2:])
        return crop_window(functional.pad(images, (self.padding,) * 4), draw, (h, w))


@dataclass(frozen=True)
class Erase:
    """Sets a square of `patch` pixels to zero, its position uniform over those within the image."""

    name: ClassVar[str] = "erase"
    patch: int = 8
    per: str = "image"

    def __post_init__(self) -> None:
        _check_per(self.per)
        if self.patch < 1:
            raise ValueError(f"patch={self.patch}: must be at least 1")

    def draw(self, n: int, height: int, width: int, random: torch.Generator) -> Tensor:
        if self.patch > min(height, width):
            raise ValueError(f"patch={self.patch} is larger than a {height}x{width} image")
        return _integers(n, 0, (height - self.patch, width - self.patch), self.per, random)

    def apply(self, images: Tensor, draw: Tensor) -> Tensor:
        corner = draw.to(images.device, non_blocking=True)
        inside = []
        for axis in (0, 1):
            away = torch.arange(images.shape[2 + axis], device=images.device) - corner[:, axis, None]  # (B, H or W)
            inside.append((away >= 0) & (away < self.patch))
        square = inside[0][:, None, :, None] & inside[1][:, None, None, :]  # (B, 1, H, W)
        return images.masked_fill(square, 0)


@dataclass(frozen=True)
class HalfTurn:
    """Rotates every image by 180 degrees, flipping both axes; nothing is random. The APS authors' "flips"."""

    name: ClassVar[str] = "half_turn"

    def draw(self, n: int, height: int, width: int, random: torch.Generator) -> Tensor:
        return torch.empty(n, 0)

    def apply(self, images: Tensor, draw: Tensor) -> Tensor:
        return images.flip(2, 3)


@dataclass(frozen=True)
class ResizedCrop:
    """A random window (see `resized_crop_boxes`) resized to `size` x `size` (default: the image's own size)."""

    name: ClassVar[str] = "resized_crop"
    size: int | None = None
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(
                f"scale={self.scale}, ratio={self.ratio}: must be positive and ascending, the scale at most 1"
            )

    def draw(self, n: int, height: int, width: int, random: torch.Generator) -> Tensor:
        return resized_crop_boxes(n, height, width, random, self.scale, self.ratio)

    def apply(self, images: Tensor, draw: Tensor) -> Tensor:
        return resized_crop(images, draw, self.size or images.shape[2], self.size or images.shape[3])


Step = Flip | Roll | Crop | Erase | HalfTurn | ResizedCrop
STEPS: dict[str, Callable[..., Step]] = {step.name: step for step in (Flip, Roll, Crop, Erase, HalfTurn, ResizedCrop)}


@dataclass(frozen=True)
class Augment:
    """Steps in order, each on pixels (uint8, zero is black) or on normalised images (zero is the mean)."""

    steps: tuple[tuple[Step, Stage], ...]

    def draw(self, n: int, height: int, width: int, random: torch.Generator) -> list[Tensor]:
        """The random numbers of all steps for n images of height x width; row i of each tensor belongs to image i."""
        draws = []
        for step, _ in self.steps:
            draws.append(step.draw(n, height, width, random))
            size = getattr(step, "size", None)
            height, width = (size, size) if size else (height, width)
        return draws

    def take_turns(self, draws: list[Tensor], numbers: Callable[[], Tensor], seed: int, epoch: int) -> list[Tensor]:
        """`draws`, in which those of a `TurningFlip` are replaced by functions of (seed, image, epoch)."""
        found = zip(self.steps, draws, strict=True)
        return [
            step.draw_images(numbers(), seed, epoch) if isinstance(step, TurningFlip) else draw
            for (step, _), draw in found
        ]

    def apply(
        self, pixels: Tensor, draws: Sequence[Tensor], normalise: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Changes a batch (B, C, H, W) by the draws of its B images, with `normalise` between the two stages."""
        images, stage = pixels, "pixels"
        for (step, wanted), draw in zip(self.steps, draws, strict=True):
            if wanted != stage and normalise:
                images = normalise(images)
            stage = wanted
            images = step.apply(images, draw)
        return normalise(images) if normalise and stage == "pixels" else images

    def __call__(self, images: Tensor, random: torch.Generator) -> Tensor:
        """Changes a batch (B, C, H, W), drawing from `random`, without normalisation."""
        return self.apply(images, self.draw(len(images), images.shape[2], images.shape[3], random))


def build_augment(spec: Sequence[Mapping[str, Any]]) -> Augment | None:
    """An `Augment` from ``[{"name": "crop", "padding": 4}, {"name": "flip"}]``; None for an empty list.

    Each entry has the name of a step, its options, and optionally ``"stage": "normalised"``. `UserError` for an unknown
    name, option or value, and for a step on pixels that follows one on the normalised image.
    """
    steps: list[tuple[Step, Stage]] = []
    for entry in spec:
        options: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}
        name, stage = options.pop("name", None), options.pop("stage", "pixels")
        if name not in STEPS:
            raise UserError(
                f"unknown augmentation {name!r}: choose from {', '.join(STEPS)}{nearest(str(name), list(STEPS))}"
            )
        known = [field.name for field in fields(STEPS[name])]  # type: ignore[arg-type]
        unknown = [key for key in options if key not in known]
        if unknown:
            raise UserError(
                f"augmentation {name} has no option {unknown[0]!r}: choose from {', '.join([*known, 'stage'])}"
            )
        if stage not in ("pixels", "normalised"):
            raise UserError(f"augmentation {name} at stage {stage!r}: choose 'pixels' or 'normalised'")
        if stage == "pixels" and steps and steps[-1][1] == "normalised":
            raise UserError(f"augmentation {name} works on pixels and cannot follow one on the normalised image")
        try:
            steps.append((STEPS[name](**options), stage))
        except (ValueError, TypeError) as error:
            raise UserError(f"augmentation {name}: {error}") from error
    return Augment(tuple(steps)) if steps else None
