"""Checks that runs can be averaged: same images, settings, arithmetic and code; the error says what differs.

Code may differ if ``stillpoint verify`` showed that its first epoch has the same bits; the table then names the
commits.
"""

from collections.abc import Callable, Mapping
from typing import Any

from stillpoint.core.base.documents import read_json
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.merge import read_settings
from stillpoint.core.config.schema import deciding, differences, shared
from stillpoint.core.runs.layout import Run

#: at most so many differing settings are named in a message
NAMED = 4


def check(metrics: Mapping[Run, dict[str, Any]]) -> list[str]:
    """Returns the notes for a table of these runs; `metrics` are the contents of their metrics.json.

    Raises `UserError` if runs of one network differ in more than the seed, or any two were measured on different
    images. Facts that an older file does not record are not compared.
    """
    about = {run: _training(run) for run in metrics}
    measured = {run: found.get("provenance") or {} for run, found in metrics.items()}
    _same(list(metrics), "were measured on different images", lambda run: measured[run].get("data_digest"))
    notes = []
    for model in sorted({run.model for run in metrics}):
        own = [run for run in metrics if run.model == model]
        _same_settings(own)
        _same(own, "were trained on different images", lambda run: about[run].get("data_digest"))
        _same(own, "were trained by different arithmetic (kernels on and off)", lambda run: about[run].get("kernels"))
        _same(own, "were measured by different arithmetic (kernels on and off)", lambda r: measured[r].get("kernels"))
        remedy = "stillpoint evaluate measures one of them again"
        _same(own, "were measured by different code", lambda run: measured[run].get("code_digest") or None, remedy)
        notes += _same_code(model, {run: about[run] for run in own})
    return notes


def _training(run: Run) -> dict[str, Any]:
    """The content of train.json, {} if there is none; `UserError` for a damaged one, whose run could not be checked."""
    remedy = "remove it, and repeat the command that trained the run"
    found = read_json(run.training, remedy=remedy, of=dict) if run.training.exists() else {}
    if not isinstance(found.get("codes") or [], list):
        raise UserError(f"{run.training} is damaged (codes is not a list): {remedy}")
    return found


def _read(path: Any) -> dict[str, Any]:
    try:
        return read_json(path, of=dict)
    except UserError:
        return {}


def _same(runs: list[Run], what: str, value: Callable[[Run], Any], remedy: str = "") -> None:
    said = [(run, value(run)) for run in runs if value(run) is not None]
    for run, found in said[1:]:
        if found != said[0][1]:
            raise _apart(said[0][0], run, what, remedy)


def _apart(first: Run, second: Run, what: str, remedy: str) -> UserError:
    end = f": {remedy}" if remedy else ""
    return UserError(f"{first.folder} and {second.folder} {what} and cannot share a mean{end}")


def _same_settings(runs: list[Run]) -> None:
    known = [(run, deciding(read_settings(run.config))) for run in runs if run.config.is_file()]
    seeds: dict[str, Run] = {}
    for run, settings in known:
        seed = repr(settings.get("SEED", run.seed))
        if (other := seeds.setdefault(seed, run)) != run:
            raise _apart(other, run, f"are both of seed {seed} (one is a copy of the other)", "")
    for run, settings in known[1:]:
        first, own = known[0]
        # a setting that one of the runs did not have yet had no effect in it; seeds may differ
        found = differences({**shared(own, settings), "SEED": 0}, {**shared(settings, own), "SEED": 0})
        if found:
            raise _apart(first, run, f"were trained by different settings ({'; '.join(found[:NAMED])})", "")


def _same_code(model: str, about: dict[Run, dict[str, Any]]) -> list[str]:
    """The note on runs of different code with equal bits; `UserError` if `stillpoint verify` did not show that."""
    known = {run: codes for run, found in about.items() if (codes := _codes(run, found))}
    if not known:
        return []
    # runs are equivalent if a chain of verified codes connects them
    joined, rest = set(next(iter(known.values()))), dict(known)
    while found := [run for run, codes in rest.items() if codes & joined]:
        for run in found:
            joined |= rest.pop(run)
    if rest:
        first, other = next(run for run in known if run not in rest), next(iter(rest))
        both = f" (commits {_commit(about[first])} and {_commit(about[other])})"
        remedy = (
            f"run stillpoint verify {first.folder} and {other.folder} to compare their first epochs with this code's"
        )
        raise _apart(first, other, f"were trained by different code{both}", remedy)
    commits = sorted({_commit(about[run]) for run in known})
    if len({_trained_with(about[run]) for run in known}) == 1 or len(commits) == 1:
        return []
    return [f"{model} was trained at commits {' and '.join(commits)}, whose first epochs have the same bits"]


def _trained_with(found: dict[str, Any]) -> str:
    return "+".join(map(str, found.get("codes") or []))


def _codes(run: Run, found: dict[str, Any]) -> set[str]:
    """Digests of the codes that reproduce a run's first epoch: the one that trained it, and the verified ones."""
    own = _trained_with(found)
    return {own, *_read(run.verified)} if own else set()


def _commit(found: dict[str, Any]) -> str:
    return f"{str(found.get('commit') or 'unknown')[:10]}{'' if found.get('clean') in (True, None) else ', edited'}"
