"""The commands list, show-config and prepare, which compute nothing."""

from argparse import ArgumentParser, Namespace

from stillpoint import pipelines
from stillpoint.pipelines.commands.base import (
    Command,
    add_json,
    add_recipe,
    configured,
    console,
    print_json,
    remove_left,
    reported,
    tell,
)


def _list_options(parser: ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="a shell pattern, such as 'aps/*_aps3' (default: all)")
    add_json(parser)


def _list(args: Namespace) -> int:
    from stillpoint.core.base.errors import UserError, nearest

    found = pipelines.names(args.pattern)
    if not found:
        names = pipelines.names()
        papers = {f"{name.partition('/')[0]}/*" for name in names}
        close = nearest(args.pattern, [*sorted(papers), *names])
        raise UserError(f"no network matches {args.pattern!r}{close} (see: stillpoint list)")
    rows = [(name, pipelines.entry(name)[1]) for name in found]
    if args.json:
        print_json(
            [
                {"name": name, "settings": model.settings, "datasets": list(model.datasets), "source": model.source}
                for name, model in rows
            ]
        )
        return 0
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for name in ("network", "settings", "data sets", "source"):
        table.add_column(name, overflow="fold")
    for name, model in rows:
        settings = " ".join(f"{key} {value}" for key, value in model.settings.items())
        table.add_row(name, settings, ", ".join(model.datasets) or "all", model.source)
    console().print(table)
    return 0


def _show_config_options(parser: ArgumentParser) -> None:
    parser.add_argument("network", help="pipeline/model, such as aps/resnet18_aps3")
    add_recipe(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of the configuration instead")
    add_json(parser)


def _show_config(args: Namespace) -> int:
    if args.schema:
        from stillpoint.core.config.schema import json_schema

        print_json(json_schema(pipelines.paper(pipelines.entry(args.network)[0]).schema()))
        return 0
    config = configured(args.network, args, args.seed)
    if args.json:
        print_json(config.dump())
    else:
        import yaml

        print(yaml.safe_dump(config.dump(), sort_keys=False), end="")
    return 0


def _prepare_options(parser: ArgumentParser) -> None:
    parser.add_argument("dataset", help="a data set of the registry, such as cifar10")
    parser.add_argument(
        "--root", "--data", dest="data", metavar="DIR", help="folder of the data (default: $STILLPOINT_DATA, or data)"
    )
    parser.add_argument(
        "--links", action="store_true", help="imagenet: link photographs symbolically instead of copying them"
    )


def _prepare(args: Namespace) -> int:
    from stillpoint.core.config.catalogue import data_root, info

    info(args.dataset)  # an unknown name is reported before torch is imported
    root = data_root(args.data)
    remove_left(root / "prepared", *root.glob("*-C"))
    from stillpoint.core.base.documents import read_json
    from stillpoint.core.data.datasets import prepare

    with reported() as progress:
        marker = prepare(args.dataset, args.data, progress=progress, links=args.links)
    found = read_json(marker, remedy="prepare the data set again", of=dict)
    counts = ", ".join(f"{count} {part}" for part, count in found.get("images", {}).items())
    tell(f"{found['title']} is ready ({counts}): {marker}")
    if "incomplete" in found:
        tell(f"but {found['incomplete']}")
    return 0


COMMANDS = {
    "list": Command(
        "list the networks of all papers by name",
        _list_options,
        _list,
        ("stillpoint list", "stillpoint list 'aps/*_aps3'", "stillpoint list 'aps/resnet20*' --json"),
    ),
    "show-config": Command(
        "print a run's resolved configuration",
        _show_config_options,
        _show_config,
        (
            "stillpoint show-config aps/resnet20_aps1",
            "stillpoint show-config aps/resnet18_aps3 --recipe cifar10 MODEL.FILTER_SIZE 5",
            "stillpoint show-config aps/resnet18_aps3 --recipe cifar10_crop --json",
        ),
        takes_pairs=True,
        pairs="MODEL.FILTER_SIZE 5",
    ),
    "prepare": Command(
        "check and decode a data set, once",
        _prepare_options,
        _prepare,
        (
            "stillpoint prepare digits",
            "stillpoint prepare cifar10 --root /big/disk/data",
            "stillpoint prepare imagenet --links",
        ),
    ),
}
