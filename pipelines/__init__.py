"""Creates or loads any network of any paper by name.

    import stillpoint
    net = stillpoint.create("aps/resnet18_aps3", dataset="cifar10")
    stillpoint.names("aps/*lpf3")

A paper is a folder of its name (see `stillpoint.pipelines.paper`), imported on demand; torch is imported only when a
network is built.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from stillpoint.pipelines.extras import naming_extras
from stillpoint.pipelines.networks import (
    build,
    configure,
    create,
    departures,
    entry,
    models,
    names,
    paper,
    papers,
    pretrained,
    recipe_config,
    without_recipe,
)
from stillpoint.pipelines.paper import HERE, ModelEntry, Paper

if TYPE_CHECKING:
    from stillpoint.pipelines.loading import LoadedRun

__all__ = [
    "HERE",
    "ModelEntry",
    "Paper",
    "build",
    "configure",
    "create",
    "departures",
    "entry",
    "load",
    "models",
    "names",
    "paper",
    "papers",
    "pretrained",
    "recipe_config",
    "without_recipe",
]


@naming_extras()
def load(
    name: str, *, recipe: str | None = None, seed: int = 0, status: str = "weights", results: str | Path = "results"
) -> "LoadedRun":
    """Loads a trained run: ``load("wavelet_twins/R34wyC", recipe="cifar10", status="e300").net``.

    `status` is "weights", "checkpoint", "best" or "e<N>". Returns a `stillpoint.pipelines.loading.LoadedRun`: ``net``
    (on the CPU, in eval mode), ``config``, ``epoch``, ``history``, ``losses``. `UserError` if there is no such run.
    """
    from stillpoint.pipelines.loading import load_run

    return load_run(name, recipe=recipe, seed=seed, status=status, results=results)
