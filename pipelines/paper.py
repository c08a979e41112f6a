"""The interface of a paper: one object with everything that core, the commands and the workflow need of it.

A paper is a folder and its name in `stillpoint.pipelines.papers`. The folder's ``__init__`` derives from `Paper` and
ends with ``PAPER = <its class>()``; beside it are ``configs/<recipe>.yaml`` and, if the paper states numbers,
``published.yaml``. ``_template`` is the minimal paper. Everything else in the folder is private to the paper.

Networks and recipes are listed without torch and pydantic: a method imports what it needs when called. A paper imports
core, this file and `stillpoint.pipelines.results`, nothing else of the pipelines.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stillpoint.core.base.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stillpoint.core.config.schema import EvaluateConfig, ModelConfig, RunConfig
    from stillpoint.core.evaluation.registry import Evaluation
    from stillpoint.core.reporting.published import Published
    from stillpoint.core.runs.layout import Run
    from stillpoint.core.training.train import TrainHooks
    from stillpoint.pipelines.results import Shown

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class ModelEntry:
    """A named network of a paper.

    name      the paper's own name, without the pipeline's
    settings  its values in the MODEL section of the configuration
    source    where the paper (or its code) states it: paper, section or table, row
    datasets  the data sets that it supports; empty: all
    sections  its values in other sections, such as AUGMENT, where its training differs from the recipe
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    datasets: tuple[str, ...] = ()
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)


class Paper:
    """One paper. `models` and `build` must be defined; everything else defaults to core's behaviour."""

    #: stage -> files of the folder that decide its result, besides core's; their imports are followed, and missing
    #: files are skipped. Catalogue and schema act only through the configuration.
    code: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "train": ("models.py", "training.py"),
        "evaluate": ("models.py", "evaluate.py"),
        "table": ("results.py",),
        "figures": ("results.py",),
    }

    @property
    def name(self) -> str:
        """The paper's name, which is its folder's."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def folder(self) -> Path:
        return Path(str(sys.modules[type(self).__module__].__file__)).resolve().parent

    def models(self) -> dict[str, ModelEntry]:
        """The networks by name; without torch and pydantic, so that `stillpoint list` is fast."""
        raise NotImplementedError

    def build(self, model: Any, *, in_channels: int, num_classes: int, image_size: int) -> "nn.Module":
        """The network of a MODEL section, for square images (in_channels, image_size, image_size).

        torch is seeded before the call, so that its draws are a function of the run's seed. Raises ValueError for an
        impossible section.
        """
        raise NotImplementedError

    def schema(self) -> "type[RunConfig]":
        """The configuration's schema, whose MODEL section has the options of this paper's networks.

        Default: core's, for networks without options.
        """
        from stillpoint.core.config.schema import RunConfig

        return RunConfig

    def evaluations(self, config: "RunConfig") -> "Mapping[str, Callable[[EvaluateConfig, int], Evaluation]] | None":
        """The evaluations by name, including core's, for a configuration's EVALUATE.PROTOCOL; default: core's only."""
        return None

    def measured(self, config: "RunConfig", run: "Run") -> None:
        """Called after a run was measured and its files written, to store more. Default: nothing."""

    def hooks(self, config: "RunConfig") -> "TrainHooks | None":
        """What the paper adds to training: a penalty, a record, a starting point. Default: nothing."""
        return None

    def translated(self, tensors: "dict[str, Tensor]", net: "nn.Module") -> "dict[str, Tensor]":
        """The authors' checkpoint under the names of `net`; `UserError` for another network's. Default: unchanged."""
        return tensors

    def shown(self, config: "RunConfig") -> "Shown":
        """Columns, axes, figures, pages and notes for a recipe's results. Default: core's columns and figures."""
        from stillpoint.pipelines.results import Shown

        return Shown()

    @cached_property
    def published(self) -> "Published":
        """The authors' numbers and weights, from ``published.yaml``; empty without the file, `UserError` if invalid."""
        from stillpoint.core.reporting.published import read_published

        return read_published(self.published_file)

    def tool(self, name: str) -> "Callable[..., Any]":
        """The function `name` for a command of the paper's own. Default: `UserError`, since there is none."""
        raise UserError(f"{self.name} has no command of its own that calls {name}")

    # the rest follows from the above; papers do not override it

    @property
    def published_file(self) -> Path:
        return self.folder / "published.yaml"

    def recipes(self) -> list[str]:
        """Names of the recipes, the files ``configs/<recipe>.yaml``."""
        return sorted(path.stem for path in (self.folder / "configs").glob("*.yaml"))

    def recipe_file(self, recipe: str) -> Path:
        """The yaml of a recipe; `UserError` with the recipes for an unknown one."""
        known = self.recipes()
        if recipe not in known:
            close = nearest(recipe, known)
            raise UserError(f"{self.name} has no recipe {recipe!r}{close}; choose from {', '.join(known)}")
        return self.folder / "configs" / f"{recipe}.yaml"

    def caption(self, name: str) -> Path:
        """The caption of a figure or table in the workflow's report: the paper's ``report/<name>.rst``, or core's."""
        own = self.folder / "report" / f"{name}.rst"
        return own if own.is_file() else HERE / "report" / f"{name}.rst"

    def network(self, config: "RunConfig") -> "nn.Module":
        """The network of a configuration, initialised from its seed."""
        import torch

        from stillpoint.core.base.randomness import seed_for
        from stillpoint.core.config.catalogue import DATASETS

        data = DATASETS[config.data.name]
        shape = {"in_channels": data.channels, "num_classes": data.num_classes}
        model: ModelConfig = config.model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for("init", config.seed))
            return self.build(model, image_size=config.data.image_size or data.size, **shape)

    def trained(self, run: "Run") -> "nn.Module":
        """The network of a run with its weights, in eval mode."""
        from stillpoint.core.config.merge import merge, read_recipe
        from stillpoint.core.runs.checkpoint import load_weights

        schema = self.schema()
        net = self.network(merge(schema, [read_recipe(run.config, schema)]))
        load_weights(net, run.weights, model=f"{run.pipeline}/{run.model}")
        return net.eval()
