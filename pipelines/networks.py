"""Looks up, configures, builds and loads every network of every paper by name.

Papers are imported on demand, and torch only when a network is built.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillpoint.core.base.errors import UserError, closest, nearest
from stillpoint.core.config.catalogue import DATASETS, takes
from stillpoint.core.runs import layout
from stillpoint.pipelines.extras import naming_extras
from stillpoint.pipelines.paper import HERE, ModelEntry, Paper
from stillpoint.pipelines.papers import PAPERS

if TYPE_CHECKING:
    from torch import nn

    from stillpoint.core.config.schema import RunConfig
    from stillpoint.core.runs.layout import Run

#: folder of the kept runs, with their cards and some of their weights
KEPT = HERE.parent / layout.KEPT


def kept_root() -> Path:
    """The folder of the kept runs, relative to the working directory if it is below it."""
    return KEPT.relative_to(Path.cwd()) if KEPT.is_relative_to(Path.cwd()) else KEPT


def papers() -> list[str]:
    """Names of all papers."""
    return list(PAPERS)


@cache
def paper(name: str) -> Paper:
    """The paper of that name; `UserError` for an unknown one."""
    if name not in PAPERS:
        raise UserError(f"unknown pipeline {name!r}{nearest(name, list(PAPERS))}; choose from {', '.join(PAPERS)}")
    return import_module(f"stillpoint.pipelines.{name}").PAPER


@cache
def models(name: str) -> dict[str, ModelEntry]:
    """The networks of one paper by name; `UserError` for an unknown paper."""
    return paper(name).models()


def names(pattern: str = "*") -> list[str]:
    """Full names (``paper/model``) that match a shell pattern.

    Examples:
        >>> stillpoint.names("lps/resnet20*_ddac3")
        ['lps/resnet20_lps_ddac3']
    """
    return [full for own in PAPERS for name in models(own) if fnmatchcase(full := f"{own}/{name}", pattern)]


def entry(name: str) -> tuple[str, ModelEntry]:
    """(paper, entry) of a full name; `UserError` with the nearest names for an unknown one."""
    own, slash, model = name.partition("/")
    if not slash:
        raise UserError(f"a network must be named pipeline/model, not {name!r}{_full_names(name)}")
    known = models(own)
    if model not in known:
        raise UserError(f"unknown network {name!r}{nearest(name, names(f'{own}/*'))} (see: stillpoint list '{own}/*')")
    return own, known[model]


def _full_names(model: str) -> str:
    """A clause with the full names of networks called `model` or similarly; "" if there is none."""
    full: dict[str, list[str]] = {}
    for name in names():
        full.setdefault(name.partition("/")[2], []).append(name)
    close = [model] if model in full else closest(model, full)
    return f"; nearest: {', '.join(name for like in close for name in full[like])}" if close else ""


def configure(name: str, recipe: str = "digits", pairs: list[str] | None = None, seed: int = 0) -> RunConfig:
    """The resolved configuration of a network under a recipe, overridden by `pairs` (``KEY VALUE ...``)."""
    from stillpoint.core.config.merge import merge, read_recipe

    own, model = entry(name)
    schema = paper(own).schema()
    given = read_recipe(paper(own).recipe_file(recipe), schema)
    named = {"PIPELINE": own, "RECIPE": recipe, "SEED": seed, "MODEL": {"NAME": model.name, **model.settings}}
    named |= model.sections
    for key, value in zip((pairs or [])[0::2], (pairs or [])[1::2], strict=False):
        fixed = {"PIPELINE": own, "RECIPE": recipe, "MODEL.NAME": model.name}.get(key.upper(), value)
        if value != fixed:
            raise UserError(f"{key} is {fixed}, from the command's network and recipe, and cannot be set to {value}")
    config = merge(schema, [given, named], pairs)
    if not takes(model.datasets, config.data.name):
        made_for = ", ".join(model.datasets) or "classes"
        raise UserError(f"{name} does not support {config.data.name}, only {made_for}")
    return config


def recipe_config(name: str, recipe: str, pairs: list[str] | None = None) -> RunConfig:
    """A paper's recipe without a network: its grid, title, data and schedules."""
    from stillpoint.core.config.merge import merge, read_recipe

    schema = paper(name).schema()
    given = read_recipe(paper(name).recipe_file(recipe), schema)
    return merge(schema, [given, {"PIPELINE": name, "RECIPE": recipe}], pairs)


def without_recipe(name: str, dataset: str, pairs: list[str] | None = None, seed: int = 0) -> RunConfig:
    """The configuration of a network for a data set, without a recipe: for building, not training."""
    own, model = entry(name)
    from stillpoint.core.config.merge import merge

    if dataset not in DATASETS:
        raise UserError(f"unknown data set {dataset!r}: choose from {', '.join(DATASETS)}")
    layer = {
        "PIPELINE": own,
        "SEED": seed,
        "DATA": {"NAME": dataset},
        "MODEL": {"NAME": model.name, **model.settings},
        # nothing is measured, and the default metrics do not fit every network
        "EVALUATE": {"METRICS": []},
    }
    return merge(paper(own).schema(), [layer], pairs)


def departures(run: Run, pairs: list[str]) -> list[str]:
    """The settings in which a run differs from its recipe with `pairs`, as ``KEY: stored -> asked``."""
    from stillpoint.core.runs import claim

    if not run.config.is_file() or run.model not in models(run.pipeline):
        return []
    return claim.departures(run, configure(f"{run.pipeline}/{run.model}", run.recipe, pairs, run.seed))


def build(config: RunConfig) -> nn.Module:
    """The network of a configuration, initialised from its seed."""
    return paper(config.pipeline).network(config)


@naming_extras()
def create(name: str, *, dataset: str | None = None, seed: int = 0, **settings: Any) -> nn.Module:
    """Creates an untrained network of a paper: ``create("aps/resnet18_aps3", dataset="cifar10", filter_size=5)``.

    `dataset` decides its form (stem, channels, classes): by default ImageNet, or the first that the network supports.
    `settings` are keys of the MODEL section in lower case. `UserError` for a data set that the network does not
    support.

    Examples:
        >>> net = stillpoint.create("aps/resnet20_aps1", dataset="cifar10", width=0.25)
        >>> net(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    made_for = entry(name)[1].datasets
    dataset = dataset or ("imagenet" if not made_for or "imagenet" in made_for else made_for[0])
    if dataset in DATASETS and not takes(made_for, dataset):
        raise UserError(f"{name} does not support {dataset}, only {', '.join(made_for) or 'classes'}")
    pairs = [text for key, value in settings.items() for text in (f"MODEL.{key.upper()}", str(value))]
    return build(without_recipe(name, dataset, pairs, seed))


@naming_extras()
def pretrained(name: str, *, recipe: str | None = None, seed: int | None = None) -> nn.Module:
    """Loads a network with its kept weights, in eval mode: ``pretrained("aps/resnet20_aps3")``.

    ``dvc pull`` fetches the weights; the card beside them, ``runs/.../card.md``, describes them. `recipe` and `seed`
    choose if several are kept. `UserError` if there are none.
    """
    from stillpoint.core.config.merge import read_settings
    from stillpoint.core.config.schema import validate
    from stillpoint.core.runs import cards
    from stillpoint.core.runs.checkpoint import load_weights

    own, _ = entry(name)
    run = cards.find(KEPT, name, recipe, seed)
    net = build(validate(paper(own).schema(), read_settings(run.config)))
    load_weights(net, cards.weights(run), model=name)
    return net.eval()
