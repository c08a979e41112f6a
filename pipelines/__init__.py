"""The door: every network of every paper by name, made or loaded in one line.

    import stillpoint
    net = stillpoint.create("aps/resnet18_aps3", dataset="cifar10")
    stillpoint.names("aps/*lpf3")

Papers are the folders beside this file; one is imported only when asked for, torch only when a network is made.
A paper's folder offers ``catalogue.models()`` (torch-free), ``config.Config`` (the schema) and ``models.build``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillpoint.core.base.errors import UserError, closest, nearest
from stillpoint.core.config.catalogue import DATASETS, takes

if TYPE_CHECKING:
    from torch import nn

    from stillpoint.core.config.schema import RunConfig
    from stillpoint.core.runs.layout import Run
    from stillpoint.pipelines.loading import LoadedRun

HERE = Path(__file__).resolve().parent
#: where pretrained weights and their cards are
PRETRAINED = HERE.parent / "pretrained"


@dataclass(frozen=True)
class ModelEntry:
    """A network that a paper names.

    name      the paper's own name, without the pipeline's
    settings  what it sets in the MODEL section of the configuration
    source    where the paper (or its code) states it: paper, section or table, row
    datasets  the data sets whose form it has; empty: all
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    datasets: tuple[str, ...] = ()


def papers() -> list[str]:
    """Names of all pipelines: the folders beside this file that hold a catalogue."""
    return sorted(path.parent.name for path in HERE.glob("*/catalogue.py"))


@cache
def models(paper: str) -> dict[str, ModelEntry]:
    """The networks of one paper by name; a `UserError` for an unknown paper."""
    if paper not in papers():
        raise UserError(f"unknown pipeline {paper!r}: one of {', '.join(papers())}")
    return import_module(f"stillpoint.pipelines.{paper}.catalogue").models()


def names(pattern: str = "*") -> list[str]:
    """Full names (``paper/model``) that match a shell pattern."""
    return [full for paper in papers() for name in models(paper) if fnmatchcase(full := f"{paper}/{name}", pattern)]


def entry(name: str) -> tuple[str, ModelEntry]:
    """(paper, entry) of a full name; a `UserError` that proposes the nearest names when there is none."""
    paper, slash, model = name.partition("/")
    if not slash:
        raise UserError(f"a network is named pipeline/model, not {name!r}{_full_names(name)}")
    known = models(paper)
    if model not in known:
        raise UserError(
            f"unknown network {name!r}{nearest(name, names(f'{paper}/*'))} (see: stillpoint list '{paper}/*')"
        )
    return paper, known[model]


def _full_names(model: str) -> str:
    """A clause that proposes the full names of the networks that are called `model`, or nearly so."""
    full: dict[str, list[str]] = {}
    for name in names():
        full.setdefault(name.partition("/")[2], []).append(name)
    close = [model] if model in full else closest(model, full)
    return f"; nearest: {', '.join(name for like in close for name in full[like])}" if close else ""


def schema(paper: str) -> type[RunConfig]:
    """The configuration schema of a paper."""
    models(paper)
    return import_module(f"stillpoint.pipelines.{paper}.config").Config


def recipe_path(paper: str, recipe: str) -> Path:
    """The yaml of a recipe; a `UserError` that lists those there are when there is none of that name."""
    path = HERE / paper / "configs" / f"{recipe}.yaml"
    known = sorted(p.stem for p in (HERE / paper / "configs").glob("*.yaml"))
    # a name that leads out of the folder is a file there too
    if recipe not in known:
        raise UserError(f"{paper} has no recipe {recipe!r}: one of {', '.join(known)}")
    return path


def configure(name: str, recipe: str = "digits", pairs: list[str] | None = None, seed: int = 0) -> RunConfig:
    """The resolved configuration of a network under a recipe, with `pairs` (``KEY VALUE ...``) laid over it."""
    from stillpoint.core.config.merge import merge, read_recipe

    paper, model = entry(name)
    form = schema(paper)
    given = read_recipe(recipe_path(paper, recipe), form)
    own = {"PIPELINE": paper, "RECIPE": recipe, "SEED": seed, "MODEL": {"NAME": model.name, **model.settings}}
    for key, value in zip((pairs or [])[0::2], (pairs or [])[1::2], strict=False):
        fixed = {"PIPELINE": paper, "RECIPE": recipe, "MODEL.NAME": model.name}.get(key.upper(), value)
        if value != fixed:
            raise UserError(f"{key} is {fixed} and follows from what the command names: name another network or recipe")
    config = merge(form, [given, own], pairs)
    if not takes(model.datasets, config.data.name):
        made_for = ", ".join(model.datasets) or "classes"
        raise UserError(f"{name} has no form for {config.data.name}: it is made for {made_for}")
    return config


def build(config: RunConfig) -> nn.Module:
    """The network of a configuration, initialised from its seed."""
    import torch

    from stillpoint.core.base.randomness import seed_for

    data = DATASETS[config.data.name]
    size = config.data.image_size or data.size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("init", config.seed))
        return import_module(f"stillpoint.pipelines.{config.pipeline}.models").build(
            config.model, in_channels=data.channels, num_classes=data.num_classes, image_size=size
        )


def evaluations(config: RunConfig) -> Any:
    """The evaluations by name of a configuration's paper (see `evaluation.engine`); None: it has core's alone."""
    if not (HERE / config.pipeline / "evaluate.py").is_file():
        return None
    return import_module(f"stillpoint.pipelines.{config.pipeline}.evaluate").evaluations(config)


def evaluated(config: RunConfig, run: Run) -> None:
    """Does what a configuration's paper does besides with a run that was measured, such as keeping dated scores."""
    if (HERE / config.pipeline / "evaluate.py").is_file():
        after = getattr(import_module(f"stillpoint.pipelines.{config.pipeline}.evaluate"), "evaluated", None)
        if after is not None:
            after(config, run)


def hooks(config: RunConfig) -> Any:
    """What a configuration's paper does besides in training (`training.train.TrainHooks`); None: nothing."""
    if not (HERE / config.pipeline / "training.py").is_file():
        return None
    return import_module(f"stillpoint.pipelines.{config.pipeline}.training").hooks(config)


def create(name: str, *, dataset: str | None = None, seed: int = 0, **settings: Any) -> nn.Module:
    """A network of a paper, untrained: ``create("aps/resnet18_aps3", dataset="cifar10", filter_size=5)``.

    `dataset` decides its form (stem, channels, classes): ImageNet's by default, or the first that the network is made
    for. `settings` are keys of the MODEL section in small letters. `UserError` for a data set that it has no form for.
    """
    made_for = entry(name)[1].datasets
    dataset = dataset or ("imagenet" if not made_for or "imagenet" in made_for else made_for[0])
    if dataset in DATASETS and not takes(made_for, dataset):
        raise UserError(f"{name} has no form for {dataset}: it is made for {', '.join(made_for) or 'classes'}")
    pairs = [text for key, value in settings.items() for text in (f"MODEL.{key.upper()}", str(value))]
    return build(without_recipe(name, dataset, pairs, seed))


def pretrained(name: str) -> nn.Module:
    """A network with its pretrained weights, in eval mode: ``pretrained("aps/resnet20_aps3")``.

    ``dvc pull`` brings them; ``pretrained/<name>.md`` says what they are. `UserError` where there are none.
    """
    from stillpoint.core.config.schema import validate
    from stillpoint.core.runs import cards
    from stillpoint.core.runs.checkpoint import load_weights

    paper, _ = entry(name)
    card, path = cards.read(PRETRAINED, name), cards.weights(PRETRAINED, name)
    net = build(validate(schema(paper), card["config"]))
    load_weights(net, path, model=name)
    return net.eval()


def without_recipe(name: str, dataset: str, pairs: list[str] | None = None, seed: int = 0) -> RunConfig:
    """The configuration of a network in the form it has for a data set, without a recipe: to build, not to train."""
    paper, model = entry(name)
    from stillpoint.core.config.merge import merge

    if dataset not in DATASETS:
        raise UserError(f"unknown data set {dataset!r}: one of {', '.join(DATASETS)}")
    layer = {
        "PIPELINE": paper,
        "SEED": seed,
        "DATA": {"NAME": dataset},
        "MODEL": {"NAME": model.name, **model.settings},
        # nothing is measured, and the defaults are not for every network
        "EVALUATE": {"METRICS": []},
    }
    return merge(schema(paper), [layer], pairs)


def load(
    name: str, *, recipe: str | None = None, seed: int = 0, status: str = "weights", results: str | Path = "results"
) -> LoadedRun:
    """A trained run: ``load("wavelet_twins/R34wyC", recipe="cifar10", status="e300").net`` (see pipelines.loading)."""
    from stillpoint.pipelines.loading import load_run

    return load_run(name, recipe=recipe, seed=seed, status=status, results=results)
