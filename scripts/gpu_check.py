"""The parts that `scripts/gpu_check.sh` runs, each in its own processes with a time limit.

OUT receives at most five files, since a borrowed machine may return few: ``summary.json`` with the results of every
part, rewritten after each case, and the runs in ``runs.tar.00`` and so on, pieces of at most 15 MiB and 60 MiB in all,
from which the next call continues. Meanwhile the runs themselves are beside OUT, in OUT.work.
"""

import argparse
import ctypes
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any

from gpu_pieces import CARRIED, PIECE, PIECES, carried, pack, progress, revision, unpack, unpack_measurements

ROOT = Path(__file__).resolve().parent.parent
#: seconds on a GPU that a part has to save its state after SIGTERM
GRACE = 20
#: seconds of a whole call on a GPU, including the time to save states
WHOLE = 470
#: seconds of one law, so that a kernel that hangs does not prevent the others
LAW_SECONDS = 60
PR_SET_PDEATHSIG = 1  # option of Linux's prctl: the signal to send when the parent ends
LAWS = (
    *("blurs", "frames", "precisions", "choices", "shifts", "edges", "magnitudes", "correlations", "steps"),
    *("mixtures", "frames_of_phases", "activities", "translations", "polynomials", "norms"),
)
#: (network, recipe): the fast one, timed to its accuracy, and the full recipes of 250 and 300 epochs
FAST = ("aps/speednet", "cifar10_fast")
FULL = tuple((f"aps/resnet20{filling}", "cifar10") for filling in ("", "_lpf3", "_aps1", "_aps3"))
FULL += tuple((f"wavelet_twins/R18{stem}", "cifar10_quarter") for stem in ("C", "wyC_mod"))
TOY_FAST, TOY_FULL = ("aps/resnet20", "digits"), (("aps/resnet20_aps1", "digits"), ("aps/resnet20_aps3", "digits"))
TOY = ["DATA.LIMIT", "128", "MODEL.WIDTH", "0.25", "EVALUATE.METRICS", "[accuracy, circular]"]
#: epochs of a rehearsal: few in one part, and in the other more than its limit allows
TOY_EPOCHS = {"accuracy": "2", "full": "40"}


@dataclass(frozen=True)
class Setting:
    """The options of a call."""

    out: Path
    data: Path
    toy: bool

    @property
    def device(self) -> str:
        return "cpu" if self.toy else "cuda"

    @property
    def grace(self) -> int:
        """Seconds that a part has to save its state after SIGTERM."""
        return 60 if self.toy else GRACE

    @property
    def work(self) -> Path:
        """Where runs are trained."""
        return self.out.with_name(f"{self.out.name}.work")

    @property
    def results(self) -> Path:
        """The runs of the full recipes, which a later call continues."""
        return self.work / "results"

    @property
    def fast(self) -> Path:
        """The run of the fast recipe, which each call starts afresh, since it is timed."""
        return self.work / "fast"

    @property
    def runs(self) -> dict[Path, Path]:
        """The runs that come back -> the results folder of each."""
        runs = dict.fromkeys(self.results.glob("*/*/*/seed*"), self.results)
        # an unfinished run of the fast recipe is useless to the next call, which starts it afresh
        done = [run for run in self.fast.glob("*/*/*/seed*") if (run / "train.json").is_file()]
        return runs | dict.fromkeys(done, self.fast)

    @property
    def full(self) -> list[tuple[str, str]]:
        return list(TOY_FULL if self.toy else FULL)


def read(here: Setting) -> dict[str, Any]:
    path = here.out / "summary.json"
    return json.loads(path.read_text()) if path.is_file() else {"parts": {}}


def write(here: Setting, about: dict[str, Any]) -> None:
    path = here.out / "summary.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(about, indent=1) + "\n")
    temporary.replace(path)


def tell(here: Setting, part: str, found: dict[str, Any]) -> None:
    """Writes a part's results so far to the summary; parts run in turn, so no other process writes it."""
    about = read(here)
    about["parts"].setdefault(part, {})["found"] = found
    write(here, about)


def prepare(here: Setting) -> None:
    """Decodes the images and compiles the CPU's kernels, once, for all later parts."""
    from stillpoint.core.data import datasets
    from stillpoint.core.kernels import native
    from stillpoint.pipelines.checkup import KERNELS

    begun, name = time.perf_counter(), "digits" if here.toy else "cifar10"
    found: dict[str, Any] = {}

    def tell_seconds(**more: Any) -> None:
        found.update(more, seconds=round(time.perf_counter() - begun, 1))
        tell(here, "prepare", found)

    # a compiler process each, beside the decoding; otherwise the parallel laws would wait for one another to compile
    with ThreadPoolExecutor() as pool:
        built = {source: pool.submit(native.available, "float", source) for source in KERNELS}
        tell_seconds(test_images={name: len(datasets.load(name, here.data, "test"))})
        tell_seconds(kernels={source: one.result() for source, one in built.items()})


def kernels(here: Setting) -> None:
    """Checks the laws of the Triton kernels against the CPU's values, one process each."""
    environment = {**os.environ, **({"TRITON_INTERPRET": "1"} if here.toy else {})}
    found: dict[str, Any] = dict.fromkeys(LAWS, "not tried")

    def tried(law: str) -> tuple[str, Any]:
        command = [sys.executable, str(ROOT / "tests/core/kernels/triton_cases.py"), law]
        limit = PARTS["kernels"].toy_seconds if here.toy else LAW_SECONDS
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return law, f"did not end within {limit} s"
        passed = done.returncode == 0 and f"{law} pass" in done.stdout
        return law, "pass" if passed else (done.stderr.strip().splitlines() or ["no output"])[-12:]

    # in parallel, since most of a law's time is the start of its process
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as pool:
        for one in as_completed([pool.submit(tried, law) for law in LAWS]):
            law, word = one.result()
            found[law] = word
            tell(here, "kernels", {"laws": found, "interpreted": here.toy})
            print(law, "pass" if word == "pass" else "FAIL", flush=True)


def layers(here: Setting) -> None:
    """Times the layers beside their peers and their floor, bytes over bandwidth."""
    import torch

    from benchmarks import alias_free, cases, sampling
    from benchmarks.harness import Clock, machine
    from benchmarks.layers import line, measure

    os.environ["KINETO_LOG_LEVEL"] = "99"  # silences the profiler that measures peak memory
    # with TF32's 10 bits convolutions would miss the values that each contender is compared with
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    clock, rounds, begun = Clock(here.device, 1 if here.toy else 8), 1 if here.toy else 15, time.perf_counter()
    rate = clock.bandwidth()
    about = {**machine(clock), "copy_gigabytes_per_second": round(rate / 1e6, 2), "rounds": rounds, "tf32": False}
    subjects = {"layers": [cases.cases], "sampling": [sampling.cases, alias_free.cases]}
    found: dict[str, Any] = {subject: {"machine": about, "cases": [], "failed": []} for subject in subjects}
    for subject, sources in subjects.items():
        kept = found[subject]
        for number, case in enumerate(chain.from_iterable(source(here.device) for source in sources)):
            if here.toy and number == 2:
                break
            try:
                kept["cases"].append(measure(case, clock, rate, rounds))
                print(line(kept["cases"][-1]), flush=True)
            except Exception as error:  # a case that fails must not prevent the others
                kept["failed"].append(
                    {"job": case.job, **case.about, "error": f"{type(error).__name__}: {error}"[:400]}
                )
                print(case.job, case.about, "FAIL", flush=True)
            kept["machine"] = {**about, "seconds": round(time.perf_counter() - begun, 1)}
            tell(here, "layers", found)


def network(here: Setting) -> None:
    """Times ResNet-50 with blur beside the plain one, and timm's if installed."""
    from benchmarks import networks
    from benchmarks.harness import Clock, machine

    networks.BATCH, networks.SIDE = (1, 64) if here.toy else (64, 224)
    clock, rounds, rows = Clock(here.device, 1 if here.toy else 8), 1 if here.toy else 10, {}
    for mode in networks.MODES:
        about, begun = {**machine(clock), "rounds": rounds}, time.perf_counter()
        row = networks.measure(mode, clock, rounds)
        rows[mode] = {"machine": {**about, "seconds": round(time.perf_counter() - begun, 1)}, **row}
        tell(here, "network", rows)
        print(networks.line(mode, row), flush=True)


def accuracy(here: Setting) -> None:
    """Trains the fast recipe: seconds from the first image to the last epoch's accuracy."""
    from stillpoint.core.base.interrupt import Interrupted

    name, recipe = TOY_FAST if here.toy else FAST
    shutil.rmtree(here.fast, ignore_errors=True)
    learn, measure = steps(here, "accuracy", name, recipe, here.fast)
    found: dict[str, Any] = {"network": name, "recipe": recipe}
    begun = time.perf_counter()

    def tell_seconds(key: str, **more: Any) -> None:
        found.update({key: round(time.perf_counter() - begun, 1), **more})
        tell(here, "accuracy", found)

    try:
        learn()
    except Interrupted:
        tell_seconds("stopped_after", progress=progress(run_of(name, recipe, here.fast).folder))
        raise
    tell_seconds("training_seconds")
    measured = measure()
    tell_seconds("wall_seconds", trained=measured["trained"], provenance=measured["provenance"])
    print(name, found["wall_seconds"], "s:", measured["trained"]["accuracy"], flush=True)


def full(here: Setting) -> None:
    """Trains the full recipes, a process each on one GPU; they resume from saved states, and save them when stopped."""
    words = [sys.executable, __file__, "--out", str(here.out), "--data", str(here.data), *["--toy"] * here.toy]
    own = [subprocess.Popen([*words, "--train", *run]) for run in here.full]

    def stop(number: int, frame: FrameType | None) -> None:
        for process in own:
            process.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    codes = [process.wait() for process in own]
    states = {f"{name} {recipe}": progress(run_of(name, recipe, here.results).folder) for name, recipe in here.full}
    tell(here, "full", {"runs": states, "exit_codes": codes})


def run_of(name: str, recipe: str, results: Path) -> Any:
    from stillpoint.core.runs.layout import Run

    pipeline, _, model = name.partition("/")
    return Run(pipeline, recipe, model, 0, results)


def steps(
    here: Setting, part: str, name: str, recipe: str, results: Path
) -> tuple[Callable[[], Any], Callable[[], dict[str, Any]]]:
    """(a function that trains or resumes a run, one that evaluates it and returns the content of its metrics.json)."""
    from stillpoint import pipelines
    from stillpoint.core.evaluation.run import evaluate_run
    from stillpoint.core.training.train import train
    from stillpoint.pipelines.workflow import stage_code

    config = pipelines.configure(name, recipe, [*TOY, "TRAIN.EPOCHS", TOY_EPOCHS[part]] if here.toy else [])
    run, paper = run_of(name, recipe, results), pipelines.paper(config.pipeline)
    code = {stage: stage_code(stage, config.pipeline, config.data.name) for stage in ("train", "evaluate")}
    where: dict[str, Any] = {"data_root": here.data, "device": here.device, "threads": 1 if here.toy else 3}
    own: dict[str, Any] = {"config": config, "run": run, "build": pipelines.build, **where}
    hooks, evaluations = paper.hooks(config), paper.evaluations(config)

    def learn() -> Any:
        return train(**own, hooks=hooks, code=code["train"])

    def measure() -> dict[str, Any]:
        def after(place: Any) -> None:
            paper.measured(config, place)

        # as in a workflow: an evaluation of an earlier call is not repeated
        return evaluate_run(**own, evaluations=evaluations, after=after, code=code["evaluate"], workflow=True)

    return learn, measure


@dataclass(frozen=True)
class Part:
    work: Callable[[Setting], None]
    seconds: int
    toy_seconds: int


PARTS = {
    "prepare": Part(prepare, 50, 90),
    "kernels": Part(kernels, 70, 400),
    "layers": Part(layers, 100, 180),
    "network": Part(network, 50, 120),
    "accuracy": Part(accuracy, 70, 180),
    "full": Part(full, 100, 90),
}


def plan(here: Setting, parts: list[str], source: Path | None) -> int:
    """Prints what a call would do and the size of the upload; returns 1 if that is too large, else 0."""
    total = 0
    for name in parts:
        seconds = PARTS[name].toy_seconds if here.toy else PARTS[name].seconds
        total += seconds
        print(f"{name:9} at most {seconds:4} s  {(PARTS[name].work.__doc__ or '').splitlines()[0]}")
    print(f"in all    at most {total:4} s, and {here.grace} s for each part that must be stopped")
    if not here.toy:
        print(f"the whole at most {WHOLE:4} s: the last part gets the time that the others leave")
    size = 0
    more = [("runs of the earlier call", sum(path.stat().st_size for path in source.glob("*")))] if source else []
    for what, amount in chain(carried(ROOT, here.data), more):
        size += amount
        print(f"carried   {amount / 2**20:6.1f} MiB  {what}")
    print(f"carried   {size / 2**20:6.1f} MiB of {CARRIED >> 20} in all{'' if size <= CARRIED else ': TOO MUCH'}")
    print(f"say there:  STILLPOINT_COMMIT={revision(ROOT)}")
    print(f"comes back: summary.json and runs.tar.NN of {PIECE >> 20} MiB, {PIECES} at most")
    return int(size > CARRIED)


class Cut(Exception):
    """The call received the signal of that number, and must end."""


def _cut(number: int, frame: FrameType | None) -> None:
    raise Cut(number)


def run_parts(here: Setting, parts: list[str], source: Path | None) -> int:
    """Runs each part in its own processes, stopped at its limit, and writes the summary after each; the exit code."""
    begun = time.perf_counter()
    machine = device(here)
    if not machine["commit"]:
        raise SystemExit("this copy has no repository: set STILLPOINT_COMMIT to its commit, so that runs can be kept")
    here.out.mkdir(parents=True, exist_ok=True)
    if source:
        unpack(source, here.results)
    # results of an earlier call in OUT stay in the summary
    before = read(here)
    kept = before["parts"] if before.get("toy") == here.toy else {}
    write(here, {"machine": machine, "toy": here.toy, "parts": kept, "runs": pack(here.out, here.runs)})
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _cut)
    ended = 0
    for name in parts:
        limit = float(PARTS[name].toy_seconds if here.toy else PARTS[name].seconds)
        if not here.toy:
            left = WHOLE - GRACE - (time.perf_counter() - begun)
            limit = max(1.0, left if name == parts[-1] == "full" else min(limit, left))
        about, ended = one_part(here, name, limit)
        found = read(here)
        found["parts"][name] = about | {key: v for key, v in found["parts"].get(name, {}).items() if key == "found"}
        found["runs"] = pack(here.out, here.runs)
        write(here, found)
        told = f", {about['ended']}" if "ended" in about else ""
        print(f"{name}: {about['seconds']} s of {about['limit']}, exit code {about['exit_code']}{told}", flush=True)
        if ended:
            break
    if left_out := read(here)["runs"]["left_out"]:
        print(f"left out, for lack of room: {', '.join(left_out)}", flush=True)
    return ended


def one_part(here: Setting, name: str, limit: float) -> tuple[dict[str, Any], int]:
    """Runs one part; (its entry in the summary, the exit code of the whole call if that must end, else 0)."""
    words = [sys.executable, __file__, "--out", str(here.out), "--data", str(here.data), *["--toy"] * here.toy]
    begun, ended = time.perf_counter(), 0
    about: dict[str, Any] = {"limit": round(limit)}
    found = read(here)
    found["parts"].pop(name, None)
    write(here, found)
    # its own process group, so that all its processes can be killed, even one that hangs
    process = subprocess.Popen([*words, "--part", name], process_group=0)
    try:
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            about["ended"] = "stopped at its limit"
        except Cut as cut:
            ended = 128 + cut.args[0]
            about["ended"] = "the whole was asked to end"
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired, Cut):
                process.wait(here.grace)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return {"seconds": round(time.perf_counter() - begun, 1), **about, "exit_code": process.returncode}, ended


def device(here: Setting) -> dict[str, Any]:
    import torch

    from stillpoint.core.runs.provenance import commit

    name = torch.cuda.get_device_name(0) if not here.toy and torch.cuda.is_available() else platform.machine()
    if not here.toy and not torch.cuda.is_available():
        raise SystemExit("no GPU was found: --toy rehearses on the CPU, --dry-run shows what would be done")
    revision, clean = commit()
    return {
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": revision,
        "clean": clean,
    }


def main() -> int:
    form = argparse.ArgumentParser(prog="scripts/gpu_check.sh", allow_abbrev=False)
    form.add_argument("parts", nargs="*", metavar="PART", help=f"run only these: {', '.join(PARTS)}")
    form.add_argument(
        "--out", type=Path, default=Path("gpu_check"), metavar="DIR", help="output folder, which comes back"
    )
    form.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="folder of the data")
    form.add_argument("--toy", action="store_true", help="on the CPU, at a toy size")
    form.add_argument("--dry-run", action="store_true", help="show what would be done")
    form.add_argument("--from", dest="source", type=Path, metavar="DIR", help="continue the runs of an earlier call")
    form.add_argument(
        "--unpack",
        nargs=2,
        type=Path,
        metavar=("DIR", "RESULTS"),
        help="extract the runs of a call into RESULTS, and its measurements into RESULTS/gpu_check",
    )
    form.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    form.add_argument("--train", nargs=2, help=argparse.SUPPRESS)
    args = form.parse_args()
    here = Setting(args.out.resolve(), args.data.resolve(), args.toy)
    if unknown := [name for name in args.parts if name not in PARTS]:
        form.error(f"unknown part {unknown[0]}: must be one of {', '.join(PARTS)}")
    parts = args.parts or list(PARTS)
    if args.unpack:
        for run in unpack(*args.unpack):
            print(args.unpack[1] / run)
        for path in unpack_measurements(args.unpack[0], args.unpack[1] / "gpu_check"):
            print(path)
        return 0
    if args.train or args.part:
        end_with_parent()
    if args.train:
        return train_one(here, *args.train)
    if args.part:
        return run_part(here, args.part)
    if args.dry_run:
        return plan(here, parts, args.source)
    # the folder into which gpu_check.sh installed the wheels, needed as long as this process lives
    site = os.environ.pop("GPU_CHECK_SITE", None)
    try:
        return run_parts(here, parts, args.source)
    except Cut as cut:
        return 128 + cut.args[0]
    finally:
        if site:
            shutil.rmtree(site, ignore_errors=True)


def end_with_parent() -> None:
    """Requests SIGTERM when the parent process ends, even after SIGKILL: a training would continue for hours."""
    parent = os.getppid()
    with suppress(OSError, AttributeError):  # only Linux has it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)


def run_part(here: Setting, name: str) -> int:
    from stillpoint.core.base.interrupt import Interrupted

    try:
        PARTS[name].work(here)
    except Interrupted as stop:
        print(f"{name}: {stop}", flush=True)
        return 128 + stop.signal
    return 0


def train_one(here: Setting, name: str, recipe: str) -> int:
    from stillpoint.core.base.errors import UserError
    from stillpoint.core.base.interrupt import Interrupted

    try:
        learn, measure = steps(here, "full", name, recipe, here.results)
        learn()
        found = measure()
    except Interrupted as stop:
        print(f"{name}: {stop}", flush=True)
        return 0
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    print(f"{name}: finished, {found['trained'].get('accuracy')}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
