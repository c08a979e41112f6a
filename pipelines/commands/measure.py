"""The command measure, which shows how shifts change a network's predictions."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from stillpoint.core.base.errors import UserError
from stillpoint.pipelines.commands.base import Command, console, png, print_json, reported, tell
from stillpoint.pipelines.commands.subject import UNTRAINED, Subject, fits, picture, subject, subject_options
from stillpoint.pipelines.extras import remedy, require

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from stillpoint.core.evaluation.measure import ShiftMap


def _measure_options(parser: ArgumentParser) -> None:
    subject_options(parser)
    parser.add_argument(
        "--image",
        required=True,
        metavar="FILE",
        help="an image, or a folder of images (required); the shorter side is resized, then the centre is cropped",
    )
    parser.add_argument(
        "--max-shift", type=int, default=8, metavar="M", help="try all shifts of up to M pixels (default: 8)"
    )
    parser.add_argument(
        "--boundary",
        choices=("circular", "zeros", "crop"),
        default="circular",
        help="what enters at the edge: the opposite edge, zeros, or more of the image (default: circular)",
    )
    parser.add_argument(
        "--output",
        type=png,
        metavar="PNG",
        help="file of the map over shifts (default: <image>_shifts.png in the working directory)",
    )


def _pictures(folder: Path) -> list[Path]:
    """The images in a folder and its subfolders, in order; `UserError` if there is none."""
    from stillpoint.core.data.formats import IMAGE_SUFFIXES

    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise UserError(f"there is no image in {folder} ({', '.join(IMAGE_SUFFIXES)})")
    return found


def _measure_folder(args: Namespace, found: Subject) -> int:
    """Measures every image of a folder by random pairs of shifts, as the evaluations do."""
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
    with fits(found):
        result = measure(found.net, batches, evaluations=kind, max_shift=args.max_shift)
    if args.json:
        print_json({"network": found.title, "trained": found.trained, "size": found.size, **result.to_dict()})
        return 0
    if not found.trained:
        tell(UNTRAINED)
    tell(f"{found.title} on {len(paths)} images of {args.image}")
    tell(str(result))
    return 0


def _measure(args: Namespace) -> int:
    if not Path(args.image).exists():
        raise UserError(f"there is no image {args.image}")
    if args.max_shift < 1:
        raise UserError(f"--max-shift must be at least 1 pixel, not {args.max_shift}")
    if args.output:
        require("matplotlib")
    found = subject(args)
    if Path(args.image).is_dir():
        return _measure_folder(args, found)
    from stillpoint.core.base.device import pick
    from stillpoint.core.evaluation.measure import measure_image

    size = found.size
    if args.boundary == "crop":
        # the moving windows have the network's size, so the image must be larger
        found = Subject(**{**found.__dict__, "size": size + 2 * args.max_shift})
    x, pixels = picture(args.image, found)
    with reported(quiet=args.json) as progress, fits(found):
        result = measure_image(
            found.net,
            x.to(pick(args.device)),
            max_shift=args.max_shift,
            boundary=args.boundary,
            progress=progress,
        )
        others = _others(found, x.to(pick(args.device)), result)
    output = _drawn(args, found, size, result, pixels)
    if args.json:
        print_json(
            {
                "network": found.title,
                "trained": found.trained,
                "size": size,
                "figure": output and str(output),
                "one_class": bool(others),
                **result.to_dict(),
            }
        )
    else:
        _print_map(found, result, output, others)
    return 0


def _drawn(args: Namespace, found: Subject, size: int, result: "ShiftMap", pixels: "np.ndarray") -> Path | None:
    """Draws the map and returns its file; None without matplotlib, which the base installation lacks."""
    try:
        require("matplotlib")
    except ModuleNotFoundError as error:
        print(f"stillpoint: no figure: {remedy(error)}", file=sys.stderr)
        return None
    from stillpoint.core.reporting.figures import shift_map

    title = (
        f"{found.title}, {size}x{size}, {'trained' if found.trained else 'untrained'} weights, {args.boundary} shifts"
    )
    output = args.output or Path(f"{Path(args.image).stem}_shifts.png")
    prediction = f"class {result.unshifted}"
    return shift_map(result.change, result.same, output, title=title, picture=pixels, prediction=prediction)


def _print_map(found: Subject, result: "ShiftMap", output: Path | None, others: str) -> None:
    from rich.text import Text

    from stillpoint.core.metrics.logit_change import ROUNDING

    out = console()
    if not found.trained:
        tell(UNTRAINED)
    tell(
        f"{found.title}: class {result.unshifted} for the unshifted image; a number is the class at a shift that "
        f"changes it, a shade the logit change where it stays (· none, █ {_largest(result)})"
    )
    largest = max(float(result.change.max()), ROUNDING)
    width = max(2, len(str(int(result.prediction.max()))) + 1)
    tell("rows: shift down in pixels; columns: shift right, by the same numbers")
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
        tell(f"the network assigns {others}: its consistency says little")
    if output:
        tell(f"written: {output}")


def _largest(result: "ShiftMap") -> str:
    """The meaning of the darkest shade."""
    from stillpoint.core.metrics.logit_change import ROUNDING

    return "the largest" if float(result.change.max()) >= ROUNDING else f"{ROUNDING:g}: all are rounding"


def _others(found: Subject, x: "Tensor", result: "ShiftMap") -> str:
    """A clause on very different images, if all of them get the image's class too; otherwise ""."""
    import torch

    from stillpoint.core.base.randomness import generator
    from stillpoint.core.evaluation.engine import Predictor

    noise = torch.randn(6, *x.shape, generator=generator("measure")).to(x)
    strange = torch.cat([torch.zeros_like(x)[None], -x[None], x.flip(1)[None], noise])
    same = (Predictor(found.net)(strange).argmax(1) == result.unshifted).all()
    return "the same class to a grey image, noise, the negative and the image upside down" if same else ""


COMMANDS = {
    "measure": Command(
        "show how shifts change a network's predictions",
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
        pairs="MODEL.FILTER_SIZE 5",
    ),
}
