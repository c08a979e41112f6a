"""Builds the loaders of training and evaluation from the DATA and AUGMENT sections of a configuration."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import digest_of
from stillpoint.core.base.randomness import seed_for
from stillpoint.core.config.catalogue import info
from stillpoint.core.config.schema import AugmentConfig, RunConfig
from stillpoint.core.data.augment import Augment, Crop, Erase, Flip, ResizedCrop, Roll, Stage, Step, TurningFlip
from stillpoint.core.data.datasets import load
from stillpoint.core.data.label_maps import LabelMapLoader, LabelMapStream
from stillpoint.core.data.loading import DeviceLoader
from stillpoint.core.data.pairs import AnySet, PairLoader, PairSet
from stillpoint.core.data.sets import ImageSet, LabelMapFiles, LabelMapSet
from stillpoint.core.data.streaming import StreamLoader, Window

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
# the only RESIZED_CROP of streamed data sets
_PHOTOGRAPH_SCALE = (0.08, 1.0)


class Loader(Protocol):
    """Batches of (step, images, labels, indices) as a function of (epoch, step): see stillpoint.core.data.loading."""

    def __len__(self) -> int: ...
    def global_size(self, step: int) -> int: ...
    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Any]: ...


@dataclass(frozen=True)
class Loaders:
    """The loaders of a run; a part that was not requested, or has no images, is None.

    `digest` identifies the images of all parts present, `title` is their name in tables, `order` describes their order
    if it differs from the published one.
    """

    train: Loader | None = None
    validation: Loader | None = None
    test: Loader | None = None
    digest: str = ""
    title: str = ""
    order: str = ""


def image_size(config: RunConfig) -> int:
    """The height and width of a network's input."""
    return config.data.image_size or info(config.data.name).size


def images(config: RunConfig, part: Part, root: str | os.PathLike[str] | None = None) -> AnySet | None:
    """The images of one part, cut to DATA.LIMIT; None for the validation part when DATA.VALIDATION is 0."""
    data = config.data
    if part == "validation" and not data.validation:
        return None
    if data.validation_choice == "test":
        found = load(data.name, root, "train" if part == "train" else "test", val_size=0)
        found = found.sample(data.validation) if part == "validation" else found
    else:
        split = "val" if part == "validation" else part
        choice = {"val_choice": data.validation_choice, "split_seed": data.split_seed}
        found = load(data.name, root, split, val_size=data.validation, **choice)  # type: ignore[arg-type]
    return found.sample(data.limit) if data.limit else found


def augmentation(config: RunConfig, *, training: bool) -> Augment | None:
    """The augmentation of a batch. The crop from a zero-padded canvas is part of the task, so testing has it too.

    `UserError` if DATA.IMAGE_SIZE cannot be made from the data set's images, or AUGMENT.ERASE is larger than them.
    """
    section, entry, size = config.augment, info(config.data.name), image_size(config)
    steps: list[tuple[Step, Stage]] = []
    if section.canvas_padding:
        if size > entry.size + 2 * section.canvas_padding:
            raise UserError(f"DATA.IMAGE_SIZE {size} is more than {entry.size} + 2 x AUGMENT.CANVAS_PADDING")
        steps.append((Crop(section.canvas_padding, size), "pixels"))
    elif size != entry.size and not (entry.streaming or entry.pairs):
        raise UserError(
            f"DATA.IMAGE_SIZE {size}: images of {config.data.name} have {entry.size} pixels, and only "
            "AUGMENT.CANVAS_PADDING allows another size"
        )
    if training and section.erase > size:
        raise UserError(f"AUGMENT.ERASE {section.erase} is larger than the images, {size}x{size} pixels")
    if training:
        _training_steps(section, entry.streaming, size, steps)
    return Augment(tuple(steps)) if steps else None


def _training_steps(section: AugmentConfig, streaming: bool, size: int, steps: list[tuple[Step, Stage]]) -> None:
    if section.resized_crop and not streaming:
        steps.append((ResizedCrop(size, section.resized_crop), "pixels"))
    if section.crop_padding:
        steps.append((Crop(section.crop_padding), "pixels"))
    if section.flip:
        steps.append(((TurningFlip if section.flip_turns else Flip)(section.flip), "pixels"))
    if section.roll:
        # the papers draw from a half-open range
        steps.append((Roll(section.roll, section.roll_per, half_open=True), "pixels"))
    if section.erase:
        steps.append((Erase(section.erase), "normalised"))


def loader(
    config: RunConfig,
    part: Part,
    root: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    *,
    batch_size: int | None = None,
    workers: int = 0,
    margin: int = 0,
) -> DeviceLoader | StreamLoader | PairLoader | LabelMapLoader | None:
    """The loader of one part; None for the validation part when DATA.VALIDATION is 0.

    Training images are shuffled and augmented, the others are not (except for AUGMENT.CANVAS_PADDING).
    `batch_size` is over all processes; the default is one mini-batch, TRAIN.BATCH_SIZE / TRAIN.ACCUMULATE, for
    validation too, whose sums must not depend on EVALUATE. Photographs are `margin` pixels larger than DATA.IMAGE_SIZE
    on each axis, about the same centre. `UserError` for settings that do not suit the data set.
    """
    chosen = images(config, part, root)
    if chosen is None:
        return None
    training, section, data = part == "train", config.augment, config.data
    if section.scale and not info(data.name).streaming:
        raise UserError(f"AUGMENT.SCALE is for photographs; images of {data.name} all have one size")
    options: dict[str, Any] = {
        "device": device,
        "seed": config.seed if training else seed_for(part, config.seed),
        "shuffle": training,
        "augment": augmentation(config, training=training),
        "mean": data.mean,
        "std": data.std,
        "channels_last": config.train.channels_last,
        "rank": rank,
        "world_size": world_size,
    }
    batch_size = batch_size or config.train.batch_size // config.train.accumulate
    if isinstance(chosen, PairSet):
        return _pair_loader(config, chosen, batch_size, margin, options)
    if isinstance(chosen, LabelMapSet | LabelMapFiles):
        _check_label_maps(config, margin)
    if isinstance(chosen, LabelMapSet):
        return LabelMapLoader(chosen, batch_size, **options)
    if config.train.loss == "mse":
        raise UserError(f"TRAIN.LOSS mse compares images, and {data.name} has classes: set cross_entropy")
    if isinstance(chosen, ImageSet):
        if margin:
            raise UserError(f"EVALUATE.MARGIN is for photographs; images of {data.name} are shown whole")
        if section.resize:
            raise UserError(f"AUGMENT.RESIZE is for photographs; images of {data.name} all have one size")
        return DeviceLoader(chosen, batch_size, **options)
    if section.resized_crop and section.resized_crop != _PHOTOGRAPH_SCALE:
        raise UserError(
            f"AUGMENT.RESIZED_CROP of photographs must be {list(_PHOTOGRAPH_SCALE)}, not {list(section.resized_crop)}"
        )
    size = image_size(config)
    entry = info(data.name)
    resize = section.resize or size * entry.resize // entry.size
    crop: Window = "centre"
    if training and (section.resized_crop or section.scale):
        crop = "random_resized" if section.resized_crop else "random_scaled"
    if crop == "centre" and size + margin > resize:
        more = f" + EVALUATE.MARGIN {margin}" if margin else ""
        raise UserError(
            f"photographs resized to {resize} pixels have no window of DATA.IMAGE_SIZE {size}{more}: "
            f"set AUGMENT.RESIZE to {size + margin} or more"
        )
    return (LabelMapStream if isinstance(chosen, LabelMapFiles) else StreamLoader)(
        *(chosen, batch_size),
        size=size + margin,
        resize=resize,
        crop=crop,
        scale=section.scale or _PHOTOGRAPH_SCALE,
        workers=workers,
        skip_corrupt=data.skip_corrupt,
        **options,
    )


def _check_label_maps(config: RunConfig, margin: int) -> None:
    section, data = config.augment, config.data
    if section.erase:
        raise UserError(f"AUGMENT.ERASE would erase pixels of {data.name} but keep their classes: leave it out")
    if margin:
        raise UserError(f"EVALUATE.MARGIN is for photographs with one class; {data.name} has one for each pixel")
    if not info(data.name).streaming and (section.resized_crop or section.resize):
        raise UserError(f"maps of {data.name} are not resized: leave out AUGMENT.RESIZED_CROP and AUGMENT.RESIZE")


def _pair_loader(
    config: RunConfig, chosen: PairSet, batch_size: int, margin: int, options: dict[str, Any]
) -> PairLoader:
    section, name = config.augment, config.data.name
    if config.train.loss != "mse" or config.train.label_smoothing:
        raise UserError(f"{name} has images for targets: set TRAIN.LOSS mse and no TRAIN.LABEL_SMOOTHING")
    if margin or section.resize or section.resized_crop or section.canvas_padding or section.crop_padding:
        raise UserError(
            f"pairs of {name} can only be flipped and rolled: leave out EVALUATE.MARGIN and other AUGMENT settings"
        )
    if section.erase:
        raise UserError(f"AUGMENT.ERASE would erase the targets of {name} too: leave it out")
    return PairLoader(chosen, batch_size, size=image_size(config), **options)


def loaders(
    config: RunConfig,
    root: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    *,
    parts: tuple[Part, ...] = PARTS,
    workers: int = 0,
) -> Loaders:
    """The loaders of `parts`; see `loader`."""
    made = {part: loader(config, part, root, device, rank, world_size, workers=workers) for part in parts}
    sets = [one.image_set for one in made.values() if one is not None]
    about = {"digest": digest_of([found.digest for found in sets]), "title": sets[0].title, "order": sets[0].order}
    return Loaders(**made, **about)  # type: ignore[arg-type]
