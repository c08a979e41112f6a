"""Whose a run is, and what a workflow may do with it.

A workflow replaces only what a workflow made under the same settings, when the code, the data or the libraries that
decide it have changed. A run made by hand, one of other settings and a kept one are replaced by ``--anew`` alone: they
are used as they stand, gone on with, or refused in a sentence. All of this is asked while the run's lock is held.
"""

from typing import Any

from stillpoint.core.base.documents import read_json
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.merge import read_settings
from stillpoint.core.config.schema import RunConfig, changed, differences, shared
from stillpoint.core.runs.layout import Run

#: of many changed settings, so many are named
NAMED = 4
REMEDY = "make it anew (--anew), or keep these results and make the others elsewhere (--results)"


def not_kept(run: Run, what: str) -> None:
    """A `UserError` where the run is kept: `what` ("training") would change files that its card has the digests of."""
    if run.card.is_file():
        raise UserError(f"{run.folder} is a kept run, and {what} would change it: name another folder (--results)")


def by_workflow(run: Run) -> bool:
    """Whether a workflow began what is in the run's folder."""
    return run.code.is_file()


def departures(run: Run, config: RunConfig) -> list[str]:
    """What decides the run in the folder and is otherwise in `config`, as ``KEY: there -> asked``."""
    return changed(read_settings(run.config), config) if run.config.is_file() else []


def refusal(run: Run, config: RunConfig) -> UserError | None:
    """Why a workflow with the settings `config` may not use the folder of `run`; None where it may."""
    found = departures(run, config)
    if not found:
        return None
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    who = "kept" if run.card.is_file() else "made by a workflow" if by_workflow(run) else "trained by hand"
    return UserError(
        f"{run.folder} holds a run that was {who} with other settings ({'; '.join(found[:NAMED])}{more}): {REMEDY}"
    )


def outdated(run: Run, code: str) -> bool:
    """Whether a workflow that runs `code` makes the run anew, because a workflow made it with other code."""
    return by_workflow(run) and not run.card.is_file() and run.code.read_bytes() != code.encode()


def may_replace(run: Run, what: str) -> None:
    """A `UserError` unless a workflow may make the run anew because `what` has changed, such as "other images"."""
    if run.card.is_file() or not by_workflow(run):
        who = "is kept, and was made" if run.card.is_file() else "was trained by hand"
        raise UserError(f"{run.folder} {who} with {what} than a workflow would use now: {REMEDY}")


def measured(run: Run, evaluate: dict[str, Any], weights: str, images: str, code: str) -> dict[str, Any] | None:
    """What metrics.json holds, where a workflow need not measure again.

    `evaluate` is the dumped EVALUATE section that is asked for, `weights` and `images` are digests of what would be
    measured, `code` is that of the code that would measure. Raises `UserError` where these weights were measured by
    other settings: such numbers are not overwritten unasked.
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
