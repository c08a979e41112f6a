"""Reads an evaluated run's files for a table; an invalid file raises `UserError` with one sentence."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillpoint.core.base.documents import read_json
from stillpoint.core.base.errors import UserError
from stillpoint.core.runs.layout import Run

if TYPE_CHECKING:
    import numpy as np

STATES = ("untrained", "trained")


def found_runs(pipeline: str, recipe: str, root: Path, seeds: int | None = None) -> list[Run]:
    """The evaluated runs of a recipe by network and seed; with `seeds`, only those of seeds 0..seeds-1."""
    runs = Run.listed(pipeline, recipe, root)
    return sorted((r for r in runs if seeds is None or r.seed < seeds), key=lambda r: (r.model, r.seed))


def read_metrics(run: Run) -> dict[str, Any]:
    """A run's ``metrics.json``; a `UserError` if it is invalid.

    It must hold "trained" or "untrained", each with finite numbers by name. If present, "dataset" is text or an object,
    "evaluate" and "provenance" are objects, and "images" and "parameters" are integers.
    """
    found = read_json(run.metrics, remedy="evaluate the run again", of=dict)
    if not isinstance(found.get("trained", found.get("untrained")), dict):
        raise UserError(f"{run.metrics} is not a run's metrics: evaluate the run again")
    kinds: dict[str, tuple[tuple[type, ...], str]] = {
        **dict.fromkeys(STATES, ((dict, type(None)), "an object")),
        "dataset": ((str, dict), "text or an object"),
        "evaluate": ((dict, type(None)), "an object"),
        "provenance": ((dict,), "an object"),
        "images": ((int,), "a whole number"),
        "parameters": ((int,), "a whole number"),
    }
    for key, (types, expected) in kinds.items():
        if key in found and (not isinstance(found[key], types) or isinstance(found[key], bool)):
            raise UserError(f"{run.metrics} is damaged ({key} is not {expected}): evaluate the run again")
    for state in STATES:
        for key, value in (found.get(state) or {}).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise UserError(
                    f"{run.metrics} is damaged ({state}.{_short(key)} is {_short(value)}, not a finite number): "
                    "evaluate the run again"
                )
    return found


def _short(value: object) -> str:
    text = re.sub(r"\s+", " ", value if isinstance(value, str) else str(value))
    return text if len(text) <= 40 else text[:37] + "..."


def read_maps(path: Path) -> dict[str, "np.ndarray"]:
    """The arrays of a run's ``maps.safetensors``, empty if there is no such file; a `UserError` for a damaged one."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path) if path.is_file() else {}
    # a type that NumPy lacks, such as bfloat16, makes safetensors raise various errors
    except (OSError, SafetensorError, TypeError, AttributeError, KeyError, ValueError) as error:
        raise UserError(f"{path} is truncated or damaged ({error}): evaluate the run again") from None


def read_training(run: Run) -> dict[str, Any]:
    """A run's ``train.json``; a `UserError` if it is invalid."""
    remedy = "remove it, and repeat the command that trained the run"
    found = read_json(run.training, remedy=remedy, of=dict)
    if not isinstance(found.get("device"), str) or not isinstance(found.get("peak_memory_bytes"), int):
        raise UserError(f"{run.training} does not say how the run was trained: {remedy}")
    return found


def dataset_title(metrics: dict[str, Any]) -> str:
    """A table's description of the images, from a run's metrics."""
    found = metrics.get("dataset", "")
    return str(found.get("title", found.get("name", ""))) if isinstance(found, dict) else str(found)
