"""Makes entries of the board from the files of runs. No other module of the board reads a results folder."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillpoint.core.base.documents import read_json
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.merge import read_settings
from stillpoint.core.config.schema import beside
from stillpoint.core.reporting.reading import dataset_title, read_maps, read_metrics
from stillpoint.core.runs import layout
from stillpoint.core.runs.layout import Run
from stillpoint.core.runs.records import read_history
from stillpoint.pipelines.board.catalogue import LINES
from stillpoint.pipelines.board.entries import Entry, Example, Seed, cost_of, protocol_of
from stillpoint.pipelines.paper import HERE

if TYPE_CHECKING:
    import numpy as np


def kept_board(recipe: str) -> Path:
    """The file of the board made from the kept runs of a recipe; ``stillpoint pages`` writes it."""
    return layout.page("board", recipe, "board.json", HERE.parent / layout.KEPT)


def entry_of(model: str, runs: list[Run]) -> Entry:
    """The entry of a network from its evaluated runs, one for each seed."""
    found = [read_metrics(run) for run in runs]
    line, first = LINES[model], runs[0]
    maps = [read_maps(run.maps) for run in runs]
    costs = [cost_beside(run) for run in runs if run.beside.is_file()]
    return Entry(
        name=model,
        method=line.method,
        stem=line.stem,
        padding=line.padding,
        training=line.training,
        promise=line.promise,
        network=f"{first.pipeline}/{model}",
        source=line.source,
        dataset=dataset_title(found[0]),
        images=found[0]["provenance"]["data_digest"],
        count=found[0]["images"],
        recipe=first.recipe,
        protocol=protocol_of(found[0]["evaluate"]),
        settings=settings_of(first),
        command=commands(first, [run.seed for run in runs]),
        cost=cost_of(costs) if len(costs) == len(runs) else {},
        seeds=[_seed(run, metrics) for run, metrics in zip(runs, found, strict=True)],
        map=mean_map(maps),
        example=next((example for one in maps if (example := example_of(one)) is not None), None),
    )


def cost_beside(run: Run) -> dict[str, float]:
    """The cost of a run's network, from its ``beside.json``; a `UserError` for a damaged one."""
    remedy = "evaluate the run again"
    found = read_json(run.beside, remedy=remedy, of=dict).get("cost")
    if not isinstance(found, dict) or any(
        isinstance(v, bool) or not isinstance(v, int | float) for v in found.values()
    ):
        raise UserError(f"{run.beside} holds no costs: {remedy}")
    return found


def settings_of(run: Run) -> dict[str, Any]:
    """The settings of a run that differ from the defaults."""
    from stillpoint.pipelines.board.config import Config

    settings = beside(read_settings(run.config), Config().dump())
    return {key: value for key, value in settings.items() if key not in ("GRID", "SEEDS", "SEED", "TITLE", "EVALUATE")}


def commands(run: Run, seeds: list[int]) -> list[str]:
    """The shell commands that reproduce an entry."""
    of_seeds = " ".join(map(str, seeds))
    train = f"stillpoint train {run.pipeline}/{run.model} --recipe {run.recipe} --seed $seed"
    return [
        f"for seed in {of_seeds}; do",
        f"  {train}",
        f"  stillpoint evaluate results/{run.pipeline}/{run.recipe}/{run.model}/seed$seed",
        "done",
    ]


def _seed(run: Run, metrics: dict[str, Any]) -> Seed:
    origin = metrics["provenance"]
    rows = read_history(run.history)
    return Seed(
        seed=run.seed,
        commit=origin.get("commit"),
        clean=origin.get("clean"),
        weights=origin["weights_digest"],
        metrics={key: _short(value) for key, value in metrics["trained"].items()},
        history=[(_short(row["epoch"] or 0), _known(row["train_loss"]), _known(row["train_accuracy"])) for row in rows],
    )


def _short(value: float) -> float:
    """Rounded to nine digits, more than an interval needs, so that files stay small."""
    return float(f"{value:.9g}")


def _known(value: float | None) -> float | None:
    return None if value is None else _short(value)


def mean_map(maps: "list[dict[str, np.ndarray]]") -> list[list[float]] | None:
    """The share of images that keep their class at every circular shift, mean over seeds, three digits; None unless all
    seeds have it."""
    found = [one["trained/all_shifts_consistency_map"] for one in maps if "trained/all_shifts_consistency_map" in one]
    if not found or len(found) < len(maps):
        return None
    import numpy as np

    mean = np.mean([one.astype(np.float64) for one in found], 0)
    # a share below 1 must not be rounded to 1
    return [[1.0 if value == 1 else min(round(float(value), 3), 0.999) for value in row] for row in mean]


def example_of(maps: "dict[str, np.ndarray]") -> Example | None:
    """The image that is misclassified after a shift; None if there is none."""
    numbers, image = maps.get("trained/worst_shift_example"), maps.get("trained/worst_shift_example_image")
    if numbers is None or image is None:
        return None
    number, rows, columns, label, given = (int(value) for value in numbers)
    return Example(image=number, shift=(rows, columns), label=label, given=given, picture=png(image))


def png(image: "np.ndarray") -> str:
    """A normalised image (C, H, W), stretched to the full range of pixels, as PNG in base64."""
    import numpy as np
    from PIL import Image

    low, high = float(image.min()), float(image.max())
    pixels = ((image - low) / max(high - low, 1e-12) * 255).round().astype(np.uint8)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()
