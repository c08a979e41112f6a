"""The command explain, which finds the module that breaks shift equivariance."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from stillpoint.core.base.errors import UserError
from stillpoint.pipelines.commands.base import Command, console, png, print_json, tell
from stillpoint.pipelines.commands.subject import fits, picture, subject, subject_options
from stillpoint.pipelines.extras import require

if TYPE_CHECKING:
    from stillpoint.core.evaluation.explain import Explanation


def _explain_options(parser: ArgumentParser) -> None:
    subject_options(parser)
    parser.add_argument("--image", metavar="FILE", help="an image to try (default: random images)")
    parser.add_argument(
        "--boundary",
        choices=("interior", "whole"),
        default="interior",
        help="interior: circular padding everywhere, so that borders do not count; whole: the unchanged network "
        "(default: interior)",
    )
    parser.add_argument("--output", type=png, metavar="PNG", help="draw the errors and shares of all modules to a file")
    parser.add_argument(
        "--all", action="store_true", help="show every module (default: only up to the first that break)"
    )


def _explain(args: Namespace) -> int:
    if args.image and not Path(args.image).is_file():
        raise UserError(f"there is no image {args.image}")
    if args.output:
        require("matplotlib")
    found = subject(args)
    import torch

    from stillpoint.core.base.device import pick
    from stillpoint.core.base.randomness import generator
    from stillpoint.core.evaluation.explain import explain

    if args.image:
        x = picture(args.image, found)[0][None]
    else:
        x = torch.randn(4, found.channels, found.size, found.size, generator=generator("explain"))
    with fits(found):
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
        if every or whole or (first is not None and broken <= 3) or row is result.worst:
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
            tell(f"the largest share of the error, {worst.share:.0%}, comes from {worst.name} ({worst.type})")
        tell(result.remedy)
    if result.left_out:
        tell(f"left out: {', '.join(f'{count} {why}' for why, count in result.left_out.items())}")


COMMANDS = {
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
        pairs="MODEL.FILTER_SIZE 5",
    ),
}
