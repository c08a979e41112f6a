"""Releases finished runs: checks them, measures them again, and writes the kept runs.

Everything is built in a temporary folder and renamed in the end, so that a refused run, a full disk or a full store
changes nothing.
"""

import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stillpoint import pipelines
from stillpoint.core.base.documents import read_json
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import digest, write_json, write_together
from stillpoint.core.base.interrupt import locked
from stillpoint.core.reporting.card_page import card_texts
from stillpoint.core.reporting.reading import read_maps, read_metrics, read_training
from stillpoint.core.runs import cards
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines import measuring

if TYPE_CHECKING:
    from stillpoint.core.config.schema import RunConfig

#: default number of test images that are measured again: all of most data sets
SAMPLE = 2_000
#: standard errors by which the accuracy of a sample may differ from that of all images
ERRORS = 4.0
#: logit changes below the first are rounding; others may differ by the second as a factor on another processor
ROUNDING, TIMES = 1e-5, 5.0
#: largest size in bytes of the store in the repository, which every clone carries for ever, and of one file in it
STORE_BYTES, LARGEST = 60 << 20, 6 << 20
#: total bytes of a run's arrays that are kept, smallest first; larger ones serve only figures of their own
MAPS_BYTES = 512 << 10


@dataclass(frozen=True)
class Asked:
    """The options of a release.

    to       folder of the kept runs
    weights  keep weights too, in the DVC remote `remote`: kernels and matrices in float16 or, with `full`, all in
             float32
    sample   number of test images that are measured again
    anew     replace kept runs
    """

    to: Path
    weights: bool = False
    full: bool = False
    remote: str = cards.STORE
    sample: int = SAMPLE
    anew: bool = False
    data: str | None = None
    device: str = "auto"
    threads: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        return {"data": self.data, "device": self.device, "threads": self.threads}


@dataclass(frozen=True)
class Whole:
    """A finished, measured and consistent run; `epoch` is that of its weights."""

    run: Run
    config: "RunConfig"
    metrics: dict[str, Any]
    training: dict[str, Any]
    epoch: int
    weights_digest: str


def release(runs: Sequence[Run], asked: Asked, tell: Callable[[str], None] = print) -> list[Run]:
    """Keeps `runs`, all or none of them, and returns the kept runs.

    Raises `UserError` if one of them is unfinished, not measured, damaged, foreign or kept already, if its numbers are
    not reproduced, or if there is no room for the weights.
    """
    # one release at a time: two could write to the same place, and DVC allows one
    with locked(asked.to / ".lock", wait=tell):
        _recover(asked.to, tell)
        return _release(runs, asked, tell)


def _release(runs: Sequence[Run], asked: Asked, tell: Callable[[str], None]) -> list[Run]:
    targets = [Run(run.pipeline, run.recipe, run.model, run.seed, asked.to) for run in runs]
    for run, target in zip(runs, targets, strict=True):
        if targets.count(target) > 1:
            raise UserError(f"two of these runs would become {target.folder}: release one of them")
        if target.card.exists() and not asked.anew:
            raise UserError(f"{target.folder} is kept already: --anew replaces it by {run.folder}")
    place = asked.to / cards.STAGED.replace("*", secrets.token_hex(4))
    try:
        for run in runs:
            staged = Run(run.pipeline, run.recipe, run.model, run.seed, place)
            staged.folder.mkdir(parents=True)
            if run.card.is_file():
                _stage_kept(run, staged, asked)
            else:
                with locked(run.lock):
                    _stage(run, staged, asked)
            tell(f"{staged.folder.relative_to(place)}: its numbers are reproduced")
        with _placed(place, targets, asked.to):
            _store([target for target in targets if target.weights.is_file()], asked)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return targets


def whole(run: Run) -> Whole:
    """Reads a run and checks that its files belong together; `UserError` for the first that does not."""
    from stillpoint.core.runs.checkpoint import read_tensors
    from stillpoint.core.runs.provenance import tensors_digest
    from stillpoint.core.runs.records import read_history

    config = own_config(run)
    for path, what in ((run.training, "has not finished training"), (run.metrics, "was not measured")):
        if not path.is_file():
            remedy = "finish it first" if path == run.training else f"run stillpoint evaluate {run.folder}"
            raise UserError(f"{run.folder} {what}, so it cannot be released: {remedy}")
    training, metrics = read_training(run), read_metrics(run)
    origin = metrics.get("provenance", {})
    absent = [key for key in ("weights_digest", "data_digest", "code_digest") if not origin.get(key)]
    absent += [key for key in ("trained", "evaluate", "images", "parameters", "dataset") if not metrics.get(key)]
    absent += [key for key in ("commit", "clean", "torch", "device") if key not in origin]
    if absent:
        raise UserError(f"{run.metrics} does not say what it measured: repeat it with stillpoint evaluate {run.folder}")
    for path, said in ((run.training, training), (run.metrics, metrics)):
        if said.get("config_digest") != config.digest():
            raise UserError(f"{path} has other settings than {run.config}: it belongs to another run")
    if absent := [key for key in ("commit", "clean", "torch", "seconds") if key not in training]:
        raise UserError(f"{run.training} does not say how the run was trained ({absent[0]} is missing): train it again")
    for path in (run.timing, run.test_history, run.test_timing):
        if path.is_file():
            read_history(path)
    for path in (run.scores, run.beside):
        if path.is_file():
            read_json(path, remedy="evaluate the run again", of=dict)
    if config.train.epochs and len(read_history(run.history)) != config.train.epochs:
        raise UserError(
            f"{run.history} does not have the {config.train.epochs} epochs of {run.config}: it belongs to another run"
        )
    read_maps(run.maps)
    tensors, about = read_tensors(run.weights)
    name = f"{run.pipeline}/{run.model}"
    stated = {"model": name, "config_digest": config.digest(), "seed": run.seed, "dataset": config.data.name}
    if wrong := [key for key, value in stated.items() if about.get(key) != value]:
        raise UserError(
            f"{run.weights} belongs to another run (its {wrong[0]} is {about.get(wrong[0])}, not {stated[wrong[0]]})"
        )
    net = pipelines.build(config)
    from stillpoint.core.runs.checkpoint import fill

    fill(net, tensors, origin=str(run.weights), model=name)
    found = tensors_digest(net.state_dict())
    if found != origin["weights_digest"]:
        raise UserError(
            f"{run.metrics} was measured with other weights than those in the folder: repeat it with "
            f"stillpoint evaluate {run.folder}"
        )
    return Whole(run, config, metrics, training, int(about["epoch"]), found)


def own_config(run: Run) -> "RunConfig":
    """The configuration of a run; `UserError` if it is not that of its folder, or of an unknown network."""
    from stillpoint.core.config.merge import read_settings
    from stillpoint.core.config.schema import validate

    if not run.config.is_file():
        raise UserError(f"{run.folder} holds no run: it has no {run.config.name}")
    settings = read_settings(run.config)
    pipelines.entry(f"{run.pipeline}/{run.model}")
    model = settings.get("MODEL")
    own = settings.get("PIPELINE"), settings.get("RECIPE"), model.get("NAME") if isinstance(model, dict) else None
    if own != (run.pipeline, run.recipe, run.model) or settings.get("SEED") != run.seed:
        raise UserError(
            f"{run.folder} holds the run of {own[0]}/{own[2]}, recipe {own[1]}, seed {settings.get('SEED')}: it was "
            "moved"
        )
    return validate(pipelines.paper(run.pipeline).schema(), settings)


def _stage(run: Run, staged: Run, asked: Asked) -> None:
    """Builds the kept run of a trained one in `staged`."""
    found = whole(run)
    _copy(run, staged)
    kept, before = None, {}
    if asked.weights:
        kept, again = _rounded(found, staged, asked)
        before = {} if asked.full else measuring.numbers(found.metrics["trained"])
    else:
        again = sampled(found, run.weights, asked)
    name = f"{run.pipeline}/{run.model}"
    card: dict[str, Any] = {
        "model": name,
        "recipe": run.recipe,
        "seed": run.seed,
        "epoch": found.epoch,
        "source": pipelines.entry(name)[1].source,
        "weights_digest": found.weights_digest,
        "weights": kept,
        "before_rounding": before,
        "measured_again": again,
        "probe": measuring.probe(name, found.config, staged.weights if kept else run.weights),
    }
    if kept:
        card["on_digits"] = measuring.on_digits(found.config, staged.weights, asked.device, asked.threads)
    if left_out := _small_maps(staged):
        card["maps_left_out"] = left_out
    staged.lock.unlink(missing_ok=True)
    write_together(card_texts(staged, card))


def _stage_kept(run: Run, staged: Run, asked: Asked) -> None:
    """Copies a run that is kept elsewhere to `staged`; with its weights, its numbers are measured again."""
    card = cards.check(run)
    own_config(run)
    if read_metrics(run).get("config_digest") != own_config(run).digest():
        raise UserError(f"{run.metrics} has other settings than {run.config}: it belongs to another run")
    if asked.weights and card["weights"] is None:
        raise UserError(f"{run.folder} is kept without its weights: leave out --weights")
    _copy(run, staged)
    for path in (run.card, run.page):
        shutil.copyfile(path, staged.folder / path.name)
    if card["weights"] is not None and asked.weights:
        shutil.copyfile(cards.weights(run), staged.weights)
        metrics = read_metrics(run)
        sampled(Whole(run, own_config(run), metrics, {}, card["epoch"], ""), staged.weights, asked)


def _copy(run: Run, staged: Run) -> None:
    for name in cards.FILES:
        if (run.folder / name).is_file():
            shutil.copyfile(run.folder / name, staged.folder / name)


def _small_maps(staged: Run) -> dict[str, str]:
    """Keeps a run's smallest arrays, up to `MAPS_BYTES`; returns the names of the others with their digests."""
    from hashlib import sha256

    from safetensors.numpy import save

    from stillpoint.core.base.files import write_atomic

    arrays = read_maps(staged.maps)
    kept, size = {}, 0
    for name in sorted(arrays, key=lambda name: (arrays[name].nbytes, name)):
        size += arrays[name].nbytes
        if size > MAPS_BYTES:
            break
        kept[name] = arrays[name]
    if left_out := sorted(arrays.keys() - kept):
        write_atomic(staged.maps, save(kept))
    return {name: sha256(arrays[name].tobytes()).hexdigest() for name in left_out}


def _rounded(found: Whole, staged: Run, asked: Asked) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes the kept weights and their metrics; returns the card's entries on the weights and their measurement."""
    from safetensors.numpy import save

    from stillpoint.core.base.files import write_atomic
    from stillpoint.core.runs.checkpoint import read_tensors, save_weights
    from stillpoint.pipelines.workflow import stage_code

    run, config, before = found.run, found.config, found.metrics
    code = stage_code("evaluate", run.pipeline, config.data.name)
    if before["provenance"]["code_digest"] != code:
        raise UserError(
            f"{run.metrics} was measured by other code than now measures the kept weights, so they cannot share a "
            f"mean: repeat it, and the other seeds, with stillpoint evaluate {run.folder}"
        )
    tensors, about = read_tensors(run.weights)
    precision = "float32" if asked.full else "float16 (kernels and matrices), float32 (the rest)"
    named = {key: about[key] for key in ("config_digest", "epoch", "dataset", "seed")}
    name, stored = f"{run.pipeline}/{run.model}", tensors if asked.full else cards.halved(tensors)
    save_weights(staged.weights, stored, model=name, precision=precision, **named)
    again = measuring.measured_in(
        staged, measuring.trained_alone(config, before["evaluate"]), code=code, **asked.options
    )
    _same_images(found, again["provenance"]["data_digest"])
    if lost := cards.changed(before["trained"], again["trained"], where="before rounding"):
        raise UserError(f"half precision changes {run.folder} too much ({'; '.join(lost)}): release it with --full")
    # measurements before training do not depend on the weights
    maps = {k: v for k, v in read_maps(run.maps).items() if k.startswith("untrained/")} | read_maps(staged.maps)
    write_atomic(staged.maps, save(maps))
    untrained = {"untrained": before["untrained"]} if "untrained" in before else {}
    trained = again.pop("trained")
    write_json(staged.metrics, {**again, **untrained, "trained": trained, "evaluate": before["evaluate"]})
    kept = {
        "sha256": digest(staged.weights),
        "md5": digest(staged.weights, "md5"),
        "bytes": staged.weights.stat().st_size,
        "precision": precision,
        "remote": asked.remote,
    }
    return kept, _again(again["images"], trained, again["provenance"])


def sampled(found: Whole, weights: Path, asked: Asked) -> dict[str, Any]:
    """Measures some of a run's numbers again on some of its test images, and returns the card's entry on them.

    Raises `UserError` if they differ by more than `cards.TOLERANCE`, on a part of the images plus `ERRORS` standard
    errors.
    """
    from stillpoint.core.data.build import images

    config, metrics = found.config, found.metrics
    whole_set = images(config, "test", asked.data)
    assert whole_set is not None, "every data set has a test part"
    _same_images(found, whole_set.digest)
    few = measuring.shortened(config, metrics["evaluate"], asked.sample)
    again = measuring.measured(few, weights, **asked.options)
    stated, now = metrics["trained"], again["trained"]
    part, every = again["images"], metrics["images"]
    shared = [key for key in stated if key in now and key.endswith(("accuracy", "consistency"))]
    off = []
    for key in shared or [key for key in measuring.numbers(stated) if key in now]:
        value = float(stated[key])
        allowed = cards.TOLERANCE if shared else 0.01 * max(1.0, abs(value))
        if part < every:
            allowed += ERRORS * max(value * (1 - value), 1 / every) ** 0.5 / part**0.5 if shared else float("inf")
        if not abs(float(now[key]) - value) <= allowed:
            off.append(f"{key}: {value:.6g} in {found.run.metrics.name}, {now[key]:.6g} now")
    # largest changes are comparable only on the same images, up to rounding and a factor
    for key in [key for key in stated if key in now and key.endswith("logit_change")] if part == every else []:
        value, again_value = float(stated[key]), float(now[key])
        if max(value, again_value) > ROUNDING and not value / TIMES <= again_value <= value * TIMES:
            off.append(f"{key}: {value:.6g} in {found.run.metrics.name}, {again_value:.6g} now")
    if off:
        raise UserError(f"the weights of {found.run.folder} do not reproduce its numbers ({'; '.join(off[:3])})")
    return _again(part, {key: now[key] for key in shared} or measuring.numbers(now), again["provenance"])


def _same_images(found: Whole, now: str) -> None:
    if now != found.metrics["provenance"]["data_digest"]:
        raise UserError(
            f"{found.run.metrics} was measured on other images of {found.metrics['dataset']} than those here"
        )


def _again(images: int, numbers: dict[str, Any], origin: dict[str, Any]) -> dict[str, Any]:
    """A card's entry on the measurement at release."""
    where = {key: origin[key] for key in ("commit", "clean", "torch", "device")}
    return {"images": images, "metrics": measuring.numbers(numbers), **where}


@contextmanager
def _placed(place: Path, targets: Sequence[Run], to: Path) -> Iterator[None]:
    """A context in which the staged runs are in their places; they stay there unless it raises."""
    names = [target.folder.relative_to(to).as_posix() for target in targets]
    # the next release puts back what a killed one has moved
    write_json(place / cards.PLACING, names)
    try:
        for number, (name, target) in enumerate(zip(names, targets, strict=True)):
            target.folder.parent.mkdir(parents=True, exist_ok=True)
            if target.folder.exists():
                target.folder.rename(place / f"before{number}")
            (place / name).rename(target.folder)
        yield
        (place / cards.PLACING).unlink()
    except BaseException:
        _put_back(place, to)
        raise


def _put_back(place: Path, to: Path) -> None:
    """Undoes the moves of a release, wherever it or an earlier undoing was interrupted."""
    remedy = f"remove {place}"
    names = read_json(place / cards.PLACING, remedy=remedy, of=list)
    # a file in somebody's repository must not move anything elsewhere
    if not all(isinstance(name, str) and re.fullmatch(r"(?!\.)[^/]+(/(?!\.)[^/]+){3}", name) for name in names):
        raise UserError(f"{place / cards.PLACING} is not a list of runs: {remedy}")
    for number, name in enumerate(names):
        folder, before = to / name, place / f"before{number}"
        if not (place / name).exists() and folder.exists():
            folder.rename(place / name)
        if before.exists():
            before.rename(folder)
    # removed before the rest of the folder, since it says where the runs belong
    (place / cards.PLACING).unlink()


def _recover(to: Path, tell: Callable[[str], None]) -> None:
    """Removes what killed releases left in `to`, and puts back what they moved."""
    for place in sorted(to.glob(cards.STAGED)):
        if (place / cards.PLACING).is_file():
            _put_back(place, to)
            tell(f"a release that was killed in {to} is undone: the runs are as they were before it")
        shutil.rmtree(place, ignore_errors=True)


def store_of(folder: Path) -> Path | None:
    """The DVC repository that contains a folder of kept runs; None if there is none."""
    above = [parent for parent in folder.resolve().parents if (parent / ".dvc" / "config").is_file()]
    return above[0] if above else None


def _store(runs: Sequence[Run], asked: Asked) -> None:
    """Adds the weights of placed runs to DVC and pushes them; `UserError` if there is no room."""
    home = store_of(asked.to)
    if not runs or home is None:
        return
    paths = [run.weights.resolve().relative_to(home).as_posix() for run in runs]
    if asked.remote == cards.STORE:
        _room(home / ".dvc-store", [run.weights for run in runs])
    _dvc(home, "add", *paths)
    pointers = [f"{path}.dvc" for path in paths]
    try:
        _dvc(home, "push", "-r", asked.remote, *pointers)
    finally:
        if asked.remote != cards.STORE:
            for pointer in pointers:
                (home / pointer).unlink()


def _room(store: Path, files: Sequence[Path]) -> None:
    for path in files:
        if path.stat().st_size > LARGEST:
            raise UserError(
                f"{path.name} has {path.stat().st_size / 1e6:.1f} MB, but the store takes files of at most "
                f"{LARGEST >> 20} MiB: keep it elsewhere with --remote NAME, or release the run without --weights"
            )
    held = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    more = sum(path.stat().st_size for path in files)
    if held + more > STORE_BYTES:
        raise UserError(
            f"{store.name} holds {held >> 20} of {STORE_BYTES >> 20} MiB and has no room for {more / 1e6:.1f} MB more: "
            "keep the weights elsewhere with --remote NAME, or release the runs without --weights"
        )


def _dvc(home: Path, *words: str) -> str:
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(
        command, cwd=home, capture_output=True, text=True, errors="replace", env={**os.environ, "DVC_NO_ANALYTICS": "1"}
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        said = next((line for line in lines if line.startswith("ERROR: ")), lines[-1]).removeprefix("ERROR: ")
        raise UserError(f"dvc {words[0]} failed: {said}")
    return done.stdout


@contextmanager
def fetched(address: str) -> Iterator[Run]:
    """A context with a copy of the run at an address that DVC can reach, ``ssh://host/path/...`` or ``remote://name/...``.

    Raises `UserError` if the address does not name a run's folder or cannot be reached.
    """
    parts = address.rstrip("/").split("/")
    with TemporaryDirectory() as root:
        folder = Path(root, *parts[-4:])
        run = Run.of(_named(address, folder))
        folder.parent.mkdir(parents=True)
        _dvc(Path.cwd(), "get-url", address.rstrip("/"), str(folder))
        try:
            yield run
        except UserError as error:
            # the copy is gone, and the user knows the run by its address
            raise UserError(str(error).replace(str(folder), address.rstrip("/"))) from error


def _named(address: str, folder: Path) -> Path:
    scheme, _, rest = address.partition("://")
    if not scheme or len(rest.rstrip("/").split("/")) < 5 or any(part in ("", ".", "..") for part in folder.parts[-4:]):
        raise UserError(f"{address} does not name a run: it must end in <pipeline>/<recipe>/<model>/seed<k>")
    return folder
