"""Files cut off and bytes changed: what is read afterwards is what was written, an earlier state, or refused."""

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from stillpoint.core.base.errors import UserError
from stillpoint.core.data.datasets import load
from stillpoint.core.reporting.reading import read_training
from stillpoint.core.reporting.tables import as_dict
from stillpoint.core.runs.checkpoint import load_state, previous, read_tensors
from stillpoint.core.runs.records import read_history
from stillpoint.pipelines.commands.base import run_config
from stillpoint.pipelines.gathering import gather
from tests.faults.children import Count, child, last_line
from tests.faults.kill import differing, result
from tests.faults.setting import Setting, bits, setting


def faults(content: bytes, times: int, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """`content` cut at `times` offsets, spread evenly, and with one bit of as many bytes changed."""
    for number in range(times):
        offset = len(content) * number // times
        yield f"cut at byte {offset} of {len(content)}", content[:offset]
    for _ in range(times):
        offset, bit = draw.randrange(len(content)), draw.randrange(8)
        yield f"bit {bit} of byte {offset} of {len(content)} changed", _flipped(content, offset, bit)


def _flipped(content: bytes, offset: int, bit: int) -> bytes:
    return content[:offset] + bytes([content[offset] ^ 1 << bit]) + content[offset + 1 :]


def _try(read: Callable[[], object], allowed: list[object]) -> str | None:
    """Nothing if what is read is one of `allowed` or a sentence refuses it, otherwise what happened."""
    try:
        return None if read() in allowed else "silently wrong"
    except UserError as error:
        return "the refusal has several lines" if "\n" in str(error) else None
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def truncate(paper: str, times: int, *, goes_on: int = 4, seed: int = 0, model: str | None = None) -> list[Count]:
    """Damages the state, the weights and the decoded images of a training `times` times each way.

    After `goes_on` of the damages to a state, training goes on, and must end in the bits of one without the damage.
    """
    place = Path(tempfile.mkdtemp(prefix=f"faults-{paper}-"))
    one, log, draw = setting(paper, place / "data", model), place / "log.txt", random.Random(seed)
    counts = []
    try:
        if child(lambda: (one.train(place / "whole"), one.evaluate(place / "whole")), log):
            raise RuntimeError(last_line(log))
        run = one.run(place / "whole")
        good = [bits(load_state(path)[0]) for path in (run.state, previous(run.state))]

        def state() -> object:
            try:
                return bits(load_state(run.state)[0])
            finally:
                # reading moves the previous state into the place of a damaged one
                shutil.copy(place / "previous", previous(run.state))

        shutil.copy(previous(run.state), place / "previous")
        counts.append(_damaged(run.state, "state", state, good, times, draw))
        weights = {name: bits(tensor) for name, tensor in read_tensors(run.weights)[0].items()}
        read = lambda: {name: bits(tensor) for name, tensor in read_tensors(run.weights)[0].items()}  # noqa: E731
        counts.append(_damaged(run.weights, "weights", read, [weights], times, draw))
        decoded = one.data / "prepared" / f"{one.config.data.name}.safetensors"
        if decoded.is_file():
            images = lambda: load(one.config.data.name, one.data, "test").images.numpy().tobytes()  # type: ignore[union-attr]  # noqa: E731
            counts.append(_damaged(decoded, "decoded images", images, [images()], times, draw))
        if goes_on:
            counts.append(_gone_on(one, place, goes_on, draw, log))
    finally:
        shutil.rmtree(place)
    return counts


#: what may stand where a number, a name or a section was
WRONG: tuple[Any, ...] = (float("nan"), float("inf"), "text", [], {}, None, True, [{}], -1, "[/b]\x1b[31m")


def wrong_values(value: Any) -> Iterator[tuple[str, Any]]:
    """`value` with each part of it replaced by each of `WRONG`, and where."""
    for wrong in WRONG:
        yield f"{wrong!r}", wrong
    if isinstance(value, dict):
        for key, inner in value.items():
            for where, changed in wrong_values(inner):
                yield f"{key}: {where}", {**value, key: changed}
            yield f"no {key}", {k: v for k, v in value.items() if k != key}


def wrong(paper: str, model: str | None = None) -> list[Count]:
    """Puts what is no number, no name and no section into the files of a measured run; every reader of them says so in
    a sentence, or needs no such value."""
    place = Path(tempfile.mkdtemp(prefix=f"faults-{paper}-"))
    one, log = setting(paper, place / "data", model), place / "log.txt"
    counts = []
    try:
        if child(lambda: (one.train(place / "whole"), one.evaluate(place / "whole")), log):
            raise RuntimeError(last_line(log))
        run = one.run(place / "whole")
        recipe = run.recipe
        table = lambda: as_dict(gather(paper, recipe, place / "whole", None, []).table)  # noqa: E731
        settings = yaml.safe_load(run.config.read_text())
        readers: list[tuple[Path, Any, Callable[[Any], str], Callable[[], object]]] = [
            (run.metrics, json.loads(run.metrics.read_text()), json.dumps, table),
            (run.training, json.loads(run.training.read_text()), json.dumps, lambda: read_training(run)),
            (run.config, settings, _yaml, lambda: (run_config(run, []), table())),
            (run.history, _rows(run.history), _csv, lambda: read_history(run.history)),
        ]
        for path, content, write, read in readers:
            count, before = Count(f"wrong values in {path.name}"), path.read_bytes()
            path.write_text(write(content))
            read()  # which is well as long as nothing is wrong
            for where, changed in wrong_values(content):
                path.write_text(write(changed))
                try:
                    json.dumps(read(), default=str)
                    problem = None
                except UserError as error:
                    said = str(error)
                    problem = f"the refusal is no sentence: {said!r}" if "\n" in said or len(said) > 900 else None
                except Exception as error:
                    problem = f"{type(error).__name__}: {error}"
                count.add(where, problem)
            path.write_bytes(before)
            counts.append(count)
    finally:
        shutil.rmtree(place)
    return counts


def _yaml(settings: Any) -> str:
    # a thousand of them: libyaml's is ten times as fast
    return str(yaml.dump(settings, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))


def _rows(path: Path) -> dict[str, Any]:
    head, *lines = path.read_text().splitlines()
    return {str(number): dict(zip(head.split(","), line.split(","), strict=True)) for number, line in enumerate(lines)}


def _csv(rows: Any) -> str:
    lines = list(rows.values()) if isinstance(rows, dict) else [rows]
    head = list(lines[0]) if lines and isinstance(lines[0], dict) else ["epoch"]
    cells = [list(map(str, line.values())) if isinstance(line, dict) else [str(line)] for line in lines]
    return "\n".join(",".join(line) for line in [head, *cells]) + "\n"


def _damaged(
    path: Path, what: str, read: Callable[[], object], good: list[object], times: int, draw: random.Random
) -> Count:
    count, content = Count(f"{what} ({path.name}) cut off or changed, then read"), path.read_bytes()
    for fault, damaged in faults(content, times, draw):
        path.write_bytes(damaged)
        count.add(fault, _try(read, good))
    path.write_bytes(content)
    return count


def _gone_on(one: Setting, place: Path, times: int, draw: random.Random, log: Path) -> Count:
    count, whole = Count("state cut off or changed, then training goes on"), result(one, place / "whole")
    # each way, so half as many of each
    content = one.run(place / "whole").state.read_bytes()
    for number, (fault, damaged) in enumerate(faults(content, max(times // 2, 1), draw)):
        root = place / f"damaged{number}"
        shutil.copytree(place / "whole", root)
        run = one.run(root)
        for path in (run.weights, run.training, run.metrics, run.maps):
            path.unlink()
        run.state.write_bytes(damaged)

        def again(root=root) -> None:
            one.train(root)
            one.evaluate(root)

        code = child(again, log)
        count.add(fault, f"ended with {code} ({last_line(log)})" if code else differing(whole, result(one, root)))
    return count
