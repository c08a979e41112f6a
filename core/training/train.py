"""Trains one run's weights from its configuration, exactly resumable at any step.

Everything random is a function of (seed, epoch, step), and the learning rate one of (epoch, step), so the saved state
needs only the parameters, the optimiser's buffers, the current epoch's sums, and the position.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from stillpoint.core.base.device import pick, settings
from stillpoint.core.base.distributed import Group, group
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.interrupt import StopRequest, locked
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.data.build import Loaders, Part
from stillpoint.core.data.build import loaders as build_loaders
from stillpoint.core.data.streaming import reader_deaths_reported
from stillpoint.core.runs.layout import Run
from stillpoint.core.runs.records import Progress, Row, crash_in_log, finish, write_config
from stillpoint.core.training.begin import begin, on_these_images
from stillpoint.core.training.hooks import TrainHooks
from stillpoint.core.training.loop import Loop

__all__ = ["Progress", "TrainHooks", "train"]

Config = TypeVar("Config", bound=RunConfig)


def train(
    config: Config,
    run: Run,
    *,
    build: Callable[[Config], nn.Module],
    data_root: Path | str | None = None,
    device: str = "auto",
    threads: int | None = None,
    workers: int = 0,
    resume: bool = True,
    progress: Progress | None = None,
    hooks: TrainHooks | None = None,
    loaders: Callable[[torch.device, int, int], Loaders] | None = None,
    code: str = "",
    workflow: bool = False,
    until: int | None = None,
) -> list[Row]:
    """Trains the network that `build` makes from `config`, and writes its results to the folder of `run`.

    Returns the rows of history.csv, one per epoch. An interrupted run resumes, and a finished one is not repeated;
    ``resume=False`` removes what exists and starts from scratch. SIGINT and SIGTERM end the current step, save the
    state and raise `Interrupted`. Under torchrun the processes share each batch.

    loaders     called with (device, rank, world_size); replaces the data of the configuration
    workers     number of processes that read a streaming data set
    code        digest of the code that decides the run, which is recorded
    workflow    a workflow's run of other code or images is replaced, and any other such run refused (see
                `stillpoint.core.runs.claim`)
    until       after so many epochs the state is saved and training ends without results

    Raises `UserError` if another process works in the folder, it holds a run with other settings or data, its states
    are damaged, the loss is not finite (the last good state is kept), or a requested GPU is missing.
    """
    where = pick(device)
    progress, hooks = progress or Progress(), hooks or TrainHooks()
    with ExitStack() as stack:
        together = group(where)
        stack.enter_context(settings(where, threads))
        if together.main:
            # taken only by the writing process, and outside `agree`, because the stack must hold it
            fault = _attempt(lambda: stack.enter_context(locked(run.lock)))
        else:
            fault = None
        asked: dict[str, Any] = {"code": code, "workflow": workflow}
        state = together.agree(lambda: _begin(fault, config, run, progress, resume=resume, **asked))
        stack.enter_context(crash_in_log(run))
        ended = config.train.epochs if until is None else min(until, config.train.epochs)
        # a finished run needs no images, unless a workflow checks that they are still the same
        found: Loaders | None = None
        if state is None or state["epoch"] < ended or workflow:
            if loaders is None:
                found = _loaders(config, data_root, where, together, workers)
            else:
                found = loaders(where, *together.place)
            begun, digest = state, found.digest
            state = together.agree(lambda: on_these_images(run, begun, digest, progress, **asked))
        if state is None or state["epoch"] < ended:
            assert found is not None
            loop = Loop(config, run, together, where, build, found, progress, hooks, state, code)
            together.agree(lambda: write_config(config, run))
            with StopRequest() as stop, reader_deaths_reported():
                loop.go(stop, ended)
            state = loop.saved()
        if state["epoch"] == config.train.epochs:
            together.agree(lambda: finish(config, run, state, where, progress))
        return state["history"]


def _begin(fault: UserError | None, *where: Any, **asked: Any) -> dict[str, Any] | None:
    if fault:
        raise fault
    return begin(*where, **asked)


def _loaders(config: RunConfig, root: Path | str | None, where: torch.device, together: Group, workers: int) -> Loaders:
    # weights that are only measured need no training images
    parts: tuple[Part, ...] = ("train", "validation") if config.train.epochs else ("test",)
    if config.train.epochs and config.train.test_each_epoch:
        parts = (*parts, "test")
    return build_loaders(config, root, where, *together.place, parts=parts, workers=workers)


def _attempt(work: Callable[[], object]) -> UserError | None:
    try:
        work()
    except UserError as error:
        return error
    return None
