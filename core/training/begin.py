"""Decides whether a training resumes from a state in its folder or starts from scratch; the run's lock is held."""

from typing import Any

from stillpoint.core.base.files import write_atomic
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.runs import claim
from stillpoint.core.runs.layout import Run
from stillpoint.core.runs.records import Progress, clear, note, resumable

State = dict[str, Any]


def begin(config: RunConfig, run: Run, progress: Progress, *, resume: bool, code: str, workflow: bool) -> State | None:
    """The state to resume from, or None to start; see `stillpoint.core.runs.claim` for what a workflow may do."""
    if not resume:
        clear(run)
    elif workflow:
        if error := claim.refusal(run, config):
            raise error
        if claim.outdated(run, code):
            note(run, progress, "the code has changed since a workflow made this run: it is made anew")
            clear(run)
    state = resumable(config, run, progress)
    if state is None:
        claim.not_kept(run, "training")
        _mark(run, code, workflow)
    return state


def on_these_images(
    run: Run, state: State | None, images: str, progress: Progress, *, code: str, workflow: bool
) -> State | None:
    """`state`, or None if a workflow's run was trained on other images; `images` is the digest of the current ones."""
    if state is None or not workflow or state.get("data") in (None, images):
        return state
    claim.may_replace(run, "other images")
    note(run, progress, "the images have changed since a workflow made this run: it is made anew")
    clear(run)
    _mark(run, code, workflow)
    return None


def _mark(run: Run, code: str, workflow: bool) -> None:
    if workflow:
        write_atomic(run.code, code)
    else:
        run.code.unlink(missing_ok=True)
