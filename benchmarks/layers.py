"""The layers beside their peers: ``python -m benchmarks.layers [--device cuda] [--threads 1] [--json FILE]``.

About four minutes on one core. Every contender is compared with plain float64 code before it is timed.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Clock, machine, peak_memory, pin, spread

RESULTS = Path(__file__).parent / "results"
#: a case is timed up to ATTEMPTS times while a contender's quartiles differ by more than UNSTEADY of its median, a sign
#: of other load
ATTEMPTS, UNSTEADY = 3, 0.2


def measure(case: Any, clock: Clock, rate: float, rounds: int) -> dict[str, Any]:
    """One case: correctness, times, peak memory and floor."""
    import torch

    x = case.input
    with torch.no_grad():
        want = case.reference(x.double())
    seed = torch.randn_like(want).to(x.dtype)
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()

    def gradient(f: Callable, v: Any, g: Any) -> Any:
        (found,) = torch.autograd.grad(f(v), v, g)
        return found

    exact = gradient(case.reference, x.double().requires_grad_(), seed.double()) if case.backward else None
    calls, errors = {}, {}
    for name, f in {**case.contenders, **case.others, **case.bounds}.items():
        compared = name in case.contenders
        with torch.no_grad():
            out = f(x)
        out = out.detach()
        if compared:
            errors[name] = _distance(out, want)
        if case.backward:
            g = seed.contiguous(memory_format=_layout(out)) if compared else torch.randn_like(out)
            if compared:
                found = gradient(f, leaf, g)
                errors[name] = max(errors[name], _distance(found, exact))
            calls[name] = lambda f=f, g=g: gradient(f, leaf, g)
        else:
            calls[name] = lambda f=f: _silent(f, x)
        if compared and errors[name] > case.tolerance:
            raise RuntimeError(f"{case.job} {case.about}: {name} is off by {errors[name]:.1e} of the largest value")
    for _ in range(ATTEMPTS):
        times = clock.interleaved(calls, rounds)
        if all(_steady(values) for values in times.values()):
            break
    results, bounds = {}, {name: spread(times[name]) for name in case.bounds}
    for name, call in calls.items():
        if name in bounds:
            continue
        results[name] = {
            **spread(times[name]),
            "peak_bytes": peak_memory(call, clock.device),
            "error": errors.get(name),
        }
    ours, base = results["stillpoint"]["median_ms"], results[case.baseline]["median_ms"]
    return {
        "job": case.job,
        **case.about,
        "mode": "forward+backward" if case.backward else "forward",
        "baseline": case.baseline,
        "ratio": round(ours / base, 4),
        "tolerance": case.tolerance,
        "floor_bytes": case.floor,
        "floor_ms": round(case.floor / rate, 4),
        "bounds": bounds,
        "contenders": results,
    }


def _silent(f: Callable, x: Any) -> Any:
    import torch

    with torch.no_grad():
        return f(x)


def _steady(times: list[float]) -> bool:
    found = spread(times)
    return found["high_ms"] - found["low_ms"] <= UNSTEADY * found["median_ms"]


def _distance(found: Any, want: Any) -> float:
    return float((found.double() - want).abs().max() / want.abs().max())


def _layout(x: Any) -> Any:
    import torch

    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def line(row: dict[str, Any]) -> str:
    """One case in one line of a terminal."""
    about = " ".join(str(row[k]) for k in ("size", "padding", "select", "layout", "depth", "dtype") if k in row)
    times = ", ".join(f"{name} {v['median_ms']:.2f}" for name, v in row["contenders"].items())
    return f"{row['job']:18} {about:42} {row['mode']:17} {row['ratio']:5.2f}  floor {row['floor_ms']:5.2f} | {times} ms"


def main(arguments: list[str] | None = None) -> None:
    form = argparse.ArgumentParser(prog="python -m benchmarks.layers", description=__doc__, allow_abbrev=False)
    form.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    form.add_argument("--threads", type=int, default=1)
    form.add_argument("--rounds", type=int, default=15)
    form.add_argument(
        "--only", metavar="WORD", default="", help="measure only jobs whose name contains this word, and write nothing"
    )
    form.add_argument(
        "--again", action="store_true", help="with --only: store the faster run of each contender, old or new"
    )
    form.add_argument(
        "--json", action="store_true", help="print the JSON, which is also written to benchmarks/results/"
    )
    args = form.parse_args(arguments)
    pin(args.threads, "benchmarks.layers")

    import torch

    from benchmarks.cases import cases

    torch.manual_seed(0)
    clock = Clock(args.device, args.threads)
    rate = clock.bandwidth()
    about = {**machine(clock), "copy_gigabytes_per_second": round(rate / 1e6, 2), "rounds": args.rounds}
    begun, rows = time.perf_counter(), []
    for case in cases(args.device):
        if args.only.lower() not in case.job.lower():
            continue
        rows.append(measure(case, clock, rate, args.rounds))
        if not args.json:
            print(line(rows[-1]), flush=True)
    about |= {"load_after": [round(v, 2) for v in os.getloadavg()], "seconds": round(time.perf_counter() - begun, 1)}
    found = {"machine": about, "cases": rows}
    if args.json:
        print(json.dumps(found, indent=2))
    if args.only and not args.again:
        return
    from benchmarks.report import write
    from stillpoint.core.base.files import write_json

    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"layers-{args.device}.json"
    write_json(path, again(json.loads(path.read_text()), found) if args.again else found)
    write()


def again(before: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """The results `before` with some jobs measured again: the fastest run of each contender.

    This removes a slow minute of the machine, whichever contender it hit.
    """
    old = {_case(row): row for row in before["cases"]}
    new: dict[str, list[dict[str, Any]]] = {}
    for row in found["cases"]:
        new.setdefault(row["job"], []).append(_fastest(old.get(_case(row)), row))
    later = [*before.get("later", []), {"jobs": list(new), **found["machine"]}]
    rows: list[dict[str, Any]] = []
    jobs = set(new)
    for row in before["cases"]:
        rows += new.pop(row["job"], []) if row["job"] in jobs else [row]
    return {**before, "later": later, "cases": [*rows, *(row for first in new.values() for row in first)]}


def _fastest(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    if old is None:
        return new
    sides = {
        part: {
            name: min((row[part][name] for row in (old, new) if name in row[part]), key=lambda one: one["median_ms"])
            for name in new[part]
        }
        for part in ("contenders", "bounds")
    }
    ours, base = (sides["contenders"][name]["median_ms"] for name in ("stillpoint", new["baseline"]))
    return {**new, **sides, "ratio": round(ours / base, 4), "floor_ms": min(old["floor_ms"], new["floor_ms"])}


def _case(row: dict[str, Any]) -> tuple[Any, ...]:
    about = ("job", "mode", "size", "padding", "select", "depth", "groups", "shape", "layout", "dtype")
    return tuple(row.get(name) for name in about)


if __name__ == "__main__":
    main()
