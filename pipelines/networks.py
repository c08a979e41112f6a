"""Every network of every paper by its name: found, configured, built, loaded.

A paper is imported only when it is asked for, torch only when a network is made.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from stillpoint.core.base.errors import UserError, closest, nearest
from stillpoint.core.config.catalogue import DATASETS, takes
from stillpoint.pipelines.paper import HERE, ModelEntry, Paper
from stillpoint.pipelines.papers import PAPERS

if TYPE_CHECKING:
    from torch import nn

    from stillpoint.core.config.schema import RunConfig
    from stillpoint.core.runs.layout import Run

#: where pretrained weights and their cards are
PRETRAINED = HERE.parent / "pretrained"


def papers() -> list[str]:
    """Names of all papers."""
    return list(PAPERS)


@cache
def paper(name: str) -> Paper:
    """The paper of that name; a `UserError` for an unknown one."""
    if name not in PAPERS:
        raise UserError(f"unknown pipeline {name!r}: one of {', '.join(PAPERS)}")
    return import_module(f"stillpoint.pipelines.{name}").PAPER


@cache
def models(name: str) -> dict[str, ModelEntry]:
    """The networks of one paper by name; a `UserError` for an unknown paper."""
    return paper(name).models()


def names(pattern: str = "*") -> list[str]:
    """Full names (``paper/model``) that match a shell pattern."""
    return [full for own in PAPERS for name in models(own) if fnmatchcase(full := f"{own}/{name}", pattern)]


def entry(name: str) -> tuple[str, ModelEntry]:
    """(paper, entry) of a full name; a `UserError` that proposes the nearest names when there is none."""
    own, slash, model = name.partition("/")
    if not slash:
        raise UserError(f"a network is named pipeline/model, not {name!r}{_full_names(name)}")
    known = models(own)
    if model not in known:
        raise UserError(f"unknown network {name!r}{nearest(name, names(f'{own}/*'))} (see: stillpoint list '{own}/*')")
    return own, known[model]


def _full_names(model: str) -> str:
    """A clause that proposes the full names of the networks that are called `model`, or nearly so."""
    full: dict[str, list[str]] = {}
    for name in names():
        full.setdefault(name.partition("/")[2], []).append(name)
    close = [model] if model in full else closest(model, full)
    return f"; nearest: {', '.join(name for like in close for name in full[like])}" if close else ""


def configure(name: str, recipe: str = "digits", pairs: list[str] | None = None, seed: int = 0) -> RunConfig:
    """The resolved configuration of a network under a recipe, with `pairs` (``KEY VALUE ...``) laid over it."""
    from stillpoint.core.config.merge import merge, read_recipe

    own, model = entry(name)
    schema = paper(own).schema()
    given = read_recipe(paper(own).recipe_file(recipe), schema)
    named = {"PIPELINE": own, "RECIPE": recipe, "SEED": seed, "MODEL": {"NAME": model.name, **model.settings}}
    named |= model.sections
    for key, value in zip((pairs or [])[0::2], (pairs or [])[1::2], strict=False):
        fixed = {"PIPELINE": own, "RECIPE": recipe, "MODEL.NAME": model.name}.get(key.upper(), value)
        if value != fixed:
            raise UserError(f"{key} is {fixed} and follows from what the command names: name another network or recipe")
    config = merge(schema, [given, named], pairs)
    if not takes(model.datasets, config.data.name):
        made_for = ", ".join(model.datasets) or "classes"
        raise UserError(f"{name} has no form for {config.data.name}: it is made for {made_for}")
    return config


def recipe_config(name: str, recipe: str, pairs: list[str] | None = None) -> RunConfig:
    """A paper's recipe without a network: its grid, title, data and schedules."""
    from stillpoint.core.config.merge import merge, read_recipe

    schema = paper(name).schema()
    given = read_recipe(paper(name).recipe_file(recipe), schema)
    return merge(schema, [given, {"PIPELINE": name, "RECIPE": recipe}], pairs)


def without_recipe(name: str, dataset: str, pairs: list[str] | None = None, seed: int = 0) -> RunConfig:
    """The configuration of a network in the form it has for a data set, without a recipe: to build, not to train."""
    own, model = entry(name)
    from stillpoint.core.config.merge import merge

    if dataset not in DATASETS:
        raise UserError(f"unknown data set {dataset!r}: one of {', '.join(DATASETS)}")
    layer = {
        "PIPELINE": own,
        "SEED": seed,
        "DATA": {"NAME": dataset},
        "MODEL": {"NAME": model.name, **model.settings},
        # nothing is measured, and the defaults are not for every network
        "EVALUATE": {"METRICS": []},
    }
    return merge(paper(own).schema(), [layer], pairs)


def departures(run: Run, pairs: list[str]) -> list[str]:
    """What in a run's folder was trained otherwise than its recipe and `pairs` say, as ``KEY: there -> asked``."""
    from stillpoint.core.runs import claim

    if not run.config.is_file() or run.model not in models(run.pipeline):
        return []
    return claim.departures(run, configure(f"{run.pipeline}/{run.model}", run.recipe, pairs, run.seed))


def build(config: RunConfig) -> nn.Module:
    """The network of a configuration, initialised from its seed."""
    return paper(config.pipeline).network(config)


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

    own, _ = entry(name)
    card, path = cards.read(PRETRAINED, name), cards.weights(PRETRAINED, name)
    net = build(validate(paper(own).schema(), card["config"]))
    load_weights(net, path, model=name)
    return net.eval()
