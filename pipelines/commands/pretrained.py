"""Commands for pretrained weights: publish makes an entry of a run; evaluate --pretrained measures one again."""

import math
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.runs import cards
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines import networks
from stillpoint.pipelines.commands.base import Command, add_device, build, console, print_json, run_config, tell

if TYPE_CHECKING:
    from stillpoint.core.config.schema import RunConfig

#: digits that stand in for the images of a data set, so that a test can measure every entry anywhere
SAMPLE = 200


def measured(
    config: "RunConfig", weights: Path, *, data: str | None, device: str, threads: int | None, workers: int = 0
) -> dict[str, Any]:
    """What metrics.json would hold of `weights` as a trained run of `config`; no run's folder is touched."""
    import yaml

    from stillpoint.core.evaluation.run import evaluate_run

    with TemporaryDirectory() as root:
        run = Run(config.pipeline, config.recipe, config.model.name, config.seed, Path(root))
        run.folder.mkdir(parents=True)
        run.config.write_text(yaml.safe_dump(config.dump()))
        run.weights.symlink_to(weights.resolve())
        options: dict[str, Any] = {"data_root": data, "device": device, "threads": threads, "workers": workers}
        own = pipelines.paper(config.pipeline).evaluations(config)
        return evaluate_run(run, config=config, build=build, evaluations=own, **options)


def shortened(config: "RunConfig") -> "RunConfig":
    """The settings by which a card's numbers on digits are measured."""
    from stillpoint.core.config.merge import merge

    # a network that does not classify is measured by its own evaluations
    chosen = ["accuracy", "circular"] if "accuracy" in config.evaluate.metrics else list(config.evaluate.metrics)
    settings = {"EVALUATE.METRICS": chosen, "EVALUATE.REPEATS": 1}
    pairs = [str(word) for pair in settings.items() for word in pair]
    return merge(pipelines.paper(config.pipeline).schema(), [config.dump()], pairs)


def write_stand_in(config: "RunConfig", root: Path) -> Path:
    """Makes `root` a root of data whose test images of the configuration's data set are `SAMPLE` digits in its form.

    Photographs cannot be shipped, and the digits are on every machine. What a network says of them means little, but
    it says the same each time, and its consistency is a real one. `UserError` where images are not held in one file.
    """
    from torch.nn.functional import pad

    from stillpoint.core.config.catalogue import dataset, info
    from stillpoint.core.data import datasets, stored
    from stillpoint.core.data.contract import Decoded
    from stillpoint.core.data.sets import ImageSet

    entry = info(config.data.name)
    if entry.streaming or entry.pairs or entry.label_maps:
        raise UserError(f"no digits can stand in for {entry.title}")
    digits = datasets.load("digits", root, "test")
    assert isinstance(digits, ImageSet)
    few = digits.evenly(SAMPLE)
    margin = (entry.size - info("digits").size) // 2
    pixels = pad(few.images, (margin,) * 4).expand(-1, entry.channels, -1, -1).contiguous()
    classes = tuple(str(number) for number in range(entry.num_classes))
    found = Decoded(f"digits in the form of {entry.title}", classes, {"test": (pixels.numpy(), few.labels.numpy())})
    stored.write(dataset(entry.name), root, found)
    return root


def on_digits(config: "RunConfig", weights: Path, *, device: str, threads: int | None) -> dict[str, float]:
    """The numbers of `weights` on the digits that stand in for its data set."""
    with TemporaryDirectory() as place:
        root = str(write_stand_in(config, Path(place)))
        return _numbers(measured(shortened(config), weights, data=root, device=device, threads=threads)["trained"])


def probe(name: str, config: "RunConfig", weights: Path) -> list[float]:
    """What a network says of two pictures of noise: tells other weights or another network where there are no data."""
    import torch

    from stillpoint.core.base.randomness import generator
    from stillpoint.core.config.catalogue import info
    from stillpoint.core.data.build import image_size
    from stillpoint.core.runs.checkpoint import load_weights

    net = pipelines.build(config).eval()
    load_weights(net, weights, model=name)
    size = image_size(config)
    noise = torch.randn(2, info(config.data.name).channels, size, size, generator=generator("card", name))
    with torch.no_grad():
        return [round(value, 6) for value in net(noise).flatten()[:40].tolist()]


def of_card(card: dict[str, Any], *, untrained: bool = False) -> "RunConfig":
    """The configuration that a card's network was trained and measured with."""
    from stillpoint.core.config.schema import validate

    settings = {**card["config"], "EVALUATE": {**card["config"]["EVALUATE"], "UNTRAINED": untrained}}
    return validate(pipelines.paper(card["config"]["PIPELINE"]).schema(), settings)


def _publish_options(form: ArgumentParser) -> None:
    form.add_argument("folder", help="the folder of a run that has finished training")
    form.add_argument("--full", action="store_true", help="keep all in float32 (default: kernels and matrices halved)")
    form.add_argument("--data", metavar="DIR", help="folder of the data (default: $STILLPOINT_DATA, or data)")
    form.add_argument("--to", type=Path, metavar="DIR", default=networks.PRETRAINED, help="folder of the entries")
    add_device(form)


def _publish(args: Namespace) -> int:
    run = Run.of(args.folder)
    config = of_card({"config": run_config(run, []).dump()})
    if not run.training.is_file():
        raise UserError(f"{run.folder} has not finished training: a network on the way is no pretrained one")
    from stillpoint.core.reporting.reading import read_training
    from stillpoint.core.runs.checkpoint import read_tensors, save_weights

    training = read_training(run)

    tensors, about = read_tensors(run.weights)
    name = f"{run.pipeline}/{run.model}"
    options: dict[str, Any] = {"data": args.data, "device": args.device, "threads": args.threads}
    before = measured(config, run.weights, **options)
    path = cards.weights_path(args.to, name)
    stored = tensors if args.full else cards.halved(tensors)
    keys = "config_digest", "epoch", "dataset", "seed"
    if absent := [key for key in keys if key not in about]:
        raise UserError(f"{run.weights} does not say its {absent[0]}, so it was not left by a training: train it again")
    kept = {key: about[key] for key in keys}
    precision = "float32" if args.full else "float16 (kernels and matrices), float32 (the rest)"
    save_weights(path, stored, model=name, precision=precision, **kept)
    after = before if args.full else measured(config, path, **options)
    if lost := cards.changed(before["trained"], after["trained"]):
        path.unlink()
        raise UserError(f"half precision costs too much ({'; '.join(lost)}): publish with --full")
    card = {
        "model": name,
        "source": pipelines.entry(name)[1].source,
        "dataset": after["dataset"],
        "data_digest": after["provenance"]["data_digest"],
        "recipe": run.recipe,
        "seed": run.seed,
        "epoch": about["epoch"],
        "parameters": after["parameters"],
        "precision": precision,
        "images": after["images"],
        "metrics": _numbers(after["trained"]),
        "before_rounding": _numbers(before["trained"]),
        "on_digits": on_digits(config, path, device=args.device, threads=args.threads),
        "probe": probe(name, config, path),
        "training": {key: training[key] for key in ("commit", "clean", "torch", "python", "device", "seconds")},
        "config": config.dump(),
    }
    cards.write(args.to, card)
    tell(f"written: {path} ({path.stat().st_size:,} bytes) and its card; next: dvc add {path}")
    return 0


def _numbers(found: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in found.items() if isinstance(value, int | float) and math.isfinite(value)}


def evaluate_pretrained(args: Namespace) -> int:
    """``stillpoint evaluate <pipeline>/<model> --pretrained``: the card's numbers, measured again; 1 if they differ."""
    name = args.folder
    pipelines.entry(name)
    if args.recipe or args.pairs or args.status != "weights":
        raise UserError("--pretrained measures as the card says: leave out --recipe, --status and KEY VALUE pairs")
    card = cards.read(networks.PRETRAINED, name)
    weights = cards.weights(networks.PRETRAINED, name)
    options: dict[str, Any] = {"data": args.data, "device": args.device, "threads": args.threads}
    found = measured(of_card(card), weights, workers=args.workers, **options)
    if found["provenance"]["data_digest"] != card["data_digest"]:
        said = f"these are other images of {found['dataset']} than the card's: its numbers need not come out"
        print(f"stillpoint: {said}", file=sys.stderr)
    differing = cards.changed(card["metrics"], found["trained"])
    if args.json:
        print_json({**found, "card": card["metrics"], "differing": differing})
    else:
        from rich.table import Table

        grid = Table("metric", "card", "now", title=f"{name}, {card['dataset']}", title_justify="left")
        for key, value in card["metrics"].items():
            grid.add_row(key.replace("_", " "), f"{value:.6g}", f"{found['trained'].get(key, math.nan):.6g}")
        console().print(grid)
        tell("; ".join(differing) if differing else "the card's numbers came out again")
    return int(bool(differing))


COMMANDS = {
    "publish": Command(
        "make pretrained weights and a card of a finished run",
        _publish_options,
        _publish,
        (
            "stillpoint publish results/aps/cifar10/resnet20_aps3/seed0",
            "stillpoint publish results/translations/fashion_mnist/TwoFullNet/seed0 --full",
        ),
    ),
}
