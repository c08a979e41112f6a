"""The network that a command examines, however the user names it, and the images that it takes."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError, checked
from stillpoint.core.config.catalogue import DATASETS, info
from stillpoint.core.runs.layout import Run, seeds_there
from stillpoint.pipelines.commands import foreign
from stillpoint.pipelines.commands.base import (
    add_device,
    add_json,
    build,
    console,
    run_config,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


UNTRAINED = "no weights were given, so the network is untrained (use --weights, or a run's folder)"


@dataclass(frozen=True)
class Subject:
    """The network to examine: its name, whether it was trained, and the images that it takes."""

    net: "nn.Module"
    title: str
    trained: bool
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    foreign: bool = False  # not one of this project's networks


def subject_options(parser: ArgumentParser) -> None:
    """Adds the options that name the network, its weights, data set and device."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--torchvision",
        metavar="NAME",
        help="a torchvision network instead, with random weights unless --weights is given",
    )
    which.add_argument(
        "--timm", metavar="NAME", help="a timm network instead, with random weights unless --weights is given"
    )
    which.add_argument(
        "--model",
        metavar="MODULE:FUNCTION",
        help="your own network instead, from a module (mynets.small:build) or a file (nets/small.py:build): an "
        "nn.Module, or a function without arguments that returns one",
    )
    parser.add_argument("network", nargs="?", help="pipeline/model, or the folder of a trained run")
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="data set that sets image size, classes and normalisation (default: imagenet, or cifar10 if --size is at "
        "most 64, if the network supports them; otherwise one that it supports)",
    )
    parser.add_argument("--weights", metavar="FILE", help="weights to load: safetensors, or a torch file of tensors")
    parser.add_argument(
        "--size", type=int, metavar="PIXELS", help="height and width of the network's input (default: the data set's)"
    )
    add_device(parser)
    add_json(parser)


def subject(args: Namespace) -> Subject:
    """The network that the options name, on its device, in eval mode; `UserError` if there is none."""
    given = [word for word in (args.network, args.torchvision, args.timm, args.model) if word]
    if len(given) != 1:
        raise UserError(
            "name exactly one network: pipeline/model, a run's folder, --torchvision NAME, --timm NAME or "
            "--model MODULE:FUNCTION"
        )
    if args.size is not None and args.size < 1:
        raise UserError(f"--size must be at least 1 pixel, not {args.size}")
    from rich.text import Text

    # the libraries take seconds; only a terminal shows it
    with nullcontext() if args.json else console().status(Text(f"loading {given[0]}")):
        if args.network and Path(args.network).is_dir():
            found = _from_run(args)
        elif args.network:
            if there := seeds_there(Path(args.network)):
                raise UserError(f"there is no run {args.network}{there}")
            found = _by_name(args)
        else:
            found = _own(args)
    from stillpoint.core.base.device import pick

    found.net.to(pick(args.device)).eval()
    return found


def default_dataset(args: Namespace) -> str:
    """The default data set: ImageNet, unless the images are small or the network does not support it."""
    _, entry = pipelines.entry(args.network)
    if args.size is not None and args.size <= 64 and (not entry.datasets or "cifar10" in entry.datasets):
        return "cifar10"
    if not entry.datasets or "imagenet" in entry.datasets:
        return "imagenet"
    return next(name for name in ("cifar10", *DATASETS) if name in entry.datasets)


def _by_name(args: Namespace) -> Subject:
    name = args.network
    pipelines.entry(name)  # an unknown name is reported before torch is imported
    dataset = info(args.dataset or default_dataset(args))
    size = args.size or dataset.size
    config = pipelines.without_recipe(name, dataset.name, [*args.pairs, "DATA.IMAGE_SIZE", str(size)])
    _threads(args)
    net = build(config)
    if args.weights:
        from stillpoint.core.runs.checkpoint import load_weights

        load_weights(net, args.weights, model=name)
    return Subject(net, name, bool(args.weights), dataset.channels, size, dataset.mean, dataset.std)


def _from_run(args: Namespace) -> Subject:
    run = Run.of(args.network)
    config = run_config(run, args.pairs)
    _threads(args)
    net = build(config)
    from stillpoint.core.runs.checkpoint import load_weights

    weights = Path(args.weights) if args.weights else run.weights
    if not weights.is_file():
        raise UserError(f"{weights} does not exist: train the run first, or name its network instead of its folder")
    load_weights(net, weights, model=f"{run.pipeline}/{run.model}")
    dataset = info(config.data.name)
    size = args.size or config.data.image_size or dataset.size
    mean, std = config.data.mean or dataset.mean, config.data.std or dataset.std
    return Subject(net, f"{run.pipeline}/{run.model} (seed {run.seed})", True, dataset.channels, size, mean, std)


def _own(args: Namespace) -> Subject:
    dataset = info(args.dataset or "imagenet")
    given = args.torchvision or args.timm or args.model
    _threads(args)
    import torch

    # random weights are the same at every call
    torch.manual_seed(0)
    if args.torchvision:
        net = foreign.of_torchvision(args.torchvision)
    else:
        net = foreign.of_timm(args.timm) if args.timm else foreign.of_user(args.model)
    if args.weights:
        from stillpoint.core.runs.checkpoint import load_weights

        load_weights(net, args.weights)
    size = args.size or dataset.size
    return Subject(net, given, bool(args.weights), dataset.channels, size, dataset.mean, dataset.std, foreign=True)


@contextmanager
def fits(found: Subject) -> Iterator[None]:
    """Reports a network's failure on an image as one sentence, with PyTorch's message.

    A network of this project first gets a blank image: if that works, any later error is a bug.
    """
    import torch

    try:
        with checked():
            if found.foreign:
                yield
            else:
                blank = torch.zeros(1, found.channels, found.size, found.size)
                with torch.no_grad():
                    found.net(blank.to(next(found.net.parameters()).device))
    except (RuntimeError, AssertionError, AttributeError) as error:
        said = str(error).strip().splitlines()[:1]
        raise UserError(
            f"{found.title} cannot take images of {found.channels}x{found.size}x{found.size}, or returns no logits: "
            f"{said[0] if said else type(error).__name__}"
        ) from error
    if not found.foreign:
        with checked():
            yield


def _threads(args: Namespace) -> None:
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)


def picture(path: str, found: Subject) -> tuple["Tensor", Any]:
    """(normalised image (C, H, W), image in [0, 1] for drawing): upright, shorter side resized, centre cropped."""
    import numpy as np
    import torch

    from stillpoint.core.data.formats import decode_image
    from stillpoint.core.data.streaming import centre_crop, resize_short_side

    image = decode_image(Path(path), path, "RGB" if found.channels == 3 else "L", upright=True)
    image = centre_crop(resize_short_side(image, found.size), found.size)
    pixels = np.asarray(image, dtype=np.float32) / 255
    chw = torch.from_numpy(pixels if pixels.ndim == 3 else pixels[..., None]).permute(2, 0, 1)
    mean, std = (torch.tensor(values)[:, None, None] for values in (found.mean, found.std))
    return (chw - mean) / std, pixels
