"""The work of ``stillpoint board``: the page with submitted entries, and entries of users' own networks.

The command parses the options and builds the network.
"""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillpoint.core.base.documents import read_json
from stillpoint.core.base.errors import UserError, checked
from stillpoint.core.base.files import json_text, write_atomic, write_together
from stillpoint.pipelines.board.entries import Entry, disagreements, made, parsed, protocol_of, read_entries, together
from stillpoint.pipelines.board.gather import example_of, kept_board, mean_map
from stillpoint.pipelines.board.page import html

if TYPE_CHECKING:
    from torch import nn

    from stillpoint.core.config.schema import RunConfig

Progress = Callable[[str, int, int], None]


def kept(recipe: str) -> list[Entry]:
    """The entries made from the kept runs of a recipe; empty if there are none."""
    path = kept_board(recipe)
    return read_entries(path) if path.is_file() else []


def page(recipe: str, files: list[Path], output: Path) -> int:
    """Writes the page of the kept board and further entries to `output`; returns the number of entries."""
    entries = together([*kept(recipe), *(entry for path in files for entry in read_entries(path))])
    if not entries:
        raise UserError(
            f"no board of the recipe {recipe} is kept, and no file was given, such as the board.json of stillpoint run"
        )
    write_atomic(output, html(entries))
    return len(entries)


def free(about: dict[str, str], output: Path) -> None:
    """Checks the name and labels of an entry before its network is measured; a `UserError` if invalid or taken."""
    name, path = about["name"], output / f"{about['name']}.json"
    empty = "0" * 64
    made({**about, "dataset": "", "images": empty, "count": 1, "protocol": {}, "seeds": [_seed(0, empty, {})]}, name)
    if path.exists():
        raise UserError(f"{path} already exists: give this entry another name (--name), or remove that file")
    if any(name == entry.name for entry in (*kept(about["recipe"]), *_others(output))):
        raise UserError(f"the board already has an entry {name!r}: give this one another name (--name)")


def add(
    net: "nn.Module",
    digest: str,
    config: "RunConfig",
    about: dict[str, Any],
    output: Path,
    data: Path | None,
    args: Namespace,
    progress: Progress,
) -> list[Path]:
    """Measures a network, writes its entry and the board with it; returns both paths."""
    free({key: about[key] for key in about if key != "command"}, output)
    others = [*kept(config.recipe), *_others(output)]
    # refuses other images and another protocol before minutes of measuring
    together([*others, made({**about, **frame(config, data), "seeds": [_seed(0, digest, {})]}, about["name"])])
    entry = made({**about, **frame(config, data), **measured(net, digest, config, data, args, progress)}, about["name"])
    path, page = output / f"{entry.name}.json", output / "board.html"
    write_together({path: json_text(entry.stored()), page: html(together([*others, entry]))})
    return [path, page]


def _others(output: Path) -> list[Entry]:
    return [entry for other in sorted(output.glob("*.json")) for entry in read_entries(other)]


def _seed(seed: int, weights: str, metrics: dict[str, Any]) -> dict[str, Any]:
    return {"seed": seed, "weights": weights, "metrics": metrics}


def frame(config: "RunConfig", data: Path | None) -> dict[str, Any]:
    """The fields of an entry that describe its images and protocol."""
    from stillpoint.core.data.build import images

    found = images(config, "test", data)
    assert found is not None, "every data set has a test part"
    protocol = protocol_of(config.dump()["EVALUATE"])
    return {"dataset": found.title, "images": found.digest, "count": len(found), "protocol": protocol}


def measured(
    net: "nn.Module", digest: str, config: "RunConfig", data: Path | None, args: Namespace, progress: Progress
) -> dict[str, Any]:
    """Measures a network by the protocol of a recipe; returns the measured fields of an entry."""
    from torch import Tensor

    from stillpoint.core.base.device import pick, settings
    from stillpoint.core.config.catalogue import info
    from stillpoint.core.data.build import loader
    from stillpoint.core.evaluation.engine import Predictor, one_pass
    from stillpoint.core.evaluation.registry import EVALUATIONS
    from stillpoint.pipelines.board.config import Model
    from stillpoint.pipelines.board.cost import beside, network

    where, entry = pick(args.device), info(config.data.name)
    with settings(where, args.threads):
        asked = config.evaluate
        batches = loader(config, "test", data, where, batch_size=asked.batch_size, margin=asked.margin)
        assert batches is not None, "every data set has a test part"
        with checked():
            predict = Predictor(net.to(where), labels=batches.image_set.labels)
            found = one_pass(predict, batches, asked, config.seed, EVALUATIONS, progress, data)
        shape = (entry.channels, entry.size, entry.size)
        assert isinstance(config.model, Model)
        cost = beside(net.to("cpu"), network(config, config.model), shape, entry.num_classes)
    maps = {f"trained/{name}": value.cpu().numpy() for name, value in found.items() if isinstance(value, Tensor)}
    example = example_of(maps)
    metrics = {name: value for name, value in found.items() if not isinstance(value, Tensor)}
    return {
        "cost": cost,
        "seeds": [_seed(config.seed, digest, metrics)],
        "map": mean_map([maps]),
        "example": None if example is None else example.model_dump(),
    }


def read(path: Path, seed: int | None) -> tuple[Entry, int]:
    """(the entry of a file, the position of `seed` among its seeds); None means the first seed."""
    entry = parsed(read_json(path, remedy="it is not a file of the board", of=dict), str(path))
    seeds = [one.seed for one in entry.seeds]
    if seed is not None and seed not in seeds:
        raise UserError(f"{path} has no seed {seed}: it has {', '.join(map(str, seeds))}")
    return entry, 0 if seed is None else seeds.index(seed)


def check(
    path: Path,
    seed: int | None,
    net: "nn.Module",
    digest: str,
    config: "RunConfig",
    data: Path | None,
    args: Namespace,
    progress: Progress,
) -> int:
    """Measures an entry's weights again; returns how many numbers agree, or raises a `UserError` if one does not."""
    entry, place = read(path, seed)
    chosen = entry.seeds[place]
    if digest != chosen.weights:
        raise UserError(
            f"{path} was measured with other weights: these have digest {digest[:12]}, not {chosen.weights[:12]}"
        )
    if any(getattr(entry, key) != value for key, value in frame(config, data).items() if key in ("images", "protocol")):
        raise UserError(
            f"{path} was measured on other images or by another protocol than the recipe {entry.recipe} has now"
        )
    found = measured(net, digest, config, data, args, progress)
    if wrong := disagreements(chosen.metrics, found["seeds"][0]["metrics"]):
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"{path} is refused: measuring its weights again gave {'; '.join(wrong[:3])}{more}")
    return len(chosen.metrics)
