"""Commands that examine one network with images: measure, explain."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError, checked
from stillpoint.core.config.catalogue import DATASETS, info
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.commands import foreign
from stillpoint.pipelines.commands.base import (
    Command,
    add_device,
    add_json,
    bars,
    build,
    console,
    print_json,
    run_config,
    tell,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stillpoint.core.evaluation.explain import Explanation
    from stillpoint.core.evaluation.measure import ShiftMap


UNTRAINED = "no weights were given, so the network is untrained (see --weights, or give a run's folder)"


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


def _subject_options(parser: ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--torchvision",
        metavar="NAME",
        help="a torchvision network instead, with random weights unless --weights is given",
    )
    which.add_argument("--timm", metavar="NAME", help="a timm network instead, likewise")
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
        help="the data set whose image size, classes and normalisation to use (default: imagenet; cifar10 for a "
        "network that supports it, if --size is at most 64; otherwise what the network is made for)",
    )
    parser.add_argument("--weights", metavar="FILE", help="weights to load: safetensors, or a torch file of tensors")
    parser.add_argument(
        "--size", type=int, metavar="PIXELS", help="height and width of the network's input (default: the data set's)"
    )
    add_device(parser)
    add_json(parser)


def subject(args: Namespace) -> Subject:
    """The network that the options name, on its device, in eval mode; a `UserError` if there is none."""
    given = [word for word in (args.network, args.torchvision, args.timm, args.model) if word]
    if len(given) != 1:
        raise UserError(
            "say which network: pipeline/model, a run's folder, --torchvision NAME, --timm NAME or "
            "--model MODULE:FUNCTION"
        )
    if args.size is not None and args.size < 1:
        raise UserError(f"--size is a number of pixels, not {args.size}")
    if args.network and Path(args.network).is_dir():
        found = _from_run(args)
    elif args.network:
        found = _by_name(args)
    else:
        found = _own(args)
    from stillpoint.core.base.device import pick

    found.net.to(pick(args.device)).eval()
    return found


def _default_dataset(args: Namespace) -> str:
    """ImageNet, unless the images are small or the network does not support it."""
    _, entry = pipelines.entry(args.network)
    if args.size is not None and args.size <= 64 and (not entry.datasets or "cifar10" in entry.datasets):
        return "cifar10"
    if not entry.datasets or "imagenet" in entry.datasets:
        return "imagenet"
    return next(name for name in ("cifar10", *DATASETS) if name in entry.datasets)


def _by_name(args: Namespace) -> Subject:
    name = args.network
    pipelines.entry(name)  # an unknown name is reported before torch is imported
    dataset = info(args.dataset or _default_dataset(args))
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
    _threads(args)
    dataset = info(args.dataset or "imagenet")
    if args.torchvision:
        net = foreign.of_torchvision(args.torchvision)
    else:
        net = foreign.of_timm(args.timm) if args.timm else foreign.of_user(args.model)
    if args.weights:
        from stillpoint.core.runs.checkpoint import load_weights

        load_weights(net, args.weights)
    title = args.torchvision or args.timm or args.model
    size = args.size or dataset.size
    return Subject(net, title, bool(args.weights), dataset.channels, size, dataset.mean, dataset.std, foreign=True)


@contextmanager
def _fits(found: Subject) -> Iterator[None]:
    """Reports a network's failure on an image, in PyTorch's words, as one sentence.

    One of this project's networks first gets a blank image: if that works, any later error is a bug.
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
    """An image, upright, its shorter side resized and its centre cropped: normalised (C, H, W), and in [0, 1] for
    drawing."""
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


def _measure_options(parser: ArgumentParser) -> None:
    _subject_options(parser)
    parser.add_argument(
        "--image",
        required=True,
        metavar="FILE",
        help="the image, or a folder of images; shorter sides are resized and centres cropped",
    )
    parser.add_argument(
        "--max-shift", type=int, default=8, metavar="M", help="try all shifts of up to M pixels (default: 8)"
    )
    parser.add_argument(
        "--boundary",
        choices=("circular", "zeros", "crop"),
        default="circular",
        help="what enters at the edge (default: circular)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PNG",
        help="file of the map (default: <image>_shifts.png in the working directory)",
    )


def _pictures(folder: Path) -> list[Path]:
    """The images in a folder and its subfolders, in order; a `UserError` if there is none."""
    from stillpoint.core.data.formats import IMAGE_SUFFIXES

    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise UserError(f"there is no picture in {folder} ({', '.join(IMAGE_SUFFIXES)})")
    return found


def _measure_folder(args: Namespace, found: Subject) -> int:
    """Measures every image of a folder by pairs of shifts, as the evaluations draw them."""
    import torch

    from stillpoint.core.evaluation.measure import measure

    if args.boundary == "crop":
        raise UserError("--boundary crop needs a single image: a folder is measured with circular or zeros")
    paths = _pictures(Path(args.image))
    batches = (
        torch.stack([picture(str(path), found)[0] for path in paths[start : start + 50]])
        for start in range(0, len(paths), 50)
    )
    kind = "circular" if args.boundary == "circular" else "crop"
    with _fits(found):
        result = measure(found.net, batches, evaluations=kind, max_shift=args.max_shift)
    if args.json:
        print_json({"network": found.title, "trained": found.trained, "size": found.size, **result.to_dict()})
        return 0
    if not found.trained:
        tell(UNTRAINED)
    tell(f"{found.title} on {len(paths)} pictures of {args.image}")
    tell(str(result))
    return 0


def _measure(args: Namespace) -> int:
    if not Path(args.image).exists():
        raise UserError(f"the picture {args.image} is not there")
    if args.max_shift < 1:
        raise UserError(f"--max-shift {args.max_shift}: it must be at least 1 pixel")
    found = subject(args)
    if Path(args.image).is_dir():
        return _measure_folder(args, found)
    from stillpoint.core.base.device import pick
    from stillpoint.core.evaluation.measure import measure_image

    size = found.size
    if args.boundary == "crop":
        # the moving windows have the network's size, so the image is larger
        found = Subject(**{**found.__dict__, "size": size + 2 * args.max_shift})
    x, pixels = picture(args.image, found)
    with bars(shown=console().is_terminal and not args.json) as shown, _fits(found):
        task = shown.add_task("shifts")
        result = measure_image(
            found.net,
            x.to(pick(args.device)),
            max_shift=args.max_shift,
            boundary=args.boundary,
            progress=lambda what, done, total: shown.update(task, completed=done, total=total),
        )
        others = _others(found, x.to(pick(args.device)), result)
    from stillpoint.core.reporting.figures import shift_map

    title = (
        f"{found.title}, {size}x{size}, {'trained' if found.trained else 'untrained'} weights, {args.boundary} shifts"
    )
    output = args.output or Path(f"{Path(args.image).stem}_shifts.png")
    shift_map(result.change, result.same, output, title=title, picture=pixels, prediction=f"class {result.unshifted}")
    if args.json:
        print_json(
            {
                "network": found.title,
                "trained": found.trained,
                "size": size,
                "figure": str(output),
                "one_class": bool(others),
                **result.to_dict(),
            }
        )
    else:
        _print_map(found, result, output, others)
    return 0


def _print_map(found: Subject, result: "ShiftMap", output: Path, others: str) -> None:
    from rich.text import Text

    from stillpoint.core.metrics.logit_change import ROUNDING

    out = console()
    if not found.trained:
        tell(UNTRAINED)
    tell(
        f"{found.title}: class {result.unshifted} of the unshifted picture; a number is the class it becomes, "
        f"shades are the change of the logits where it stays (· none, █ {_largest(result)})"
    )
    largest = max(float(result.change.max()), ROUNDING)
    width = max(2, len(str(int(result.prediction.max()))) + 1)
    for row in range(result.prediction.shape[0]):
        line = Text(f"{row - result.max_shift:+4d} ")
        for column in range(result.prediction.shape[1]):
            kept = bool(result.same[row, column])
            relative = float(result.change[row, column]) / largest
            text = "·░▒▓█"[min(4, int(5 * relative))] if kept else str(int(result.prediction[row, column]))
            line.append(text.rjust(width), style=None if kept else "bold red")
        out.print(line)
    shifts = result.same.size - 1
    changed = shifts - (int(result.same.sum()) - 1)
    tell(
        f"the class changes at {changed} of {shifts} shifts (consistency {result.consistency:.2%}); "
        f"largest relative logit change {float(result.change.max()):.1e}"
    )
    if others:
        tell(f"the network gives {others}: its consistency says little")
    tell(f"written: {output}")


def _largest(result: "ShiftMap") -> str:
    """What the darkest shade stands for."""
    from stillpoint.core.metrics.logit_change import ROUNDING

    return "the largest" if float(result.change.max()) >= ROUNDING else f"{ROUNDING:g}: all are rounding"


def _others(found: Subject, x: "Tensor", result: "ShiftMap") -> str:
    """Names of very different images, if they all get the image's class too."""
    import torch

    from stillpoint.core.base.randomness import generator
    from stillpoint.core.evaluation.engine import Predictor

    noise = torch.randn(6, *x.shape, generator=generator("measure")).to(x)
    strange = torch.cat([torch.zeros_like(x)[None], -x[None], x.flip(1)[None], noise])
    same = (Predictor(found.net)(strange).argmax(1) == result.unshifted).all()
    return "that class to a grey picture, to noise, to its negative and to it upside down too" if same else ""


def _explain_options(parser: ArgumentParser) -> None:
    _subject_options(parser)
    parser.add_argument("--image", metavar="FILE", help="a picture to try (default: random images)")
    parser.add_argument(
        "--boundary",
        choices=("interior", "whole"),
        default="interior",
        help="interior: circular padding everywhere, so that borders do not count; whole: the unchanged network "
        "(default: interior)",
    )
    parser.add_argument("--output", type=Path, metavar="PNG", help="draw errors and shares of the modules")
    parser.add_argument(
        "--all", action="store_true", help="show every module, not only those up to the first that break"
    )


def _explain(args: Namespace) -> int:
    if args.image and not Path(args.image).is_file():
        raise UserError(f"the picture {args.image} is not there")
    found = subject(args)
    import torch

    from stillpoint.core.base.device import pick
    from stillpoint.core.base.randomness import generator
    from stillpoint.core.evaluation.explain import explain

    if args.image:
        x = picture(args.image, found)[0][None]
    else:
        x = torch.randn(4, found.channels, found.size, found.size, generator=generator("explain"))
    with _fits(found):
        result = explain(found.net, x.to(pick(args.device)), boundary=args.boundary)
    title = f"{found.title} at {found.size}x{found.size}, {'trained' if found.trained else 'untrained'} weights"
    if args.output:
        from stillpoint.core.reporting.explanation import explanation_chart

        explanation_chart(result, args.output, title=title)
    if args.json:
        print_json({"network": found.title, "trained": found.trained, "size": found.size, **result.to_dict()})
    else:
        _print_explanation(title, result, args.all)
        if args.output:
            tell(f"written: {args.output}")
    return 0


def _print_explanation(title: str, result: "Explanation", every: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    first = result.first_broken
    grid = Table(title=Text(title, "bold"), title_justify="left")
    for name in ("module", "type", "output", "stride", "error", "share"):
        grid.add_column(name, overflow="fold")
    broken = 0
    for row in result.rows:
        bad = not row.error <= result.threshold
        broken += bad
        whole = row.name == "(network)"
        if every or whole or broken <= 3 or row is result.worst:
            stride = "" if row.stride is None else f"{row.stride:g}"
            style = "bold red" if row is first else "red" if bad else None
            share = f"{row.share:.1%}" if row.share else ""
            cells = (row.name, row.type, "x".join(map(str, row.shape)), stride, f"{row.error:.1e}", share)
            grid.add_row(*map(Text, cells), style=style)
        elif broken == 4 and bad:
            grid.add_row("...", "", "", "", "", "")
    out.print(grid)
    moves = ", ".join(f"({r}, {c})" for r, c in result.shifts)
    where = "away from the borders, " if result.boundary == "interior" else ""
    if first is None:
        tell(
            f"{where}every module moves with its input under the circular shifts {moves} (errors below "
            f"{result.threshold:g})"
        )
    else:
        tell(
            f"{where}shift equivariance first breaks in {first.name} ({first.type}): relative error {first.error:.1e} "
            f"under the circular shifts {moves}; {broken} of {len(result.rows)} modules are above {result.threshold:g}"
        )
        if result.worst is not None:
            worst = result.worst
            tell(f"{worst.share:.0%} of the error is added by {worst.name} ({worst.type})")
        tell(result.remedy)
    if result.left_out:
        tell(f"left out: {', '.join(f'{count} {why}' for why, count in result.left_out.items())}")


COMMANDS = {
    "measure": Command(
        "show how shifts change a network's answers",
        _measure_options,
        _measure,
        (
            "stillpoint measure aps/resnet18_aps1 --image photo.jpg --max-shift 8",
            "stillpoint measure results/aps/digits/resnet20/seed0 --image five.png --max-shift 4",
            "stillpoint measure --torchvision resnet18 --weights resnet18.pth --image photo.jpg --boundary crop",
            "stillpoint measure --model mynets.small:build --dataset cifar10 --image photo.jpg --json",
            "stillpoint measure --timm resnet50 --weights resnet50.safetensors --image photographs --boundary zeros",
        ),
        takes_pairs=True,
    ),
    "explain": Command(
        "find the module that breaks shift equivariance",
        _explain_options,
        _explain,
        (
            "stillpoint explain aps/resnet18_lpf3 --size 32",
            "stillpoint explain results/aps/digits/resnet20_aps1/seed0 --all",
            "stillpoint explain --torchvision mobilenet_v2 --size 224 --output mobilenet.png",
        ),
        takes_pairs=True,
    ),
}
