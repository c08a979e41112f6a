"""Who made a run, and what a workflow may do with it.

A workflow replaces only a run that a workflow made with the same settings, if the code, data or libraries that decide
it have changed. Only ``--anew`` replaces a run made by hand, one with other settings or a kept one; otherwise it is
used, resumed or refused. All checks hold the run's lock.
"""

from typing import Any

from stillpoint.core.base.documents import read_json
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.merge import read_settings
from stillpoint.core.config.schema import RunConfig, changed, differences, shared
from stillpoint.core.runs.layout import Run

#: at most so many changed settings are named in a message
NAMED = 4
REMEDY = "replace it (--anew), or write the new results elsewhere (--results)"


def not_kept(run: Run, what: str) -> None:
    """Raises `UserError` if the run is kept: `what` ("training") would change files whose digests are in its card."""
    if run.card.is_file():
        raise UserError(f"{run.folder} is a kept run, and {what} would change it: use another folder (--results)")


def by_workflow(run: Run) -> bool:
    """Whether a workflow began the run in this folder."""
    return run.code.is_file()


def departures(run: Run, config: RunConfig) -> list[str]:
    """The deciding settings in which the run in the folder differs from `config`, as ``KEY: there -> asked``."""
    return changed(read_settings(run.config), config) if run.config.is_file() else []


def refusal(run: Run, config: RunConfig) -> UserError | None:
    """Why a workflow with the settings `config` may not use the folder of `run`; None if it may."""
    found = departures(run, config)
    if not found:
        return None
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    who = "kept" if run.card.is_file() else "made by a workflow" if by_workflow(run) else "trained by hand"
    return UserError(
        f"{run.folder} holds a run that was {who} with other settings ({'; '.join(found[:NAMED])}{more}): {REMEDY}"
    )


def outdated(run: Run, code: str) -> bool:
    """Whether a workflow with `code` replaces the run, because a workflow made it with other code."""
    return by_workflow(run) and not run.card.is_file() and run.code.read_bytes() != code.encode()


def may_replace(run: Run, what: str) -> None:
    """Raises `UserError` unless a workflow may replace the run because of `what`, such as "other images"."""
    if run.card.is_file() or not by_workflow(run):
        who = "is kept, and was made" if run.card.is_file() else "was trained by hand"
        raise UserError(f"{run.folder} {who} with {what} than a workflow would use now: {REMEDY}")


def measured(run: Run, evaluate: dict[str, Any], weights: str, images: str, code: str) -> dict[str, Any] | None:
    """The content of metrics.json if a workflow need not measure again; otherwise None.

    `evaluate` is the requested EVALUATE section as a dictionary; `weights`, `images` and `code` are the digests of a
    new measurement. Raises `UserError` if these weights were measured with other settings, since such numbers are not
    overwritten unasked.
    """
    try:
        found = read_json(run.metrics, of=dict)
        origin = found["provenance"]
        if origin["weights_digest"] != weights or origin["data_digest"] != images:
            return None
        stored = found["evaluate"]
        measured_with = origin["code_digest"]
    except (UserError, KeyError, TypeError):
        return None
    if other := differences(stored, shared(evaluate, stored)):
        raise UserError(
            f"{run.metrics} was measured with other settings ({'; '.join(other[:NAMED])}): measure it again "
            f"(stillpoint evaluate {run.folder} with these settings), or {REMEDY}"
        )
    if not run.maps.is_file():
        return None
    kept = run.card.is_file() or not by_workflow(run)
    return found if kept or measured_with == code else None
