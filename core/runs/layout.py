"""The paths of a run's files; no other module builds the path of a result.

A run is (pipeline, recipe, model, seed) and owns ``results/<pipeline>/<recipe>/<model>/seed<k>/``; a released run is
kept under ``runs/`` in the same form. A recipe is named after its data set, with an optional variant after an
underscore: ``cifar10``, ``cifar10_crop``.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from stillpoint.core.base.errors import UserError

RESULTS = Path("results")
#: name of the folder of kept runs, which is in git
KEPT = "runs"
#: only the form that we write: no ``seed007`` beside ``seed7``, and no digits of other scripts
_SEED = re.compile(r"seed(0|[1-9][0-9]*)")


@dataclass(frozen=True)
class Run:
    """One training with one seed; `root` is the folder of all results.

    `UserError` for a pipeline, recipe or model whose name is not that of a single folder.
    """

    pipeline: str
    recipe: str
    model: str
    seed: int
    root: Path = RESULTS

    def __post_init__(self) -> None:
        for what in ("pipeline", "recipe", "model"):
            name = getattr(self, what)
            if name in ("", ".", "..") or "/" in name or "\0" in name:
                raise UserError(f"{name!r} cannot be the name of a {what}: it must name a single folder, without /")

    @property
    def folder(self) -> Path:
        return self.root / self.pipeline / self.recipe / self.model / f"seed{self.seed}"

    @property
    def config(self) -> Path:
        """The resolved configuration (yaml)."""
        return self.folder / "config.yaml"

    @property
    def history(self) -> Path:
        """One row per epoch (csv)."""
        return self.folder / "history.csv"

    @property
    def state(self) -> Path:
        """The state to resume from; not an output of the workflow's rules, so that a failed job keeps it."""
        return self.folder / "state.pt"

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def timing(self) -> Path:
        """Seconds of each epoch (csv); separate from the history, which every repetition reproduces."""
        return self.folder / "timing.csv"

    @property
    def test_history(self) -> Path:
        """Loss and correct test images before training and after each epoch (csv), with TRAIN.TEST_EACH_EPOCH."""
        return self.folder / "test_history.csv"

    @property
    def test_timing(self) -> Path:
        """Seconds of each of these test passes (csv)."""
        return self.folder / "test_timing.csv"

    @property
    def training(self) -> Path:
        """Provenance of the weights (json); written last, so that its presence means that training ended."""
        return self.folder / "train.json"

    @property
    def lock(self) -> Path:
        """The lock held by the process that trains or measures here."""
        return self.folder / ".lock"

    @property
    def code(self) -> Path:
        """Digest of the code with which a workflow began this run; runs made by hand have none (see `claim`)."""
        return self.folder / "code.txt"

    @property
    def card(self) -> Path:
        """The card of a released run (json; see `stillpoint.core.runs.cards`); a run with a card is never replaced."""
        return self.folder / "card.json"

    @property
    def page(self) -> Path:
        """The card as a page for people (md)."""
        return self.folder / "card.md"

    @property
    def verified(self) -> Path:
        """Later code whose first epoch has the same bits (json); see ``stillpoint verify``."""
        return self.folder / "verified.json"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"

    @property
    def scores(self) -> Path:
        """Scores with the time and commit of each, in papers that record them."""
        return self.folder / "scores.json"

    @property
    def maps(self) -> Path:
        """Arrays too large for JSON, such as accuracy over every shift."""
        return self.folder / "maps.safetensors"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def record(self) -> Path:
        """A paper's record of every update, such as gradients (see stillpoint.core.runs.records.Record)."""
        return self.folder / "record.safetensors"

    @property
    def beside(self) -> Path:
        """What a paper keeps of a measured run beside its numbers, such as its cost (json)."""
        return self.folder / "beside.json"

    def snapshot(self, epoch: int) -> Path:
        """Weights after an epoch, with TRAIN.SNAPSHOTS."""
        return self.folder / "snapshots" / f"e{epoch}.safetensors"

    def snapshot_state(self, epoch: int) -> Path:
        """The state to resume from right after that epoch."""
        return self.folder / "snapshots" / f"e{epoch}.pt"

    def snapshots(self) -> list[int]:
        """The epochs whose weights were kept, in order."""
        return sorted(int(path.stem[1:]) for path in self.snapshot(0).parent.glob("e*.safetensors"))

    def at(self, status: str) -> "Run":
        """This run at the moment `status`, with separate files of measurements unless that is its kept weights.

        `status` is as for `runs.statuses.fill_at`; the files are ``measured/<status>.json`` and so on.
        """
        if status in ("weights", "best"):
            return self
        return RunAt(self.pipeline, self.recipe, self.model, self.seed, self.root, status)

    @classmethod
    def of(cls, folder: str | Path) -> "Run":
        """The run that owns `folder`, given by any path or link; `UserError` if it is not a run's."""
        path = Path(folder).absolute()
        linked = ".." in path.parts or any(part.is_symlink() for part in (path, *path.parents[:3]))
        if linked or not _SEED.fullmatch(path.name):
            path = path.resolve()
        match = _SEED.fullmatch(path.name)
        named_whole = len(Path(folder).parts) >= 4 or path.is_dir()
        if not match or len(path.parts) < 5 or not named_whole:
            raise UserError(f"{folder} is not a run's folder: it must be <results>/<pipeline>/<recipe>/<model>/seed<k>")
        pipeline, recipe, model = path.parts[-4:-1]
        root = path.parents[3]
        # shown relative to the working directory, as it was typed
        if not Path(folder).is_absolute() and root.is_relative_to(Path.cwd()):
            root = root.relative_to(Path.cwd())
        return cls(pipeline, recipe, model, int(match[1]), root)

    @classmethod
    def all_kept(cls, root: Path, pipeline: str = "*", recipe: str = "*") -> list["Run"]:
        """The kept runs below `root`, by paper, recipe, network and seed."""
        paths = root.glob(f"{pipeline}/{recipe}/*/seed*/card.json")
        named = [(path.parts, _SEED.fullmatch(path.parent.name)) for path in paths]
        return sorted(
            (cls(at[-5], at[-4], at[-3], int(match[1]), root) for at, match in named if match),
            key=lambda run: (run.pipeline, run.recipe, run.model, run.seed),
        )

    @classmethod
    def listed(cls, pipeline: str, recipe: str, root: Path) -> list["Run"]:
        """The evaluated runs of a recipe; folders such as ``seed0_old`` are ignored."""
        paths = sorted((root / pipeline / recipe).glob("*/seed*/metrics.json"))
        named = [(path.parents[1].name, _SEED.fullmatch(path.parent.name)) for path in paths]
        return [cls(pipeline, recipe, model, int(match[1]), root) for model, match in named if match]


@dataclass(frozen=True)
class RunAt(Run):
    """A run at its last checkpoint ("checkpoint") or after an epoch ("e<N>"): see `Run.at`."""

    status: str = "weights"

    @property
    def weights(self) -> Path:
        """The file that holds the weights of this moment."""
        held = self.state if self.status == "checkpoint" else self.snapshot(int(self.status.removeprefix("e")))
        return held if held.is_file() else super().weights

    @property
    def metrics(self) -> Path:
        return self.folder / "measured" / f"{self.status}.json"

    @property
    def maps(self) -> Path:
        return self.folder / "measured" / f"{self.status}.safetensors"

    @property
    def scores(self) -> Path:
        return self.folder / "measured" / f"{self.status}.scores.json"


def seeds_there(folder: Path) -> str:
    """`` (there are seed0, seed2)`` for the folder of a run that is missing beside those of other seeds; else empty."""
    if not folder.parent.is_dir() or not _SEED.fullmatch(folder.name):
        return ""
    found = sorted(int(match[1]) for path in folder.parent.iterdir() if (match := _SEED.fullmatch(path.name)))
    others = [f"seed{number}" for number in found if f"seed{number}" != folder.name]
    return f" (there are {', '.join(others)})" if others else ""


def table(pipeline: str, recipe: str, suffix: str, root: Path = RESULTS) -> Path:
    """The table of a pipeline under one recipe: `suffix` is csv, md, tex or json."""
    return root / pipeline / recipe / f"table.{suffix}"


def figure(pipeline: str, recipe: str, name: str, root: Path = RESULTS) -> Path:
    return root / pipeline / recipe / "figures" / f"{name}.png"


def page(pipeline: str, recipe: str, name: str, root: Path = RESULTS) -> Path:
    """A further file beside the table; `name` includes the suffix."""
    return root / pipeline / recipe / name
