"""What the Snakefiles ask: which recipe, which runs, which files, which commands. Torch-free, for speed.

A rule sees only the files and parameters that it names. So each rule carries as a parameter a digest of the code that
decides its result: the modules that it imports, found by following their imports, without comments and docstrings.
An edit of a blur trains again what uses it; an edit of a docstring or of a figure trains nothing again.
"""

import ast
import hashlib
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import digest, digest_of
from stillpoint.core.config import evaluations
from stillpoint.core.config.catalogue import data_root
from stillpoint.core.config.merge import merge, read_recipe
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.runs import layout
from stillpoint.pipelines import results

ROOT = Path(__file__).resolve().parents[1]
#: The command line of this very Python, whether or not its folder is on the PATH.
STILLPOINT = f"{shlex.quote(sys.executable)} -m stillpoint"
#: What decides a result, beside the pipeline's own files; the imports of these are followed.
ENTRIES = {
    "train": ["core/training/train.py"],
    "evaluate": ["core/evaluation/run.py", *(f"core/evaluation/{name}.py" for name in evaluations.FILES)],
    "table": ["core/reporting/tables.py", "pipelines/commands/results.py"],
    "figures": ["core/reporting/tables.py", "core/reporting/figures.py", "pipelines/commands/results.py"],
}


class WorkflowConfig(BaseModel):
    """``config.yaml`` and snakemake's ``--config``: what a whole workflow is asked to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = Field("digits", description="a data set, or the name of a recipe such as cifar10_crop")
    scale: str = Field("demo", description="the recipe is <dataset>_<scale> where there is one, otherwise <dataset>")
    seeds: int | None = Field(None, ge=1, description="seeds 0..seeds-1 of every network; none: what the recipe says")
    results: str = Field("results", description="folder of all results")
    data: str = Field("", description="folder of the data; empty: the environment's STILLPOINT_DATA, or data")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    threads: int = Field(1, ge=1, description="threads of one training or evaluation")
    workers: int = Field(0, ge=0, description="processes that read photographs, of one training or evaluation")
    settings: str = Field("", description="KEY VALUE pairs laid over the recipe, as on the command line")


def read(config: dict[str, Any]) -> WorkflowConfig:
    """A validated workflow configuration; a `UserError` that names the first wrong key."""
    try:
        # snakemake's --config reads numbers as numbers: settings=5 is then an int that should be text
        return WorkflowConfig.model_validate({k: v for k, v in config.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = ", ".join(WorkflowConfig.model_fields)
        extra = f": one of {known}" if first["type"] == "extra_forbidden" else f" (given: {first['input']!r})"
        raise UserError(f"--config {key}: {first['msg']}{extra}") from None


def recipes(paper: str) -> list[str]:
    """Names of a pipeline's recipes."""
    return sorted(path.stem for path in (pipelines.HERE / paper / "configs").glob("*.yaml"))


def choose_recipe(paper: str, dataset: str, scale: str = "") -> str:
    """``<dataset>_<scale>`` where there is such a recipe, otherwise ``<dataset>``; a `UserError` if neither is."""
    pipelines.models(paper)
    known = recipes(paper)
    for name in (f"{dataset}_{scale}", dataset):
        if name in known:
            return name
    raise UserError(f"{paper} has no recipe for {dataset!r}: one of {', '.join(known)}")


def recipe_config(paper: str, recipe: str, pairs: list[str] | None = None) -> RunConfig:
    """A recipe without a network: its grid, title, data and schedules."""
    form = pipelines.schema(paper)
    given = read_recipe(pipelines.recipe_path(paper, recipe), form)
    return merge(form, [given, {"PIPELINE": paper, "RECIPE": recipe}], pairs)


@dataclass(frozen=True)
class Plan:
    """One pipeline under one recipe: its runs and the files of each rule, as the Snakefile needs them."""

    paper: str
    settings: WorkflowConfig

    @cached_property
    def recipe(self) -> str:
        return choose_recipe(self.paper, self.settings.dataset, self.settings.scale)

    @cached_property
    def pairs(self) -> list[str]:
        try:
            found = shlex.split(self.settings.settings)
        except ValueError as error:
            raise UserError(f"--config settings: {error} in {self.settings.settings!r}") from None
        for key in found[0::2]:
            if key.upper() in ("SEED", "PIPELINE", "RECIPE", "MODEL.NAME"):
                raise UserError(
                    f"{key} is each run's own: a workflow has seeds (--seeds), a data set, and GRID '[...]'"
                )
        return found

    @cached_property
    def config(self) -> RunConfig:
        return recipe_config(self.paper, self.recipe, self.pairs)

    @property
    def seeds(self) -> int:
        return self.settings.seeds or self.config.seeds

    @property
    def root(self) -> Path:
        return Path(self.settings.results)

    @property
    def folder(self) -> Path:
        return self.root / self.paper / self.recipe

    @property
    def data(self) -> Path:
        return data_root(self.settings.data or None)

    @property
    def marker(self) -> Path:
        """What `prepare` leaves when a data set is ready."""
        return self.data / "prepared" / f"{self.config.data.name}.json"

    @cached_property
    def runs(self) -> list[layout.Run]:
        return [
            layout.Run(self.paper, self.recipe, model, seed, self.root)
            for model in self.config.grid
            for seed in range(self.seeds)
        ]

    @property
    def gpus(self) -> int:
        """1 where jobs share a GPU and so must queue for it (snakemake --resources gpu=1), otherwise 0."""
        return int(self.settings.device.startswith("cuda"))

    def metrics(self) -> list[str]:
        return [str(run.metrics) for run in self.runs]

    def tables(self) -> dict[str, str]:
        return {
            suffix: str(layout.table(self.paper, self.recipe, suffix, self.root))
            for suffix in ("csv", "md", "tex", "json")
        }

    def figures(self) -> dict[str, str]:
        names = results.form(self.paper, self.config).figures
        return {name: str(layout.figure(self.paper, self.recipe, name, self.root)) for name in names}

    def pages(self) -> dict[str, str]:
        names = results.form(self.paper, self.config).pages
        return {name: str(layout.page(self.paper, self.recipe, name, self.root)) for name in names}

    def resolved(self, model: str, seed: int) -> RunConfig:
        return pipelines.configure(f"{self.paper}/{model}", self.recipe, self.pairs, seed)

    def begins_from(self, model: str, seed: int) -> str:
        """The input of a training; a `UserError` where its folder holds one by hand, of other settings.

        Snakemake knows nothing of such a run and would take it for its own. One that a workflow made has ``code.txt``,
        and is made again where `decides` has changed.
        """
        run = layout.Run(self.paper, self.recipe, model, seed, self.root)
        if not run.code.is_file() and (changed := results.departures(run, self.pairs)):
            raise UserError(
                f"{run.folder} holds a run that was trained by hand with other settings ({'; '.join(changed[:4])}): "
                "remove that folder, or keep these results in another one (--results)"
            )
        return str(self.marker)

    def decides(self, stage: str, model: str = "", seed: int = 0) -> str:
        """Digest of what decides a stage's result beside its input files: its code and its settings."""
        if stage in ("table", "figures"):
            content: Any = [self.config.title, list(self.config.grid), digest(published_path(self.paper))]
            code = code_digest((*ENTRIES[stage], f"pipelines/{self.paper}/results.py"))
            return digest_of([content, self.seeds, code])
        config = self.resolved(model, seed)
        measured = config.dump()["EVALUATE"] if stage == "evaluate" else None
        # the catalogue and the schema act through the configuration alone
        own = [f"pipelines/{self.paper}/models.py"]
        # a paper without this module trains and is measured by core alone
        own.append(f"pipelines/{self.paper}/{'training' if stage == 'train' else 'evaluate'}.py")
        return digest_of([config.digest(), measured, code_digest((*ENTRIES[stage], *own))])

    def options(self, *names: str) -> str:
        """Options of the command line that every job of this plan shares."""
        known = {
            "--recipe": self.recipe,
            "--results": str(self.root),
            "--data": str(self.data),
            "--device": self.settings.device,
            "--seeds": str(self.seeds),
            "--workers": str(self.settings.workers or ""),
        }
        return shlex.join(word for name in names if known[name] for word in (name, known[name]))

    @property
    def tail(self) -> str:
        """The KEY VALUE pairs, quoted for a shell."""
        return shlex.join(self.pairs)


def plan(paper: str, config: dict[str, Any]) -> Plan:
    return Plan(paper, read(config))


def refusal(paper: str, config: dict[str, Any]) -> UserError | None:
    """Why a paper cannot do what a workflow is asked to do: it has no recipe for the data, or no such setting."""
    try:
        assert plan(paper, config).config
    except UserError as error:
        return error
    return None


def refuse(error: UserError) -> NoReturn:
    raise error


def published_path(paper: str) -> Path:
    return pipelines.HERE / paper / "published.yaml"


@cache
def code_digest(entries: tuple[str, ...]) -> str:
    """Digest of some modules and what they import of this repository, without comments and docstrings."""
    return digest_of([[str(path), _module(ROOT / path).program] for path in imported(entries)])


class _Module(NamedTuple):
    program: str  # digest of its code without comments and docstrings
    imports: frozenset[str]
    imports_at_top: frozenset[str]  # those outside functions, classes and conditions


@cache
def _module(path: Path) -> _Module:
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree))
    imports, at_top = _imports(nodes), _imports(tree.body)
    for node in nodes:
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            del body[0]
    return _Module(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports, at_top)


def _imports(nodes: Iterable[ast.AST]) -> frozenset[str]:
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(name for name in names if name.split(".")[0] == "stillpoint")


@cache
def imported(entries: tuple[str, ...]) -> tuple[Path, ...]:
    """The repository's files that `entries` import, directly or not, themselves included; relative to the root."""
    waiting, found = [Path(entry) for entry in entries], set()
    while waiting:
        path = waiting.pop()
        if path in found or not (ROOT / path).is_file():
            continue
        found.add(path)
        # a package runs what it imports at its top; what its functions would import is for those who call them
        package = path.name == "__init__.py" and path not in map(Path, entries)
        waiting += [file for name in imports_of(ROOT / path, top=package) for file in module_files(name)]
    return tuple(sorted(found))


def imports_of(path: Path, *, top: bool = False) -> frozenset[str]:
    """Dotted names that a file imports from this repository; ``from a import b`` gives a and a.b.

    Wherever in the file, or only outside functions, classes and conditions with `top`.
    """
    return _module(path).imports_at_top if top else _module(path).imports


@cache
def module_files(name: str) -> tuple[Path, ...]:
    """Files of the repository that the import of a dotted name runs: the module and its parents' ``__init__``."""
    package, *parts = name.split(".")
    if package != "stillpoint" or not parts:
        return ()
    # the files lie in core/ and pipelines/, whatever link leads there
    candidates = [Path(*parts[:depth]) / "__init__.py" for depth in range(1, len(parts) + 1)]
    candidates.append(Path(*parts).with_suffix(".py"))
    return tuple(path for path in candidates if (ROOT / path).is_file())


def snakemake(plan: Plan, jobs: int | None = None) -> list[str]:
    """The call of snakemake that does a plan: what ``snakemake -j4 pipelines/aps/all`` does, as a list of words."""
    cores = str(jobs) if jobs else "all"
    given = {key: str(value) for key, value in plan.settings.model_dump().items() if value not in ("", None)}
    # snakemake strips quotes from both ends of a value, and would leave an open one behind
    given = {key: f"{value} " if value.endswith(("'", '"')) else value for key, value in given.items()}
    # the target comes first: --config would swallow it
    words = [sys.executable, "-m", "snakemake", f"pipelines/{plan.paper}/all", "--cores", cores]
    words += ["--snakefile", str(ROOT / "Snakefile")]
    # snakemake's own lock outlives a snakemake that is killed; `stillpoint run` holds one that does not
    words.append("--nolock")
    if plan.gpus:
        words += ["--resources", "gpu=1"]
    return [*words, "--config", *(f"{key}={value}" for key, value in given.items())]
