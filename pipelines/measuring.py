"""Measures weights like a run's, without touching the run, to check that kept numbers are reproduced."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.runs.layout import Run

if TYPE_CHECKING:
    from stillpoint.core.config.schema import RunConfig

#: evaluations of a sample, if a run has them: the main numbers of pages, in few passes
SAMPLED = ("accuracy", "circular", "windows", "crop")
#: number of digits that stand in for the images of a data set, so that tests can measure every entry anywhere
DIGITS = 200


def numbers(found: dict[str, Any]) -> dict[str, float]:
    """The finite numbers of a metrics.json's state."""
    return {key: value for key, value in found.items() if isinstance(value, int | float) and math.isfinite(value)}


def measured(
    config: "RunConfig",
    weights: Path,
    *,
    data: str | None,
    device: str,
    threads: int | None,
    workers: int = 0,
) -> dict[str, Any]:
    """The content of metrics.json for `weights` as those of a trained run of `config`; touches no run's folder."""
    import yaml

    with TemporaryDirectory() as root:
        run = Run(config.pipeline, config.recipe, config.model.name, config.seed, Path(root))
        run.folder.mkdir(parents=True)
        run.config.write_text(yaml.safe_dump(config.dump()))
        run.weights.symlink_to(weights.resolve())
        return measured_in(run, config, data=data, device=device, threads=threads, workers=workers)


def measured_in(
    run: Run,
    config: "RunConfig",
    *,
    data: str | None,
    device: str,
    threads: int | None,
    workers: int = 0,
    code: str = "",
) -> dict[str, Any]:
    """Measures the weights in the folder of `run`, as ``stillpoint evaluate`` does."""
    from stillpoint.core.evaluation.run import evaluate_run

    own = pipelines.paper(config.pipeline)
    options: dict[str, Any] = {"data_root": data, "device": device, "threads": threads, "workers": workers}
    after = {"after": lambda place: own.measured(config, place)} if code else {}
    options |= {"code": code, **after}
    return evaluate_run(run, config=config, build=pipelines.build, evaluations=own.evaluations(config), **options)


def trained_alone(config: "RunConfig", evaluate: dict[str, Any], **settings: Any) -> "RunConfig":
    """`config` with the EVALUATE section `evaluate` (dumped) and `settings`, but without the untrained network."""
    from stillpoint.core.config.schema import validate

    section = {**evaluate, "UNTRAINED": False, **settings}
    return validate(pipelines.paper(config.pipeline).schema(), {**config.dump(), "EVALUATE": section})


def shortened(config: "RunConfig", evaluate: dict[str, Any], images: int) -> "RunConfig":
    """The configuration for measuring a run again on at most `images` test images.

    It measures accuracy and the consistencies of core's shifts; a network that does not classify, by its own
    evaluations.
    """
    from stillpoint.core.config.schema import validate

    named = trained_alone(config, evaluate).evaluate.metrics
    chosen = [name for name in named if name in SAMPLED] if "accuracy" in named else list(named)
    settings = trained_alone(config, evaluate, METRICS=chosen).dump()
    settings["DATA"]["LIMIT"] = min(images, config.data.limit or images)
    return validate(pipelines.paper(config.pipeline).schema(), settings)


def write_stand_in(config: "RunConfig", root: Path) -> Path:
    """Makes `root` a data root whose test images, for the configuration's data set, are `DIGITS` digits in its form.

    Photographs cannot be shipped, while the digits are on every machine. A network's answers to them mean little, but
    are reproducible, and their consistency is genuine. `UserError` for data sets that stream, or have pairs or label
    maps.
    """
    from torch.nn.functional import pad

    from stillpoint.core.config.catalogue import dataset, info
    from stillpoint.core.data import datasets, stored
    from stillpoint.core.data.contract import Decoded
    from stillpoint.core.data.sets import ImageSet

    entry = info(config.data.name)
    if entry.streaming or entry.pairs or entry.label_maps:
        raise UserError(f"digits cannot stand in for {entry.title}, which is not a set of labelled images in memory")
    digits = datasets.load("digits", root, "test")
    assert isinstance(digits, ImageSet)
    few = digits.evenly(DIGITS)
    margin = (entry.size - info("digits").size) // 2
    pixels = pad(few.images, (margin,) * 4).expand(-1, entry.channels, -1, -1).contiguous()
    classes = tuple(str(number) for number in range(entry.num_classes))
    found = Decoded(f"digits in the form of {entry.title}", classes, {"test": (pixels.numpy(), few.labels.numpy())})
    stored.write(dataset(entry.name), root, found)
    return root


def on_digits(config: "RunConfig", weights: Path, device: str, threads: int | None) -> dict[str, float]:
    """The numbers of `weights` on digits that stand in for its data set; {} if they cannot."""
    from stillpoint.core.config.catalogue import info

    entry = info(config.data.name)
    if entry.streaming or entry.pairs or entry.label_maps:
        return {}
    chosen = {"METRICS": ["accuracy", "circular"], "REPEATS": 1}
    few = trained_alone(config, config.dump()["EVALUATE"], **chosen)
    with TemporaryDirectory() as place:
        root = str(write_stand_in(config, Path(place)))
        return numbers(measured(few, weights, data=root, device=device, threads=threads)["trained"])


def probe(name: str, config: "RunConfig", weights: Path) -> list[float]:
    """The first 40 outputs for two images of noise, which identify a network and its weights without any data."""
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
