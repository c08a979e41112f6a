"""The parts of `scripts/gpu_check.py`, what a call's options decide, and the summary that the parts write."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any

from gpu_pieces import archives, progress

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "gpu_check.py"
#: seconds on a GPU that a part has to save its state after SIGTERM
GRACE = 20
#: seconds of one law, so that a kernel that hangs does not prevent the others
LAW_SECONDS = 60
LAWS = (
    *("blurs", "frames", "precisions", "choices", "shifts", "edges", "magnitudes", "correlations", "steps"),
    *("mixtures", "frames_of_phases", "activities", "translations", "polynomials", "norms"),
)
#: (network, recipe): the fast one, timed to its accuracy, and the full recipes of 250 and 300 epochs
FAST = ("aps/speednet", "cifar10_fast")
FULL = tuple((f"aps/resnet20{filling}", "cifar10") for filling in ("", "_lpf3", "_aps1", "_aps3"))
FULL += tuple((f"wavelet_twins/R18{stem}", "cifar10_quarter") for stem in ("C", "wyC_mod"))
#: a rehearsal without CIFAR-10: networks that learn scikit-learn's digits
DIGITS_FAST = ("aps/resnet20", "digits")
DIGITS_FULL = (("aps/resnet20_aps1", "digits"), ("aps/resnet20_aps3", "digits"))
#: options of a rehearsal; in bfloat16 many CPUs would take minutes a step
TOY = ["DATA.LIMIT", "128", "EVALUATE.METRICS", "[accuracy]", "TRAIN.PRECISION", "float32"]
TOY_DIGITS = ["MODEL.WIDTH", "0.25"]
#: epochs of a rehearsal: few in one part, and in the other more than its limit allows
TOY_EPOCHS = {"accuracy": "2", "full": "400"}


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
        # an unfinished run of the fast recipe is useless to the next call, which starts it afresh
        done = [run for run in self.fast.glob("*/*/*/seed*") if (run / "train.json").is_file()]
        anew = {run.relative_to(self.fast) for run in done}
        # an earlier call's run of the fast recipe, which was brought here, must not be mixed with this call's
        runs = [run for run in self.results.glob("*/*/*/seed*") if run.relative_to(self.results) not in anew]
        return dict.fromkeys(runs, self.results) | dict.fromkeys(done, self.fast)

    @property
    def dataset(self) -> str:
        """What is learned; a rehearsal without CIFAR-10 learns digits."""
        return "digits" if self.toy and not archives(self.data) else "cifar10"

    @property
    def learned(self) -> tuple[str, str]:
        """The network and recipe of the part `accuracy`."""
        return FAST if self.dataset == "cifar10" else DIGITS_FAST

    @property
    def full(self) -> list[tuple[str, str]]:
        if self.dataset == "digits":
            return list(DIGITS_FULL)
        # two processes are enough on a CPU, where six would only wait for one another
        return [FULL[3], FULL[-1]] if self.toy else list(FULL)


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


def prepare(here: Setting) -> list[str]:
    """Decodes the images and compiles the CPU's kernels, once, for all later parts."""
    from stillpoint.core.data import datasets
    from stillpoint.core.kernels import native
    from stillpoint.pipelines.checkup import KERNELS

    begun = time.perf_counter()
    found: dict[str, Any] = {"test_images": "not decoded", "kernels": dict.fromkeys(KERNELS, "not compiled")}
    failed = []

    def compiled(source: str) -> str:
        if not native.available("float", source):
            raise RuntimeError(native.cause("float", source) or "STILLPOINT_KERNELS=0")
        return "ready"

    # a missing kernel is reported below
    warnings.filterwarnings("ignore", "the fast CPU kernels are not available", RuntimeWarning)
    # beside the decoding; otherwise the parallel laws would wait for one another to compile. A compiler gives up after
    # two minutes, so no more of them than cores
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        images = pool.submit(lambda: len(datasets.load(here.dataset, here.data, "test")))
        works: dict[Any, str] = {images: here.dataset}
        works |= {pool.submit(compiled, source): source for source in KERNELS}
        for done in as_completed(works):
            what, error = works[done], done.exception()
            word = f"{type(error).__name__}: {error}" if error else done.result()
            if done is images:
                found["test_images"] = {what: word}
            else:
                found["kernels"][what] = word
            if error:
                failed.append(f"{what} ({word})")
            found["seconds"] = round(time.perf_counter() - begun, 1)
            tell(here, "prepare", found)
            print(f"{what} {'FAIL' if error else 'ready'} after {found['seconds']} s", flush=True)
    return failed


def kernels(here: Setting) -> list[str]:
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
    return [law for law, word in found.items() if word != "pass"]


def layers(here: Setting) -> list[str]:
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
    return [f"{one['job']} of {subject}" for subject, kept in found.items() for one in kept["failed"]]


def network(here: Setting) -> list[str]:
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
    return []


def accuracy(here: Setting) -> list[str]:
    """Trains the fast recipe: seconds from the first image to the last epoch's accuracy."""
    from stillpoint.core.base.interrupt import Interrupted

    name, recipe = here.learned
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
    print(
        f"{name} {recipe}: {found['training_seconds']} s of training, {found['wall_seconds']} s with measuring, "
        f"accuracy {measured['trained']['accuracy']:.2%}",
        flush=True,
    )
    return []


def full(here: Setting) -> list[str]:
    """Trains the full recipes, a process each on one GPU; they resume from saved states, and save them when stopped."""
    words = [sys.executable, str(SCRIPT), "--out", str(here.out), "--data", str(here.data), *["--toy"] * here.toy]
    own = [subprocess.Popen([*words, "--train", *run]) for run in here.full]

    # a process that is stopped before it trains has no state to save, and ends by the signal
    well = {0}

    def stop(number: int, frame: FrameType | None) -> None:
        if len(well) == 1:  # a second signal would end those that save their states
            well.add(-signal.SIGTERM)
            for process in own:
                process.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    codes = [process.wait() for process in own]
    states = {f"{name} {recipe}": progress(run_of(name, recipe, here.results).folder) for name, recipe in here.full}
    tell(here, "full", {"runs": states, "exit_codes": codes})
    for name, state in states.items():
        last = f", training accuracy {float(state['last']['train_accuracy']):.1%}" if state["last"] else ""
        print(f"{name}: {state['epochs']} epochs{last}{', measured' if state['measured'] else ''}", flush=True)
    return [" ".join(run) for run, code in zip(here.full, codes, strict=True) if code not in well]


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

    small = [*TOY, *TOY_DIGITS * (here.dataset == "digits"), "TRAIN.EPOCHS", TOY_EPOCHS[part]]
    config = pipelines.configure(name, recipe, small if here.toy else [])
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
    work: Callable[[Setting], list[str]]  # returns what failed
    seconds: int
    toy_seconds: int


PARTS = {
    "prepare": Part(prepare, 50, 300),
    "kernels": Part(kernels, 70, 600),
    "layers": Part(layers, 100, 180),
    "network": Part(network, 50, 120),
    "accuracy": Part(accuracy, 70, 300),
    "full": Part(full, 100, 150),
}
