"""What the Snakefiles need: recipes, runs, files, commands. Imports no torch, for speed.

Snakemake compares only a rule's files and parameters. So a digest of the code, settings and raw data that decide its
result is a parameter of each rule. If it changes, Snakemake calls the command again, and the command, under the run's
lock, decides what to replace (stillpoint.core.runs.claim).
"""

import atexit
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
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
from stillpoint.core.runs import cards, claim, layout
from stillpoint.pipelines import networks
from stillpoint.pipelines.code_digest import ROOT, code_digest
from stillpoint.pipelines.gathering import complete
from stillpoint.pipelines.papers import PAPERS
from stillpoint.pipelines.results import Shown, shown_by

#: The command line of the running Python, whether or not its folder is on the PATH.
STILLPOINT = f"{shlex.quote(sys.executable)} -m stillpoint"
#: Shell prefix of every job: `logged LOG WORDS...` runs a stillpoint command and shows its last lines if it fails.
SHELL = (
    f'set -euo pipefail; logged() {{ local log=$1; shift; {STILLPOINT} "$@" > "$log" 2>&1 || '
    '{ local code=$?; tail -n 20 "$log" >&2; exit "$code"; }; }; '
)
#: Environment variable by which `stillpoint run` tells its snakemake the folder whose lock it holds.
HOLDS = "STILLPOINT_HOLDS"
#: Files that decide a result besides a paper's (`stillpoint.pipelines.paper.Paper.code`); their imports are followed.
ENTRIES: dict[str, tuple[str, ...]] = {
    "train": ("core/training/train.py",),
    "evaluate": ("core/evaluation/run.py", *(f"core/evaluation/{name}.py" for name in evaluations.FILES)),
    "table": ("core/reporting/tables.py", "pipelines/commands/results.py"),
    "figures": ("core/reporting/tables.py", "core/reporting/figures.py", "pipelines/commands/results.py"),
}


def entries(stage: str, paper: str, data: str = "") -> tuple[str, ...]:
    """The files, relative to the repository's root, whose code decides a stage of a paper on the data set `data`."""
    own = pipelines.paper(paper).code[stage]
    # the catalogue imports a data set's module by its name, without an import statement
    read = (f"core/data/sources/{data}.py",) if data else ()
    return (*ENTRIES[stage], *(f"pipelines/{paper}/{name}" for name in own), *read)


def stage_code(stage: str, paper: str, data: str = "") -> str:
    """Digest of the code that decides a stage of a paper on the data set `data`."""
    return code_digest(entries(stage, paper, data))


class WorkflowConfig(BaseModel):
    """The options of a whole workflow, in ``config.yaml`` or snakemake's ``--config``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = Field("digits", description="name of a recipe: <data set> or <data set>_<variant>")
    seeds: int | None = Field(None, ge=1, description="seeds 0..seeds-1 of every network; none: the recipe's")
    results: str = Field("results", min_length=1, description="folder of all results")
    data: str = Field("", description="folder of the data; empty: $STILLPOINT_DATA, or data")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    threads: int = Field(1, ge=1, description="CPU threads of each training or evaluation")
    workers: int = Field(0, ge=0, description="processes that read photographs for each training or evaluation")
    kept: bool = Field(False, description="use kept runs instead of training; tables and figures are then beside them")
    settings: str = Field("", description="KEY VALUE pairs that override the recipe, as on the command line")


def read(config: dict[str, Any]) -> WorkflowConfig:
    """A validated workflow configuration; `UserError` names the first wrong key."""
    if "dataset" in config or "scale" in config:
        old = [f"{key}={config[key]}" for key in ("dataset", "scale") if key in config]
        name = recipe_for(str(config.get("dataset", "digits")), str(config.get("scale", "demo")))
        raise UserError(f"--config {' '.join(old)} is now --config recipe={name}")
    try:
        found = WorkflowConfig.model_validate({k: v for k, v in config.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = ", ".join(WorkflowConfig.model_fields)
        extra = f": choose from {known}" if first["type"] == "extra_forbidden" else f" (given: {first['input']!r})"
        raise UserError(f"--config {key}: {first['msg']}{extra}") from None
    # checked with the defaults of the environment filled in
    for key, path in (("results", found.results), ("data", str(data_root(found.data or None)))):
        if wrong := [letter for letter in path if letter in "{}" or not letter.isprintable()]:
            raise UserError(
                f"--config {key}: {path!r} contains {wrong[0]!r}, which is special to snakemake: use another folder"
            )
        if path.startswith("-"):
            raise UserError(f"--config {key}: {path!r} looks like an option: use the folder's absolute path")
    return found


def recipe_for(dataset: str, scale: str) -> str:
    """The recipe for the former options data set and scale: ``<dataset>_<scale>`` if it exists, else ``<dataset>``."""
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
                raise UserError(
                    f"{key} is set for each run: choose a workflow's runs with --seeds, --recipe and GRID '[...]'"
                )
        return found

    @cached_property
    def config(self) -> RunConfig:
        return pipelines.recipe_config(self.paper, self.recipe, self.pairs)

    @cached_property
    def shown(self) -> Shown:
        return shown_by(pipelines.paper(self.paper), self.config, kept=self.settings.kept)

    @property
    def kept(self) -> Path | None:
        """The folder of the kept runs, if they are used; otherwise None."""
        return cards.settled(networks.kept_root()) if self.settings.kept else None

    @cached_property
    def seeds(self) -> int:
        if self.settings.seeds or self.kept is None:
            return self.settings.seeds or self.config.seeds
        # all seeds that are kept, even if the recipe has fewer
        return max([self.config.seeds, *(run.seed + 1 for run in found_runs(self.paper, self.recipe, self.kept))])

    @property
    def root(self) -> Path:
        return Path(self.settings.results)

    @property
    def shown_in(self) -> Path:
        """The root folder of the table and the figures."""
        return self.kept or self.root

    @property
    def folder(self) -> Path:
        """The folder in which runs are trained, with the logs of all jobs."""
        return self.root / self.paper / self.recipe

    @property
    def data(self) -> Path:
        return data_root(self.settings.data or None)

    @property
    def marker(self) -> Path:
        """The file that ``stillpoint prepare`` writes when a data set is ready."""
        return self.data / "prepared" / f"{self.config.data.name}.json"

    @cached_property
    def runs(self) -> list[layout.Run]:
        return [self._run(model, seed) for model in self.config.grid for seed in range(self.seeds)]

    def _run(self, model: str, seed: int) -> layout.Run:
        """The run to use: the kept one if it has these settings."""
        if self.kept is not None:
            held = layout.Run(self.paper, self.recipe, model, seed, self.kept)
            if held.card.is_file() and not claim.departures(held, self.resolved(model, seed)):
                return held
        return layout.Run(self.paper, self.recipe, model, seed, self.root)

    @property
    def gpus(self) -> int:
        """1 if jobs share a GPU and must queue for it (snakemake --resources gpu=1), otherwise 0."""
        return int(self.settings.device.startswith("cuda"))

    def metrics(self) -> list[str]:
        return [str(run.metrics) for run in self.runs]

    def maps(self) -> list[str]:
        """The files of the runs' arrays; a kept run may have none."""
        return [str(run.maps) for run in self.runs if not run.card.is_file() or run.maps.is_file()]

    def histories(self) -> list[str]:
        return [str(run.history) for run in self.runs if not run.card.is_file() or run.history.is_file()]

    @cached_property
    def as_committed(self) -> bool:
        """Whether only kept runs are read, and they and their tables are unchanged in git.

        A clone's files have the time of its checkout, so by time alone all tables would be made again.
        """
        if self.kept is None or any(run.root != self.kept for run in self.runs):
            return False
        return unchanged(ROOT, [self.kept / self.paper, *self.read_by_pages()])

    def tables(self) -> dict[str, str]:
        files = table_files(self.paper, self.recipe, self.shown_in)
        return {suffix: str(path) for suffix, path in files.items()}

    def figures(self) -> dict[str, str]:
        if self.kept is not None and not complete(self.runs):
            return {}
        return {name: str(layout.figure(self.paper, self.recipe, name, self.shown_in)) for name in self.shown.figures}

    def pages(self) -> dict[str, str]:
        if self.kept is not None and not complete(self.runs):
            return {}
        return {name: str(layout.page(self.paper, self.recipe, name, self.shown_in)) for name in self.shown.pages}

    def reported(self, name: str) -> bool:
        """Whether a page is part of the workflow's report: an html page with a caption."""
        return name.endswith(".html") and Path(self.caption(name.removesuffix(".html"))).is_file()

    def read_by_pages(self) -> list[str]:
        """The existing files that the pages read besides this recipe's runs, such as runs of other recipes.

        If one changes or is added, Snakemake makes the pages again.
        """
        found: dict[Path, None] = {}
        for page in self.shown.pages.values():
            others = [recipe for recipe in page.reads if recipe != self.recipe]
            runs = [run for recipe in others for run in found_runs(self.paper, recipe, self.shown_in)]
            found |= dict.fromkeys([*(run.metrics for run in runs), *(path for path in page.files if path.is_file())])
        return [str(path) for path in found]

    def caption(self, name: str) -> str:
        """The report's caption for a figure or table."""
        return str(pipelines.paper(self.paper).caption(name))

    def resolved(self, model: str, seed: int) -> RunConfig:
        return pipelines.configure(f"{self.paper}/{model}", self.recipe, self.pairs, seed)

    def begins_from(self, model: str, seed: int, *, alone: bool = False) -> str:
        """The input of a training; `UserError` if its folder holds a run that no workflow may replace.

        With `alone`, also if another workflow is working on these results.
        """
        if alone:
            self.hold()
        self.refuse(layout.Run(self.paper, self.recipe, model, seed, self.root))
        return str(self.marker)

    def refuse(self, run: layout.Run) -> None:
        """Raises `UserError` if the folder of `run` holds a run with other settings."""
        if error := claim.refusal(run, self.resolved(run.model, run.seed)):
            raise error

    def hold(self) -> None:
        """Locks the folder of this plan until this process exits; `UserError` if another process holds it."""
        folder = self.folder.resolve()
        if folder not in _held and os.environ.get(HOLDS) != str(folder):
            _until_exit.enter_context(locked(folder / ".lock"))
        _held.add(folder)

    def outdated(self) -> list[layout.Run]:
        """The runs that a workflow made with other code than the current one."""
        code = stage_code("train", self.paper, self.config.data.name)
        return [run for run in self.runs if claim.outdated(run, code)]

    def decides(self, stage: str, model: str = "", seed: int = 0) -> str:
        """Digest of what decides a stage's result besides its input files: code, settings and raw data."""
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
        """The named command-line options with this plan's values, quoted for a shell; empty ones are left out."""
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
    def gathering(self) -> str:
        """The options of ``stillpoint table`` and ``stillpoint figures``."""
        return self.options("--recipe", "--results", "--seeds") + (" --kept" if self.settings.kept else "")

    @property
    def tail(self) -> str:
        """The KEY VALUE pairs, quoted for a shell."""
        return shlex.join(self.pairs)


#: folders that are locked until this process exits
_held: set[Path] = set()
_until_exit = ExitStack()
atexit.register(_until_exit.close)


def plan(paper: str, config: dict[str, Any]) -> Plan:
    return Plan(paper, read(config))


def refusal(paper: str, config: dict[str, Any]) -> UserError | None:
    """Why a paper cannot run with a workflow's options (it lacks the recipe, or a setting); None if it can."""
    try:
        assert plan(paper, config).config
    except UserError as error:
        return error
    return None


def refuse(error: UserError) -> NoReturn:
    raise error


def unchanged(root: Path, paths: Sequence[str | Path]) -> bool:
    """Whether these files and folders are as committed in the repository at `root`; False if there is none."""
    command = ["git", "-C", str(root), "status", "--porcelain", "--", *(str(Path(path).resolve()) for path in paths)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and not done.stdout


def raw_data(name: str, root: Path) -> str:
    """Digest of the paths, sizes and modification times of a data set's raw files; "" without files.

    A change only means that the images are checked again; their own digest decides whether they have changed.
    """
    found = dataset(name).signature(root)
    return digest_of(found) if found else ""


def snakemake(plan: Plan, jobs: int | None = None) -> list[str]:
    """The snakemake command of a plan, such as ``snakemake -j4 pipelines/aps/all``, as a list of words.

    The options are passed in a file beside the logs, because snakemake guesses the types of --config values and strips
    quotes from them.
    """
    cores = str(jobs) if jobs else "all"
    given = {key: value for key, value in plan.settings.model_dump().items() if value not in ("", None)}
    asked = plan.folder / "logs" / "workflow.json"
    write_json(asked, given)
    words = [sys.executable, "-m", "snakemake", f"pipelines/{plan.paper}/all", "--cores", cores]
    words += ["--snakefile", str(ROOT / "Snakefile")]
    # a killed snakemake leaves its own lock behind, unlike the lock that `stillpoint run` holds
    words.append("--nolock")
    if plan.gpus:
        words += ["--resources", "gpu=1"]
    # snakemake records results only in its working directory, so runs made elsewhere are checked here
    if outdated := plan.outdated():
        words += ["--forcerun", *(str(run.weights) for run in outdated)]
    return [*words, "--configfile", str(asked)]
