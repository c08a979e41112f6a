"""Cards of kept runs: what a released run is, where it comes from, and the digests of its kept files.

``runs/<pipeline>/<recipe>/<model>/seed<k>/`` holds the run's small files, kept in git. ``card.json`` has their digests
and that of the full weights; ``card.md`` has the same content for people. DVC fetches the weights of some runs,
``weights.safetensors``, mostly in half precision.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillpoint.core.base.documents import read_json
from stillpoint.core.base.errors import UserError, nearest
from stillpoint.core.base.files import digest
from stillpoint.core.runs.layout import Run

if TYPE_CHECKING:
    from torch import Tensor

FORM = 1
#: largest difference of accuracies and consistencies measured again, perhaps on another machine
TOLERANCE = 0.002
#: DVC remote inside the repository; other weights are in a remote of another name
STORE = "store"
REMEDY = "git checkout restores it"
#: folders in which a release builds its runs, and the file there that says where they go while they are moved
STAGED, PLACING = ".release.*", "placing.json"
#: files kept of a run beside its card and weights: those of every run, and all possible ones
NEEDED = ("config.yaml", "metrics.json", "train.json")
FILES = (
    *NEEDED,
    "history.csv",
    "timing.csv",
    "test_history.csv",
    "test_timing.csv",
    "scores.json",
    "beside.json",
    "maps.safetensors",
)
#: keys that a card must have, and their types
_HELD: dict[str, Any] = {
    **dict.fromkeys(("model", "recipe", "source", "weights_digest"), str),
    **dict.fromkeys(("form", "seed", "epoch"), int),
    **dict.fromkeys(("files", "before_rounding", "measured_again"), dict),
    **dict.fromkeys(("probe",), list),
    "weights": (dict, type(None)),
}


def settled(root: Path) -> Path:
    """Returns `root`, a folder of kept runs; `UserError` while a release moves runs there, or after it was killed."""
    if moving := sorted(root.glob(f"{STAGED}/{PLACING}")):
        raise UserError(
            f"a release is running in {root}, or was killed there ({moving[0].parent.name}): wait for it to end, or "
            "repeat its command, which first restores the kept runs"
        )
    return root


def read(run: Run) -> dict[str, Any]:
    """The card of a kept run; `UserError` if it is missing, damaged or of another run."""
    if not run.card.is_file():
        raise UserError(f"{run.folder} is not a kept run: it has no {run.card.name}")
    card = read_json(run.card, remedy=REMEDY, of=dict)
    for key, kind in _HELD.items():
        if not isinstance(card.get(key), kind) or isinstance(card[key], bool):
            raise UserError(f"{run.card} is damaged ({key} is missing or of the wrong type): {REMEDY}")
    if card["form"] != FORM:
        raise UserError(f"{run.card} has form {card['form']}, but this version reads form {FORM}")
    whose = f"{run.pipeline}/{run.model}", run.recipe, run.seed
    if (card["model"], card["recipe"], card["seed"]) != whose:
        raise UserError(f"{run.card} is the card of {card['model']}, recipe {card['recipe']}, seed {card['seed']}")
    if set(card["files"]) - set(FILES) or set(NEEDED) - set(card["files"]):
        raise UserError(f"{run.card} is damaged (its files are not those of a run): {REMEDY}")
    return card


def check(run: Run) -> dict[str, Any]:
    """The card of a kept run; `UserError` for the first file that is missing, changed or not in the card."""
    card = read(run)
    for name, expected in card["files"].items():
        path = run.folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing: {REMEDY}")
        if digest(path) != expected:
            raise UserError(f"{path} is not the file that its card describes: {REMEDY}")
    for name in FILES:
        if name not in card["files"] and (run.folder / name).exists():
            raise UserError(f"{run.folder / name} is not a file of this kept run: remove it")
    return card


def about(run: Run) -> dict[str, Any]:
    """The card of a kept run, with the contents of its "config", "metrics" and "training" files."""
    from stillpoint.core.config.merge import read_settings

    card = check(run)
    metrics, training = (read_json(path, remedy=REMEDY, of=dict) for path in (run.metrics, run.training))
    return {**card, "config": read_settings(run.config), "metrics": metrics, "training": training}


def weights(run: Run) -> Path:
    """The path of a kept run's weights; `UserError` if they are missing, or not those of its card."""
    card, path = read(run), run.weights
    if card["weights"] is None:
        raise UserError(f"{run.folder} is kept without its weights: {again(card)} trains them again")
    if not path.is_file():
        kept = card["weights"]["remote"]
        absent = "is missing" if kept == STORE else f"is not in the clone but in the DVC remote {kept}"
        raise UserError(f"{path} {absent}: {fetching(card, path)} fetches it")
    if digest(path) != card["weights"]["sha256"]:
        raise UserError(
            f"{path} is not the file that its card describes: {fetching(card, path, ' --force')} fetches it"
        )
    return path


def fetching(card: Mapping[str, Any], path: Path | str, force: str = "") -> str:
    """The command that fetches a card's weights to `path`, from the repository's store or from their remote.

    Weights in a remote have no DVC pointer in the clone, so that a plain ``dvc pull`` never needs that remote.
    """
    kept = card["weights"]
    if kept["remote"] == STORE:
        return f"dvc pull{force} {path}.dvc"
    return f"dvc get-url{force} remote://{kept['remote']}/files/md5/{kept['md5'][:2]}/{kept['md5'][2:]} {path}"


def again(card: Mapping[str, Any]) -> str:
    """The command that trains the run of a card again."""
    return f"stillpoint train {card['model']} --recipe {card['recipe']} --seed {card['seed']}"


def with_weights(root: Path) -> list[Run]:
    """The kept runs whose weights are kept."""
    return [run for run in Run.all_kept(root) if read(run)["weights"] is not None]


def find(root: Path, name: str, recipe: str | None = None, seed: int | None = None) -> Run:
    """The kept run with weights of a network (``aps/resnet20_aps3``): by default the first seed of its only recipe.

    `UserError`, with the choices, if there is none, or if several recipes have one.
    """
    known = with_weights(root)
    found = [run for run in known if f"{run.pipeline}/{run.model}" == name]
    if not found:
        settled(root)
        names = list(dict.fromkeys(f"{run.pipeline}/{run.model}" for run in known))
        said = f"; there are weights of {', '.join(names)}" if names else ""
        raise UserError(f"no pretrained weights are kept for {name}{nearest(name, names)}{said}")
    chosen = [run for run in found if recipe in (None, run.recipe) and seed in (None, run.seed)]
    if not chosen or len({run.recipe for run in chosen}) > 1:
        there = ", ".join(f"{run.recipe} seed {run.seed}" for run in found)
        raise UserError(f"weights of {name} are kept for {there}: choose one by its recipe and seed")
    return chosen[0]


def halved(tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Kernels and matrices in float16; vectors and scalars (biases, batch statistics) as they are."""
    return {
        name: tensor.half() if tensor.dim() > 1 and tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def changed(
    card: Mapping[str, Any], found: Mapping[str, Any], tolerance: float = TOLERANCE, where: str = "in the card"
) -> list[str]:
    """``["accuracy: 0.91 in the card, 0.88 now", ...]``: the numbers of a card that were not reproduced.

    Only accuracies and consistencies are compared: other numbers, such as the largest logit change, have no common
    scale.
    """
    return [
        f"{key}: {value} {where}, {found.get(key)} now"
        for key, value in card.items()
        if key.endswith(("accuracy", "consistency")) and not abs(found.get(key, float("nan")) - value) <= tolerance
    ]
