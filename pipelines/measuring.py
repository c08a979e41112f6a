"""Measuring weights as a run's, without touching the run: to see whether numbers that are kept come out again."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.runs.layout import Run

if TYPE_CHECKING:
    from stillpoint.core.config.schema import RunConfig

#: evaluations that a sample is measured by, where a run has them: the numbers that pages are about, in few passes
SAMPLED = ("accuracy", "circular", "windows", "crop")
#: digits that stand in for the images of a data set, so that a test can measure every entry anywhere
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
    """What metrics.json would hold of `weights` as a trained run of `config`; no run's folder is touched."""
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
    """`config`, measured as `evaluate` (a dumped EVALUATE section) says, but not before training."""
    from stillpoint.core.config.schema import validate

    section = {**evaluate, "UNTRAINED": False, **settings}
    return validate(pipelines.paper(config.pipeline).schema(), {**config.dump(), "EVALUATE": section})


def shortened(config: "RunConfig", evaluate: dict[str, Any], images: int) -> "RunConfig":
    """The settings by which a run is measured again on at most so many test images.

    Accuracy and the consistencies of core's shifts; a network that does not classify, by its own evaluations.
    """
    from stillpoint.core.config.schema import validate

    named = trained_alone(config, evaluate).evaluate.metrics
    chosen = [name for name in named if name in SAMPLED] if "accuracy" in named else list(named)
    settings = trained_alone(config, evaluate, METRICS=chosen).dump()
    settings["DATA"]["LIMIT"] = min(images, config.data.limit or images)
    return validate(pipelines.paper(config.pipeline).schema(), settings)


def write_stand_in(config: "RunConfig", root: Path) -> Path:
    """Makes `root` a root of data whose test images of the configuration's data set are `DIGITS` digits in its form.

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
    few = digits.evenly(DIGITS)
    margin = (entry.size - info("digits").size) // 2
    pixels = pad(few.images, (margin,) * 4).expand(-1, entry.channels, -1, -1).contiguous()
    classes = tuple(str(number) for number in range(entry.num_classes))
    found = Decoded(f"digits in the form of {entry.title}", classes, {"test": (pixels.numpy(), few.labels.numpy())})
    stored.write(dataset(entry.name), root, found)
    return root


def on_digits(config: "RunConfig", weights: Path, device: str, threads: int | None) -> dict[str, float]:
    """The numbers of `weights` on the digits that stand in for its data set; none where they cannot."""
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
