"""What the Snakefiles ask: which recipe, which runs, which files, which commands. Torch-free, for speed.

A rule sees only the files and parameters that it names. So each rule carries as a parameter a digest of the code, the
settings and the raw data that decide its result. Where one has changed, Snakemake calls the command once more, and the
command, which holds the run's lock, decides what is really made anew (stillpoint.core.runs.claim).
"""

import atexit
import os
import shlex
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import digest, digest_of, write_json
from stillpoint.core.base.interrupt import locked
from stillpoint.core.config import evaluations
from stillpoint.core.config.catalogue import data_root, dataset
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.reporting.reading import found_runs
from stillpoint.core.reporting.tables import table_files
from stillpoint.core.runs import claim, layout
from stillpoint.pipelines.code_digest import ROOT, code_digest
from stillpoint.pipelines.papers import PAPERS
from stillpoint.pipelines.results import Shown, shown_by

#: The command line of this very Python, whether or not its folder is on the PATH.
STILLPOINT = f"{shlex.quote(sys.executable)} -m stillpoint"
#: What the shell of every job knows: `logged LOG WORDS...` runs a command of ours and shows its last lines if it fails.
SHELL = (
    f'set -euo pipefail; logged() {{ local log=$1; shift; {STILLPOINT} "$@" > "$log" 2>&1 || '
    '{ local code=$?; tail -n 20 "$log" >&2; exit "$code"; }; }; '
)
#: Set for the snakemake that `stillpoint run` calls: the folder that it holds the lock of.
HOLDS = "STILLPOINT_HOLDS"
#: What decides a result beside a paper's own files (`stillpoint.pipelines.paper.Paper.code`); the imports are followed.
ENTRIES: dict[str, tuple[str, ...]] = {
    "train": ("core/training/train.py",),
    "evaluate": ("core/evaluation/run.py", *(f"core/evaluation/{name}.py" for name in evaluations.FILES)),
    "table": ("core/reporting/tables.py", "pipelines/commands/results.py"),
    "figures": ("core/reporting/tables.py", "core/reporting/figures.py", "pipelines/commands/results.py"),
}


def entries(stage: str, paper: str, data: str = "") -> tuple[str, ...]:
    """The files, relative to the repository's root, whose code decides a stage of a paper on the data set `data`."""
    own = pipelines.paper(paper).code[stage]
    # the catalogue imports a data set's module by its name, which no import statement shows
    read = (f"core/data/sources/{data}.py",) if data else ()
    return (*ENTRIES[stage], *(f"pipelines/{paper}/{name}" for name in own), *read)


def stage_code(stage: str, paper: str, data: str = "") -> str:
    """Digest of the code that decides a stage of a paper on the data set `data`."""
    return code_digest(entries(stage, paper, data))


class WorkflowConfig(BaseModel):
    """``config.yaml`` and snakemake's ``--config``: what a whole workflow is asked to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = Field("digits", description="a recipe by its name: the data set's, or <data set>_<variant>")
    seeds: int | None = Field(None, ge=1, description="seeds 0..seeds-1 of every network; none: what the recipe says")
    results: str = Field("results", min_length=1, description="folder of all results")
    data: str = Field("", description="folder of the data; empty: the environment's STILLPOINT_DATA, or data")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    threads: int = Field(1, ge=1, description="threads of one training or evaluation")
    workers: int = Field(0, ge=0, description="processes that read photographs, of one training or evaluation")
    settings: str = Field("", description="KEY VALUE pairs laid over the recipe, as on the command line")


def read(config: dict[str, Any]) -> WorkflowConfig:
    """A validated workflow configuration; a `UserError` that names the first wrong key."""
    if "dataset" in config or "scale" in config:
        old = [f"{key}={config[key]}" for key in ("dataset", "scale") if key in config]
        name = recipe_for(str(config.get("dataset", "digits")), str(config.get("scale", "demo")))
        raise UserError(f"--config {' '.join(old)} is one word now: recipe={name}")
    try:
        found = WorkflowConfig.model_validate({k: v for k, v in config.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = ", ".join(WorkflowConfig.model_fields)
        extra = f": one of {known}" if first["type"] == "extra_forbidden" else f" (given: {first['input']!r})"
        raise UserError(f"--config {key}: {first['msg']}{extra}") from None
    # what is not said is the environment's
    for key, path in (("results", found.results), ("data", str(data_root(found.data or None)))):
        if wrong := [letter for letter in path if letter in "{}" or not letter.isprintable()]:
            raise UserError(
                f"--config {key}: {path!r} holds {wrong[0]!r}, which snakemake keeps for itself: choose another folder"
            )
        if path.startswith("-"):
            raise UserError(f"--config {key}: {path!r} looks like an option: give the folder's whole path")
    return found


def recipe_for(dataset: str, scale: str) -> str:
    """The recipe that a data set and a scale meant: ``<dataset>_<scale>`` where a paper has it, or ``<dataset>``."""
    name = f"{dataset}_{scale}"
    return name if any(name in pipelines.paper(paper).recipes() for paper in PAPERS) else dataset


@dataclass(frozen=True)
class Plan:
    """One pipeline under one recipe: its runs and the files of each rule, as the Snakefile needs them."""

    paper: str
    settings: WorkflowConfig

    @property
    def recipe(self) -> str:
        return self.settings.recipe

    @cached_property
    def pairs(self) -> list[str]:
        try:
            found = shlex.split(self.settings.settings)
        except ValueError as error:
            raise UserError(f"--config settings: {error} in {self.settings.settings!r}") from None
        for key in found[0::2]:
            if key.upper() in ("SEED", "PIPELINE", "RECIPE", "MODEL.NAME"):
                raise UserError(f"{key} is each run's own: a workflow has seeds (--seeds), a recipe, and GRID '[...]'")
        return found

    @cached_property
    def config(self) -> RunConfig:
        return pipelines.recipe_config(self.paper, self.recipe, self.pairs)

    @cached_property
    def shown(self) -> Shown:
        return shown_by(pipelines.paper(self.paper), self.config)

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
        files = table_files(self.paper, self.recipe, self.root)
        return {suffix: str(path) for suffix, path in files.items()}

    def figures(self) -> dict[str, str]:
        return {name: str(layout.figure(self.paper, self.recipe, name, self.root)) for name in self.shown.figures}

    def pages(self) -> dict[str, str]:
        return {name: str(layout.page(self.paper, self.recipe, name, self.root)) for name in self.shown.pages}

    def read_by_pages(self) -> list[str]:
        """What the pages read beside this recipe's own runs, as far as it is there: evaluated runs of other recipes,
        and files. With one of them changed, or another one there, Snakemake makes the pages again."""
        found: dict[Path, None] = {}
        for page in self.shown.pages.values():
            others = [recipe for recipe in page.reads if recipe != self.recipe]
            runs = [run for recipe in others for run in found_runs(self.paper, recipe, self.root)]
            found |= dict.fromkeys([*(run.metrics for run in runs), *(path for path in page.files if path.is_file())])
        return [str(path) for path in found]

    def caption(self, name: str) -> str:
        """The report's words below a figure or the table."""
        return str(pipelines.paper(self.paper).caption(name))

    def resolved(self, model: str, seed: int) -> RunConfig:
        return pipelines.configure(f"{self.paper}/{model}", self.recipe, self.pairs, seed)

    def begins_from(self, model: str, seed: int, *, alone: bool = False) -> str:
        """The input of a training; a `UserError` where its folder holds a run that no workflow may replace.

        With `alone` also where another workflow is at work among these results.
        """
        if alone:
            self.hold()
        self.refuse(layout.Run(self.paper, self.recipe, model, seed, self.root))
        return str(self.marker)

    def refuse(self, run: layout.Run) -> None:
        """A `UserError` where the folder of `run` holds one of other settings."""
        if error := claim.refusal(run, self.resolved(run.model, run.seed)):
            raise error

    def hold(self) -> None:
        """Holds the folder of this plan for as long as this process lives; a `UserError` where another one does."""
        folder = self.folder.resolve()
        if folder not in _held and os.environ.get(HOLDS) != str(folder):
            _until_exit.enter_context(locked(folder / ".lock"))
        _held.add(folder)

    def outdated(self) -> list[layout.Run]:
        """The runs that a workflow made with other code than that which is here."""
        code = stage_code("train", self.paper, self.config.data.name)
        return [run for run in self.runs if claim.outdated(run, code)]

    def decides(self, stage: str, model: str = "", seed: int = 0) -> str:
        """Digest of what decides a stage's result beside its input files: its code, its settings and the raw data."""
        code = stage_code(stage, self.paper, self.config.data.name)
        if stage in ("table", "figures"):
            published = pipelines.paper(self.paper).published_file
            stated = digest(published) if published.is_file() else ""
            content: Any = [self.config.title, list(self.config.grid), stated]
            return digest_of([content, self.seeds, code])
        config = self.resolved(model, seed)
        measured = config.dump()["EVALUATE"] if stage == "evaluate" else None
        return digest_of([config.digest(), measured, code, self.raw])

    @cached_property
    def raw(self) -> str:
        return raw_data(self.config.data.name, self.data)

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


#: folders that are held until this process ends
_held: set[Path] = set()
_until_exit = ExitStack()
atexit.register(_until_exit.close)


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


def raw_data(name: str, root: Path) -> str:
    """Digest of where the raw files of a data set lie, their sizes and when they were last changed.

    It says when to look again; whether the images have changed is decided by their own digests. Empty without files.
    """
    found = dataset(name).signature(root)
    return digest_of(found) if found else ""


def snakemake(plan: Plan, jobs: int | None = None) -> list[str]:
    """The call of snakemake that does a plan: what ``snakemake -j4 pipelines/aps/all`` does, as a list of words.

    What the plan is asked to do goes through a file beside its logs, because snakemake guesses at the type of what
    stands behind --config, and takes quotes from its ends.
    """
    cores = str(jobs) if jobs else "all"
    given = {key: value for key, value in plan.settings.model_dump().items() if value not in ("", None)}
    asked = plan.folder / "logs" / "workflow.json"
    write_json(asked, given)
    words = [sys.executable, "-m", "snakemake", f"pipelines/{plan.paper}/all", "--cores", cores]
    words += ["--snakefile", str(ROOT / "Snakefile")]
    # snakemake's own lock outlives a snakemake that is killed; `stillpoint run` holds one that does not
    words.append("--nolock")
    if plan.gpus:
        words += ["--resources", "gpu=1"]
    # snakemake remembers what it made in the folder it was called in: what it made elsewhere is told by the runs
    if outdated := plan.outdated():
        words += ["--forcerun", *(str(run.weights) for run in outdated)]
    return [*words, "--configfile", str(asked)]
