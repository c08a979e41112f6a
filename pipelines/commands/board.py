"""``board``: the board as a page, and networks of one's own on it."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillpoint.core.base.errors import UserError
from stillpoint.pipelines.commands.base import Command, add_device, tell

if TYPE_CHECKING:
    from torch import nn

    from stillpoint.pipelines.board.entries import Entry


def _options(form: ArgumentParser) -> None:
    inner = form.add_subparsers(dest="what", metavar="page|add|check", required=True)
    page = inner.add_parser("page", help="write the kept board, with further entries, as one page", allow_abbrev=False)
    page.add_argument("--recipe", default="digits", metavar="NAME", help="of the board (default: digits)")
    page.add_argument("entries", nargs="*", type=Path, metavar="ENTRY", help="files of further entries, or of a board")
    page.add_argument(
        "-o", "--output", type=Path, default=Path("board.html"), metavar="FILE", help="default: board.html"
    )
    add = inner.add_parser(
        "add", help="measure a network of one's own and show it among the others", allow_abbrev=False
    )
    _of_network(add)
    add.add_argument("--name", metavar="NAME", help="of the entry (default: the function's)")
    add.add_argument("--method", default="", metavar="WORDS", help="what it is, as the page says it")
    add.add_argument("--padding", default="", metavar="WORDS", help="how it pads, as the page says it")
    add.add_argument("--training", default="", metavar="WORDS", help="the images that it was trained on")
    add.add_argument(
        "--promise",
        choices=("none", "whole", "any"),
        default="none",
        help="its logits shall not change under whole circular shifts, or under any (default: none)",
    )
    add.add_argument("-o", "--output", type=Path, default=Path("board"), metavar="DIR", help="default: board")
    check = inner.add_parser("check", help="whether weights give the numbers of an entry", allow_abbrev=False)
    check.add_argument("entry", type=Path, help="a file that `board add` wrote")
    _of_network(check, model="--model")
    check.add_argument("--seed", type=int, metavar="N", help="which of its seeds (default: the first)")


def _of_network(form: ArgumentParser, model: str = "model") -> None:
    said = "MODULE:FUNCTION or FILE.py:FUNCTION that builds the network"
    more = " (default: what the entry says)" if model.startswith("-") else ", without its weights"
    form.add_argument(model, metavar="MODULE:FUNCTION", help=said + more)
    form.add_argument("--weights", required=True, metavar="FILE", help="safetensors, or a torch file of tensors")
    if not model.startswith("-"):
        form.add_argument("--recipe", default="digits", metavar="NAME", help="of the board (default: digits)")
    form.add_argument(
        "--data", type=Path, metavar="DIR", help="folder of the data (default: $STILLPOINT_DATA, or data)"
    )
    add_device(form)


def _run(args: Namespace) -> int:
    return {"page": _page, "add": _add, "check": _check}[args.what](args)


def _kept(recipe: str) -> "list[Entry]":
    from stillpoint import pipelines
    from stillpoint.pipelines.board.entries import read_entries
    from stillpoint.pipelines.board.gather import KEPT

    pipelines.paper("board").recipe_file(recipe)
    path = KEPT / f"{recipe}.json"
    return read_entries(path) if path.is_file() else []


def _page(args: Namespace) -> int:
    from stillpoint.core.base.files import write_atomic
    from stillpoint.pipelines.board.entries import read_entries, together
    from stillpoint.pipelines.board.page import html

    further = [entry for path in args.entries for entry in read_entries(path)]
    entries = together([*_kept(args.recipe), *further])
    if not entries:
        raise UserError(f"no board is kept of the recipe {args.recipe}, and no entry was given: stillpoint run board")
    write_atomic(args.output, html(entries))
    tell(f"written: {args.output} ({len(entries)} entries)")
    return 0


def _add(args: Namespace) -> int:
    from stillpoint.core.base.files import json_text, write_together
    from stillpoint.pipelines.board.entries import parsed, read_entries, together
    from stillpoint.pipelines.board.page import html

    name = args.name or args.model.rpartition(":")[2]
    kept, path = _kept(args.recipe), args.output / f"{name}.json"
    if path.exists():
        raise UserError(f"{path} is there already: give this entry another name (--name), or remove that file")
    others = [entry for other in sorted(args.output.glob("*.json")) for entry in read_entries(other)]
    if any(name == entry.name for entry in (*kept, *others)):
        raise UserError(f"the board has an entry {name!r} already: give this one another name (--name)")
    net, digest = _network(args.model, args.weights)
    # the form of an entry is asked before a minute of measuring
    words = {"name": name, "method": args.method or args.model, "padding": args.padding, "training": args.training}
    about = {**words, "promise": args.promise, "network": args.model, "recipe": args.recipe}
    _probed(about)
    found = _measured(net, digest, args.recipe, args.data, args.device, args.threads)
    command = (
        f"stillpoint board add {args.model} --weights {Path(args.weights).name} --recipe {args.recipe} --name {name}"
    )
    content = {**about, **found, "command": [command]}
    entry = parsed(_with_digest(content), name)
    entries = together([*kept, *others, entry])
    page = args.output / "board.html"
    write_together({path: json_text(entry.stored()), page: html(entries)})
    tell(f"written: {path}, {page} ({len(entries)} entries)")
    return 0


def _with_digest(content: dict[str, Any]) -> dict[str, Any]:
    from pydantic import ValidationError

    from stillpoint.pipelines.board.entries import Entry

    try:
        return Entry.model_validate(content).stored()
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}") from None


def _probed(about: dict[str, Any]) -> None:
    """A `UserError` for words that no entry may hold."""
    empty = "0" * 64
    seed = {"seed": 0, "weights": empty, "metrics": {}}
    _with_digest({**about, "dataset": "", "images": empty, "count": 1, "protocol": {}, "seeds": [seed]})


def _network(words: str, weights: str) -> "tuple[nn.Module, str]":
    """A network that somebody wrote with its weights, in evaluation mode, and the digest of all its tensors."""
    from stillpoint.core.runs.checkpoint import load_weights
    from stillpoint.core.runs.provenance import tensors_digest
    from stillpoint.pipelines import networks
    from stillpoint.pipelines.commands.foreign import of_user

    if words.startswith("board/"):
        raise UserError(f"{words} is of the house, and its settings are needed too: stillpoint evaluate <folder>")
    net = of_user(words)
    load_weights(net, weights)
    assert networks  # the data sets are known once the pipelines are
    return net.eval(), tensors_digest(net.state_dict())


def _measured(
    net: "nn.Module", digest: str, recipe: str, data: Path | None, device: str, threads: int | None
) -> dict[str, Any]:
    """What the board's protocol says of a network: the parts of an entry that are measured."""
    from torch import Tensor

    from stillpoint import pipelines
    from stillpoint.core.base.device import pick, settings
    from stillpoint.core.base.errors import checked
    from stillpoint.core.config.catalogue import info
    from stillpoint.core.data.build import loader
    from stillpoint.core.evaluation.engine import Predictor, one_pass
    from stillpoint.core.evaluation.registry import EVALUATIONS
    from stillpoint.pipelines.board.catalogue import BASE
    from stillpoint.pipelines.board.cost import beside
    from stillpoint.pipelines.board.entries import protocol_of
    from stillpoint.pipelines.board.gather import example_of, mean_map

    config = pipelines.configure(f"board/{BASE}", recipe)
    where, entry = pick(device), info(config.data.name)
    with settings(where, threads):
        batches = loader(config, "test", data, where, batch_size=config.evaluate.batch_size)
        assert batches is not None, "every data set has a test part"
        with _bars() as progress, checked():
            predict = Predictor(net.to(where), channels_last=config.train.channels_last)
            found = one_pass(predict, batches, config.evaluate, config.seed, EVALUATIONS, progress, data)
        shape = (entry.channels, entry.size, entry.size)
        cost = beside(net.to("cpu"), pipelines.build(config), shape, entry.num_classes)
    maps = {f"trained/{name}": value.cpu().numpy() for name, value in found.items() if isinstance(value, Tensor)}
    example = example_of(maps)
    metrics = {name: value for name, value in found.items() if not isinstance(value, Tensor)}
    return {
        "dataset": batches.image_set.title,
        "images": batches.image_set.digest,
        "count": len(batches.image_set),
        "protocol": protocol_of(config.dump()["EVALUATE"]),
        "cost": cost,
        "seeds": [{"seed": config.seed, "weights": digest, "metrics": metrics}],
        "map": mean_map([maps]),
        "example": None if example is None else example.model_dump(),
    }


class _bars:
    """Bars over what takes long."""

    def __enter__(self) -> Any:
        from stillpoint.pipelines.commands.base import bars, console

        self.shown = bars(shown=console().is_terminal)
        self.shown.__enter__()
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = self.shown.add_task(what)
            self.shown.update(tasks[what], completed=done, total=total or None)

        return progress

    def __exit__(self, *error: Any) -> None:
        self.shown.__exit__(*error)


def _check(args: Namespace) -> int:
    from stillpoint.core.base.documents import read_json
    from stillpoint.pipelines.board.entries import disagreements, parsed

    entry = parsed(read_json(args.entry, remedy="it is no file of the board", of=dict), str(args.entry))
    seeds = {seed.seed: seed for seed in entry.seeds}
    chosen = seeds.get(entry.seeds[0].seed if args.seed is None else args.seed)
    if chosen is None:
        raise UserError(f"{args.entry} has no seed {args.seed}: it has {', '.join(map(str, seeds))}")
    net, digest = _network(args.model or entry.network, args.weights)
    if digest != chosen.weights:
        raise UserError(
            f"{args.entry} was not measured of these weights: their digest is {digest[:12]}, not {chosen.weights[:12]}"
        )
    found = _measured(net, digest, entry.recipe, args.data, args.device, args.threads)
    if found["images"] != entry.images or found["protocol"] != entry.protocol:
        raise UserError(
            f"{args.entry} was measured on other images or by another protocol than the recipe {entry.recipe} says now"
        )
    if wrong := disagreements(chosen.metrics, found["seeds"][0]["metrics"]):
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"{args.entry} is refused: its weights give {'; '.join(wrong[:3])}{more}")
    tell(f"{args.entry}: its weights give its {len(chosen.metrics)} numbers")
    return 0


COMMANDS = {
    "board": Command(
        "write the board as one page, and put a network of one's own on it",
        _options,
        _run,
        (
            "stillpoint board page -o board.html",
            "stillpoint board add mynet.py:build --weights w.pth --recipe digits --name mine",
            "stillpoint board check board/mine.json --weights w.pth",
        ),
    ),
}
