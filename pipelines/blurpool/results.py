"""The paper's results: figures of consistency, diagonal sweep and feature distance, and its ImageNet tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stillpoint.core.base.errors import UserError
from stillpoint.core.reporting.columns import Column, arranged
from stillpoint.core.reporting.reading import read_maps
from stillpoint.pipelines.blurpool import pages
from stillpoint.pipelines.results import Figure, Needs, Page, Results, Shown, consistency_accuracy, learning_curves

if TYPE_CHECKING:
    import numpy as np

    from stillpoint.core.config.schema import RunConfig
    from stillpoint.core.runs.layout import Run

COLUMNS = arranged(
    "accuracy",
    "accuracy_top5",
    Column("windows_consistency", "consistency of windows"),
    "circular_consistency",
    Column("diagonal_stability", "stability along the diagonal"),
    Column("diagonal_always_right", "right along the whole diagonal"),
    without=("circular_max_logit_change",),
)
AXES = ("accuracy", "windows_consistency")
SHOWN = 6  # number of networks with their own panel


def diagonal(results: Results, path: Path) -> None:
    """Draws the probability of the true class along the diagonal, per family the plain network and its filters."""
    from stillpoint.pipelines.blurpool import figures

    curves = {model: _arrays(own, "trained/diagonal_probability") for model, own in results.runs.items()}
    held = {model: found for model, found in curves.items() if found}
    if not held:
        raise UserError(f"{path.name} needs the evaluation diagonal: add it to EVALUATE.METRICS")
    figures.diagonal({model: found[0] for model, found in held.items()}, path, title=_first_seed(results))


def feature_distance(results: Results, path: Path) -> None:
    """Draws maps of the feature distance of up to `SHOWN` networks, each with its first seed."""
    from stillpoint.pipelines.blurpool import figures

    maps = {model: _distances(own[0]) for model, own in results.runs.items()}
    held = {model: found for model, found in maps.items() if found}
    if not held:
        raise UserError(f"{path.name} needs the evaluation feature_distance: add it to EVALUATE.METRICS")
    figures.feature_distance(_contrasts(held), path, title=_first_seed(results))


def _first_seed(results: Results) -> str:
    first = next(iter(results.runs.values()))[0]
    return f"{results.table.title}, seed {first.seed}"


def _arrays(runs: Sequence["Run"], name: str) -> list["np.ndarray"]:
    found = [read_maps(run.maps) for run in runs]
    return [maps[name] for maps in found if name in maps]


def _distances(run: "Run") -> dict[str, "np.ndarray"]:
    """Layer -> map, in the order of the network's layers."""
    start = "trained/feature_distance_map:"
    maps = read_maps(run.maps)
    named = sorted(name.removeprefix(start) for name in maps if name.startswith(start))
    return {name.split(":", 1)[1]: maps[start + name] for name in named}


def _contrasts(maps: Mapping[str, Mapping[str, "np.ndarray"]]) -> dict[str, Mapping[str, "np.ndarray"]]:
    """The first network (the plain one) and the last (the longest filter) of as many families as fit."""
    families: dict[str, list[str]] = {}
    for model in maps:
        families.setdefault(model.partition("_lpf")[0], []).append(model)
    chosen = [model for own in families.values() for model in dict.fromkeys((own[0], own[-1]))]
    return {model: maps[model] for model in chosen[:SHOWN]}


FIGURES = {
    "consistency_accuracy": Figure(consistency_accuracy),
    "learning_curves": Figure(learning_curves),
    "diagonal": Figure(diagonal, Needs("diagonal")),
    "feature_distance": Figure(feature_distance, Needs("feature_distance")),
}
PAGES = {
    "from_scratch.md": Page(pages.from_scratch, Needs(recipes=pages.FROM_SCRATCH), reads=pages.FROM_SCRATCH),
    "finetuned.md": Page(pages.finetuned, Needs(recipes=pages.FINETUNED), reads=pages.FINETUNED),
}


def shown(config: "RunConfig") -> Shown:
    return Shown(COLUMNS, AXES, FIGURES, PAGES)
