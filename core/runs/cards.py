"""Model cards: identity and origin of pretrained weights, and the metrics that they must reproduce.

``pretrained/<pipeline>/<model>.safetensors`` is stored by DVC; the card, ``<model>.json`` beside it, is in git, and
``<model>.md`` is its readable version.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillpoint.core.base.documents import read_json
from stillpoint.core.base.errors import UserError, nearest
from stillpoint.core.base.files import digest, write_atomic, write_json
from stillpoint.core.config.former import modern

if TYPE_CHECKING:
    from torch import Tensor

#: tolerance of accuracies and consistencies measured again, perhaps on another machine
TOLERANCE = 0.002
_REMEDY = "git checkout brings it back"
#: the required entries of a card, with their types
_HELD: dict[str, Any] = {
    **dict.fromkeys(("model", "source", "dataset", "data_digest", "recipe", "precision", "sha256"), str),
    **dict.fromkeys(("seed", "epoch", "parameters", "images", "bytes"), int),
    **dict.fromkeys(("metrics", "before_rounding", "training", "config"), dict),
}


def weights_path(folder: Path, name: str) -> Path:
    """The path of the weights of a network (``aps/resnet20_aps3``)."""
    return folder / f"{name}.safetensors"


def names(folder: Path) -> list[str]:
    """Full names of the networks that have a card."""
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.glob("*/*.json"))


def read(folder: Path, name: str) -> dict[str, Any]:
    """The card of a network; a `UserError` that lists the existing ones if it has none."""
    path = weights_path(folder, name).with_suffix(".json")
    if not path.exists():
        known = names(folder)
        said = f": there are {', '.join(known)}" if known else ""
        raise UserError(f"there are no pretrained weights of {name}{nearest(name, known)}{said}")
    card = read_json(path, remedy=_REMEDY, of=dict)
    for key, kind in _HELD.items():
        if not isinstance(card.get(key), kind) or isinstance(card[key], bool):
            raise UserError(f"{path} is no card ({key} is not there, or of another type): {_REMEDY}")
    for key in ("metrics", "before_rounding"):
        if not all(isinstance(value, int | float) for value in card[key].values()):
            raise UserError(f"{path} is no card ({key} holds what is no number): {_REMEDY}")
    return {**card, "config": modern(card["config"])}


def weights(folder: Path, name: str) -> Path:
    """The weights that belong to a network's card; a `UserError` if they are missing or different."""
    path, card = weights_path(folder, name), read(folder, name)
    if not path.is_file():
        raise UserError(f"{path} is missing: dvc pull {path}.dvc fetches it")
    if digest(path) != card["sha256"]:
        raise UserError(f"{path} is not the file that its card describes: dvc pull --force {path}.dvc fetches it")
    return path


def halved(tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Kernels and matrices in float16; vectors and scalars (biases, batch statistics) unchanged."""
    return {
        name: tensor.half() if tensor.dim() > 1 and tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def changed(card: Mapping[str, float], found: Mapping[str, float], tolerance: float = TOLERANCE) -> list[str]:
    """``["accuracy: 0.91 in the card, 0.88 now", ...]``: the fractions in a card that were not reproduced.

    Only accuracies and consistencies are compared: the rest (largest change of a logit, say) has no common scale.
    """
    return [
        f"{key}: {value} in the card, {found.get(key)} now"
        for key, value in card.items()
        if key.endswith(("accuracy", "consistency")) and not abs(found.get(key, float("nan")) - value) <= tolerance
    ]


def write(folder: Path, card: dict[str, Any]) -> None:
    """Writes a card and its page beside the weights, with size, digest and precision read from the weights."""
    path = weights_path(folder, card["model"])
    card = {**card, "bytes": path.stat().st_size, "sha256": digest(path)}
    write_json(path.with_suffix(".json"), card)
    write_atomic(path.with_suffix(".md"), page(card))


def page(card: Mapping[str, Any]) -> str:
    """A card as Markdown."""
    rows = {
        "Source of the network": card["source"] or "none",
        "Data": f"{card['dataset']} (digest `{card['data_digest'][:16]}`)",
        "Recipe": f"`{card['recipe']}`{': ' + card['config']['TITLE'] if card['config']['TITLE'] else ''}",
        "Seed, epoch": f"{card['seed']}, {card['epoch']} of {card['config']['TRAIN']['EPOCHS']}",
        "Parameters": f"{card['parameters']:,}",
        "Stored as": f"{card['precision']}, {card['bytes']:,} bytes, SHA-256 `{card['sha256']}`",
        "Trained by": f"commit `{card['training']['commit']}`"
        f"{'' if card['training']['clean'] else ' and uncommitted changes'}, torch {card['training']['torch']}, "
        f"{card['training']['device']}, {card['training']['seconds']:.0f} s",
    }
    lines = [f"# {card['model']}", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
    lines += ["", f"Measured on {card['images']:,} test images:", "", "| metric | stored weights | before rounding |"]
    lines.append("|---|---:|---:|")
    lines += [
        f"| {key.replace('_', ' ')} | {value:.6g} | {card['before_rounding'][key]:.6g} |"
        for key, value in card["metrics"].items()
    ]
    commands = [
        f"dvc pull pretrained/{card['model']}.safetensors.dvc",
        f"stillpoint evaluate {card['model']} --pretrained",
        f"stillpoint train {card['model']} --recipe {card['recipe']} --seed {card['seed']}",
    ]
    purposes = ("fetches the weights", "measures them again and compares", "trains them again")
    width = max(map(len, commands))
    lines += ["", "```sh", *(f"{c:<{width}}  # {t}" for c, t in zip(commands, purposes, strict=True)), "```", ""]
    return "\n".join(lines)
