"""The command ``board``: the board's page, and entries of users' own networks."""

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillpoint.core.base.errors import UserError
from stillpoint.pipelines.commands.base import Command, add_device, reported, tell

if TYPE_CHECKING:
    from torch import nn

    from stillpoint.core.config.schema import RunConfig


def _options(parser: ArgumentParser) -> None:
    inner = parser.add_subparsers(dest="what", metavar="page|add|check", required=True)
    page = inner.add_parser(
        "page", help="write the kept board, with entries of your own, as one page", allow_abbrev=False
    )
    page.add_argument("--recipe", default="digits", metavar="NAME", help="the board's recipe (default: digits)")
    page.add_argument(
        "entries", nargs="*", type=Path, metavar="ENTRY", help="files of more entries, or of a whole board"
    )
    page.add_argument(
        "-o", "--output", type=Path, default=Path("board.html"), metavar="FILE", help="the page (default: board.html)"
    )
    add = inner.add_parser("add", help="measure your own network and show it among the others", allow_abbrev=False)
    _of_network(add)
    add.add_argument("--name", metavar="NAME", help="the entry's name (default: the function's)")
    add.add_argument("--method", default="", metavar="WORDS", help="the method, as the page shows it")
    add.add_argument("--padding", default="", metavar="WORDS", help="the padding, as the page shows it")
    add.add_argument("--training", default="", metavar="WORDS", help="the training images, as the page shows them")
    add.add_argument(
        "--promise",
        choices=("none", "whole", "any"),
        default="none",
        help="circular shifts to which the logits are promised invariant: whole pixels, any amount, or none (default)",
    )
    add.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("board"),
        metavar="DIR",
        help="folder of entry and page (default: board)",
    )
    check = inner.add_parser("check", help="check that weights reproduce the numbers of an entry", allow_abbrev=False)
    check.add_argument("entry", type=Path, help="a file that `board add` wrote")
    _of_network(check, model="--model")
    check.add_argument(
        "--seed", type=int, metavar="N", help="the seed of the entry to compare with (default: the first)"
    )


def _of_network(parser: ArgumentParser, model: str = "model") -> None:
    said = "MODULE:FUNCTION or FILE.py:FUNCTION that builds the network"
    more = " (default: the entry's)" if model.startswith("-") else ", without its weights"
    parser.add_argument(model, metavar="MODULE:FUNCTION", help=said + more)
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="safetensors, or a torch file of tensors (required)"
    )
    if not model.startswith("-"):
        parser.add_argument("--recipe", default="digits", metavar="NAME", help="the board's recipe (default: digits)")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder of the data (default: $STILLPOINT_DATA, or data)"
    )
    add_device(parser)


def _run(args: Namespace) -> int:
    return {"page": _page, "add": _add, "check": _check}[args.what](args)


def _tool(name: str) -> "Callable[..., Any]":
    from stillpoint import pipelines

    return pipelines.paper("board").tool(name)


def _page(args: Namespace) -> int:
    _config(args.recipe)
    count = _tool("page")(args.recipe, args.entries, args.output)
    tell(f"written: {args.output} ({count} entries)")
    return 0


def _config(recipe: str) -> "RunConfig":
    from stillpoint import pipelines

    return pipelines.configure(f"board/{next(iter(pipelines.models('board')))}", recipe)


def _add(args: Namespace) -> int:
    config, name = _config(args.recipe), args.name or args.model.rpartition(":")[2]
    about = {
        **{"name": name, "method": args.method or args.model, "padding": args.padding, "training": args.training},
        **{"promise": args.promise, "network": args.model, "recipe": args.recipe},
    }
    # a taken name is refused before the network is built and measured for minutes
    _tool("free")(about, args.output)
    net, digest = _network(args.model, args.weights)
    words = ["stillpoint", "board", "add", args.model, "--weights", Path(args.weights).name, "--recipe", args.recipe]
    about["command"] = [shlex.join([*words, "--name", name])]
    with reported(f"measuring {name}") as progress:
        paths = _tool("add")(net, digest, config, about, args.output, args.data, args, progress)
    tell(f"written: {', '.join(map(str, paths))}")
    return 0


def _check(args: Namespace) -> int:
    entry, _ = _tool("read")(args.entry, args.seed)
    config = _config(entry.recipe)
    net, digest = _network(args.model or entry.network, args.weights)
    with reported(f"measuring {args.model or entry.network}") as progress:
        count = _tool("check")(args.entry, args.seed, net, digest, config, args.data, args, progress)
    tell(f"{args.entry}: its weights reproduce its {count} numbers")
    return 0


def _network(words: str, weights: str) -> "tuple[nn.Module, str]":
    """A user's network with its weights, in eval mode, and the digest of all its tensors."""
    from stillpoint.core.runs.checkpoint import load_weights
    from stillpoint.core.runs.provenance import tensors_digest
    from stillpoint.pipelines.commands.foreign import of_user

    if words.startswith("board/"):
        raise UserError(f"{words} is a network of this project: measure its run with stillpoint evaluate FOLDER")
    net = of_user(words)
    load_weights(net, weights)
    return net.eval(), tensors_digest(net.state_dict())


COMMANDS = {
    "board": Command(
        "compare all methods on one page, add your own network",
        _options,
        _run,
        (
            "stillpoint board page -o board.html",
            "stillpoint board add mynet.py:build --weights w.pth --recipe digits --name mine",
            "stillpoint board check board/mine.json --weights w.pth",
        ),
    ),
}
