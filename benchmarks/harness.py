"""How benchmarks are timed: all contenders in one process, in turn, from a cold cache, after a check of their values.

Single times vary on a shared machine; ratios between contenders measured in the same rounds are steady to a few per
cent. On one CPU thread the clock is the CPU time of the process, which excludes other processes.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Without these glibc returns large blocks to the system after each use, every call pays for their page faults again,
# and times of identical code vary twofold. All contenders gain alike.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(1 << 28),
}


def pin(threads: int, module: str) -> None:
    """Restarts this process once with pinned threads and allocator, whose settings are read when a process starts."""
    wanted = {**ALLOCATOR, "KINETO_LOG_LEVEL": "99", "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], {**os.environ, **wanted})


@dataclass
class Clock:
    """Times calls on one device, each from a cold cache."""

    device: str
    threads: int

    def __post_init__(self) -> None:
        import torch

        torch.set_num_threads(self.threads)
        self._filler = torch.zeros(32 * 2**20, device=self.device)  # 128 MiB, beyond any cache
        self.name = "CUDA events" if self.device == "cuda" else "CPU time" if self.threads == 1 else "wall clock"

    def read(self) -> float:
        """The time in milliseconds, once all work on the device has ended; only differences have a meaning."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        return 1e3 * (time.process_time() if self.name == "CPU time" else time.perf_counter())

    def __call__(self, call: Callable[[], Any]) -> float:
        """Milliseconds of one call."""
        import torch

        self._filler.add_(1)
        if self.device == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            end.synchronize()
            return start.elapsed_time(end)
        begun = self.read()
        call()
        return self.read() - begun

    def interleaved(self, calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
        """Milliseconds of every call, `rounds` times each, all once a round and each round in another order.

        The order matters: a call is faster after one whose output had the same memory than after a sum over the input.
        So no call follows the same one every time.
        """
        names = list(calls)
        for name in names:
            calls[name]()
            calls[name]()
        times: dict[str, list[float]] = {name: [] for name in names}
        for k in range(rounds):
            for name in random.Random(k).sample(names, len(names)):
                times[name].append(self(calls[name]))
        return times

    def bandwidth(self) -> float:
        """Copy bandwidth in bytes per millisecond, read and written, of tensors larger than any cache."""
        import torch

        source = torch.ones(32 * 2**20, device=self.device)
        target = torch.empty_like(source)
        times = self.interleaved({"copy": lambda: target.copy_(source)}, 9)["copy"]
        return 2 * source.nbytes / statistics.median(times)


def peak_memory(call: Callable[[], Any], device: str) -> int:
    """`stillpoint.core.surgery.cost.peak_memory`; imported late, since torch reads its settings on import."""
    from stillpoint.core.surgery.cost import peak_memory as measured

    return measured(call, device)


def spread(times: list[float]) -> dict[str, float]:
    """Median and quartiles of times; all equal for a single time."""
    low, middle, high = statistics.quantiles(times * 2 if len(times) == 1 else times, n=4, method="inclusive")
    return {"median_ms": round(middle, 4), "low_ms": round(low, 4), "high_ms": round(high, 4)}


def machine(clock: Clock) -> dict[str, Any]:
    """The machine, settings and versions behind the numbers."""
    import torch

    from stillpoint.core.kernels import native
    from stillpoint.core.runs.provenance import commit

    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):  # noqa: PTH110
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    versions = {}
    for name in ("timm", "kornia", "pytorch_wavelets"):
        try:
            versions[name] = __import__("importlib.metadata", fromlist=["version"]).version(name)
        except ModuleNotFoundError:
            versions[name] = None
    revision, clean = commit()
    return {
        "device": torch.cuda.get_device_name() if clock.device == "cuda" else model,
        "threads": clock.threads,
        "processors": os.cpu_count(),
        "load_before": [round(v, 2) for v in os.getloadavg()],
        "clock": clock.name,
        "allocator": ALLOCATOR,
        "torch": torch.__version__,
        "peers": versions,
        "compiler": native.compiler() if native.available("float") else None,
        # without bytecode every process compiles its imports at every start
        "bytecode": os.path.exists(torch.__spec__.cached or ""),  # noqa: PTH110
        "commit": revision,
        "clean": clean,
    }


def job_form(module: str, purpose: str | None, *, devices: tuple[str, ...], rounds: int) -> argparse.ArgumentParser:
    """The command-line options shared by the benchmarks of whole jobs."""
    form = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=purpose,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    form.add_argument("--device", choices=devices, default="cpu")
    form.add_argument("--threads", type=int, default=1)
    form.add_argument("--rounds", type=int, default=rounds, help="times that each contender is measured")
    form.add_argument("--only", default="", help="measure only jobs whose name contains this word, and write nothing")
    form.add_argument("--json", action="store_true", help="print the JSON as well as writing it")
    return form


def run_jobs(
    subject: str,
    args: argparse.Namespace,
    clock: Clock,
    jobs: Iterable[tuple[str, Callable[[], dict[str, Any]]]],
    line: Callable[[str, dict[str, Any]], str],
) -> None:
    """Measures `jobs` (name, measurement) in turn, prints each with `line`, and stores the rows under `subject`."""
    rows = {}
    for name, measure in jobs:
        if args.only not in name:
            continue
        about = {**machine(clock), "rounds": args.rounds}
        row = measure()
        kept = name if args.threads == 1 else f"{name}, {args.threads} threads"
        rows[kept] = {"machine": {**about, "load_after": [round(v, 2) for v in os.getloadavg()]}, **row}
        if not args.json:
            print(line(name, row), flush=True)
    if args.json:
        print(json.dumps(rows, indent=2))
    if not args.only:
        from benchmarks.report import keep

        keep(subject, args.device, rows)


def ratios(values: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the ratios of times taken in the same turns; all equal for a single turn."""
    found = [a / b for a, b in zip(values, base, strict=True)]
    low, middle, high = statistics.quantiles(found * 2 if len(found) == 1 else found, n=4, method="inclusive")
    return {"median": round(middle, 4), "low": round(low, 4), "high": round(high, 4)}
