"""Measures the network of a run before and after training, on the test images of its configuration."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save_file
from torch import Tensor, nn

from stillpoint.core.base.device import pick, settings
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import atomic_path, json_text, sweep
from stillpoint.core.base.interrupt import locked
from stillpoint.core.base.progress import OnProgress
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.data.build import loader
from stillpoint.core.data.streaming import reader_deaths_reported
from stillpoint.core.evaluation.engine import Evaluations, Predictor, one_pass
from stillpoint.core.evaluation.registry import EVALUATIONS
from stillpoint.core.runs import claim
from stillpoint.core.runs.layout import Run
from stillpoint.core.runs.provenance import provenance, tensors_digest
from stillpoint.core.runs.records import crash_in_log
from stillpoint.core.runs.statuses import fill_at

Config = TypeVar("Config", bound=RunConfig)


def evaluate_run(
    run: Run,
    *,
    config: Config,
    build: Callable[[Config], nn.Module],
    evaluations: Evaluations | None = None,
    data_root: Path | str | None = None,
    device: str = "auto",
    threads: int | None = None,
    workers: int = 0,
    progress: OnProgress | None = None,
    status: str = "weights",
    code: str = "",
    workflow: bool = False,
    after: Callable[[Run], object] | None = None,
) -> dict[str, Any]:
    """Measures a trained run, and the same network before training; writes metrics.json and maps.safetensors.

    config         the run's, except for its EVALUATE section, which may differ
    build          configuration -> network, initialised from its seed
    evaluations    the pipeline's, by name; None: core's, which have only our own protocol
    status         which weights of the run, see `runs.statuses.fill_at`; results of weights other than the kept ones go
                   to the files of ``run.at(status)``, with "status" and "epoch"
    code           digest of the measuring code, recorded with the results
    workflow       existing results are not measured again (see `stillpoint.core.runs.claim.measured`)
    after          called with the measured run (``run.at(status)``) while the folder's lock is still held
    device         see `stillpoint.core.base.device.pick`

    Returns the content of metrics.json: "untrained" (unless EVALUATE.UNTRAINED is false) and "trained", each a flat
    dictionary of numbers; "parameters", "images", "dataset" (title), "config_digest", "evaluate" (how it was
    measured), and "provenance", the one part that differs between two calls. Maps are named ``trained/<name>``.
    metrics.json is written last, so that its presence implies both.

    Evaluation is always in float32, whatever the precision of training: rounding to bfloat16 would decide near ties of
    an adaptive grid, and so change the consistency. Raises `UserError` if the folder holds no run, a kept one or one
    with other settings, if the weights are missing, damaged or another network's, and as `evaluation.engine.evaluate`
    does.
    """
    _check(run, config)
    if evaluations is None:
        evaluations = EVALUATIONS
    where = pick(device)
    start = time.perf_counter()
    with locked(run.lock), crash_in_log(run), settings(where, threads), reader_deaths_reported():
        sweep(run.folder)
        # again under the lock: the run may have been replaced since
        _check(run, config)
        if status in ("weights", "best") and run.state.is_file() and not run.training.is_file():
            raise UserError(f"{run.folder} holds an unfinished training: finish it before measuring")
        measured = config.evaluate
        options = {"batch_size": measured.batch_size, "workers": workers, "margin": measured.margin}
        batches = loader(config, "test", data_root, where, **options)
        assert batches is not None, "every data set has a test part"
        images = batches.image_set
        states = ("untrained", "trained") if config.evaluate.untrained else ("trained",)
        trained = build(config)
        epoch = fill_at(trained, run, config, status)
        weights = tensors_digest(trained.state_dict())
        asked = config.dump()["EVALUATE"]
        if workflow and (held := claim.measured(run.at(status), asked, weights, images.digest, code)):
            return held
        if run.at(status) is run:
            claim.not_kept(run, "measuring")
        found: dict[str, Any] = {}
        maps: dict[str, Tensor] = {}
        rate: dict[str, float] = {}
        for state in states:
            net = trained if state == "trained" else build(config)
            predict = Predictor(net.to(where), channels_last=config.train.channels_last)
            began = time.perf_counter()
            report = _under(state, progress)
            results = one_pass(predict, batches, config.evaluate, config.seed, evaluations, report, data_root)
            rate[state] = round(predict.images / (time.perf_counter() - began), 1)
            found[state] = {name: value for name, value in results.items() if not isinstance(value, Tensor)}
            maps |= {f"{state}/{name}": value for name, value in results.items() if isinstance(value, Tensor)}
        parameters = sum(parameter.numel() for parameter in net.parameters())
        origin = provenance(config, images.digest, where, time.perf_counter() - start, images.order)
        # shifted views count as images
        origin["images_per_second"] = rate
        origin |= {"weights_digest": weights, "code_digest": code}
        skipped = sorted(getattr(batches, "skipped", ()))
        metrics = {
            "dataset": images.title,
            "images": len(images) - len(skipped),
            **({"skipped": skipped} if skipped else {}),
            "parameters": parameters,
            **found,
            "config_digest": config.digest(),
            "evaluate": asked,
            "provenance": origin,
        }
        place = run.at(status)
        if place is not run:
            metrics |= {"status": status, "epoch": epoch}
            place.metrics.parent.mkdir(exist_ok=True)
        with atomic_path(place.metrics) as numbers:
            numbers.write_bytes(json_text(metrics).encode())
            with atomic_path(place.maps) as arrays:
                save_file({name: value.contiguous() for name, value in maps.items()}, arrays)
                # so that old numbers never lie beside these arrays, even if the process is killed here
                place.metrics.unlink(missing_ok=True)
        if after is not None:
            after(place)
    return metrics


def _under(state: str, progress: OnProgress | None) -> OnProgress | None:
    return None if progress is None else lambda what, done, total: progress(f"{state}: {what}", done, total)


def _check(run: Run, config: RunConfig) -> None:
    """Raises `UserError` unless the run in the folder was trained with the settings of `config`."""
    if not run.config.is_file():
        raise UserError(f"{run.folder} holds no run: there is no {run.config.name} in it")
    if departures := claim.departures(run, config):
        raise UserError(f"only EVALUATE.* can be changed for a trained run, not {'; '.join(departures[:3])}")
