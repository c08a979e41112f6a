"""What `scripts/gpu_check.sh` runs: the parts, each in processes of its own with a limit, and what they leave.

OUT gets ``summary.json`` and a JSON file a part, written anew after each case, and the runs under way in
``runs.tar.00`` and so on, parts of at most 15 MiB and 60 MiB in all, from which the next call goes on.
"""

import argparse
import hashlib
import io
import json
import os
import platform
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: what comes back: bytes of one part of the archive of runs, and of all
PIECE, PIECES = 15 << 20, 4
#: what may be carried there: code, data and wheels
CARRIED = 64 << 20
#: seconds that a part has to save its state once it is asked to end
GRACE = 20
LAWS = (
    *("blurs", "frames", "precisions", "choices", "shifts", "edges", "magnitudes", "correlations", "steps"),
    *("mixtures", "frames_of_phases", "activities", "translations", "polynomials", "norms"),
)
#: (network, recipe): the fast one, whose seconds to accuracy are measured, and those whose full recipe is trained
FAST = (("aps/resnet20", "cifar10_fast"), ("aps/resnet20", "cifar10_demo"))
FULL = tuple((f"aps/{name}", "cifar10") for name in ("resnet20", "resnet20_lpf3", "resnet20_aps1", "resnet20_aps3"))
TOY = ["TRAIN.EPOCHS", "3", "DATA.LIMIT", "128", "MODEL.WIDTH", "0.25", "EVALUATE.METRICS", "[accuracy, circular]"]


@dataclass(frozen=True)
class Setting:
    """What a call is asked for."""

    out: Path
    data: Path
    toy: bool

    @property
    def device(self) -> str:
        return "cpu" if self.toy else "cuda"

    @property
    def work(self) -> Path:
        """Where runs are trained: the archive has its place in `out`, so the runs themselves do not."""
        return self.out / "work" / "results"


def write(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.replace(path)


def prepare(here: Setting) -> None:
    """Decodes the images once, for all later parts."""
    from stillpoint.core.data import datasets

    begun, names = time.perf_counter(), ["digits"] if here.toy else ["cifar10"]
    found = {name: len(datasets.load(name, here.data, "test")) for name in names}
    write(here.out / "prepare.json", {"test_images": found, "seconds": round(time.perf_counter() - begun, 1)})


def kernels(here: Setting) -> None:
    """The laws of the Triton kernels, one process each: the CPU's values are what must come out."""
    found: dict[str, Any] = {}
    environment = {**os.environ, **({"TRITON_INTERPRET": "1"} if here.toy else {})}
    for law in LAWS[:1] if here.toy else LAWS:
        command = [sys.executable, str(ROOT / "tests/core/kernels/triton_cases.py"), law]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        found[law] = "pass" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no word"])[-12:]
        write(here.out / "kernels.json", {"laws": found, "interpreted": here.toy})
        print(law, found[law] if found[law] == "pass" else "FAIL", flush=True)


def layers(here: Setting) -> None:
    """The layers beside their peers and the floor of bytes over bandwidth."""
    import torch

    from benchmarks.cases import cases
    from benchmarks.harness import Clock, machine
    from benchmarks.layers import line, measure

    torch.manual_seed(0)
    clock, rounds = Clock(here.device, 1 if here.toy else 8), 1 if here.toy else 15
    rate = clock.bandwidth()
    about, rows = {**machine(clock), "copy_gigabytes_per_second": round(rate / 1e6, 2), "rounds": rounds}, []
    for number, case in enumerate(cases(here.device)):
        if here.toy and number == 2:
            break
        try:
            rows.append(measure(case, clock, rate, rounds))
            print(line(rows[-1]), flush=True)
        except Exception as error:  # one case that fails must not cost the others
            rows.append({"job": case.job, "about": str(case.about), "failed": f"{type(error).__name__}: {error}"[:400]})
        write(here.out / "layers.json", {"machine": about, "cases": rows})


def network(here: Setting) -> None:
    """ResNet-50 with blur beside the plain one, and timm's where it is installed."""
    from benchmarks import networks
    from benchmarks.harness import Clock, machine

    networks.BATCH, networks.SIDE = (1, 64) if here.toy else (64, 224)
    clock, rows = Clock(here.device, 1 if here.toy else 8), {}
    for mode in networks.MODES:
        rows[mode] = networks.measure(mode, clock, 1 if here.toy else 10)
        write(here.out / "network.json", {"machine": machine(clock), "passes": rows})
        print(networks.line(mode, rows[mode]), flush=True)


def accuracy(here: Setting) -> None:
    """The fast recipe: seconds from the first image to the last epoch's accuracy."""
    from stillpoint import pipelines

    name, recipe = next(one for one in FAST if one[1] in pipelines.paper(one[0].partition("/")[0]).recipes())
    name, recipe = (name, "digits") if here.toy else (name, recipe)
    begun = time.perf_counter()
    found = trained(here, name, recipe, Path(here.out / "work" / "fast"))
    told = {"network": name, "recipe": recipe, "wall_seconds": round(time.perf_counter() - begun, 1)}
    write(here.out / "accuracy.json", {**told, "trained": found["trained"], "provenance": found["provenance"]})
    print(told, found["trained"].get("accuracy"), flush=True)


def full(here: Setting) -> None:
    """The full recipes, a process each on one GPU: they go on from what is there, and are saved when stopped."""
    runs = [("aps/resnet20", "digits"), ("aps/resnet20_aps1", "digits")] if here.toy else list(FULL)
    words = [sys.executable, __file__, "--out", str(here.out), "--data", str(here.data), *["--toy"] * here.toy]
    own = [subprocess.Popen([*words, "--train", name, recipe]) for name, recipe in runs]

    def stop(number: int, frame: Any) -> None:
        for process in own:
            process.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    codes = [process.wait() for process in own]
    write(here.out / "full.json", {"runs": [list(run) for run in runs], "exit_codes": codes})


def trained(here: Setting, name: str, recipe: str, results: Path) -> dict[str, Any]:
    """Trains a run, or goes on with it, and measures it; what its metrics.json holds."""
    from stillpoint import pipelines
    from stillpoint.core.evaluation.run import evaluate_run
    from stillpoint.core.runs.layout import Run
    from stillpoint.core.training.train import train
    from stillpoint.pipelines.workflow import stage_code

    config = pipelines.configure(name, recipe, TOY if here.toy else [])
    run, paper = Run(config.pipeline, recipe, config.model.name, config.seed, results), pipelines.paper(config.pipeline)
    where: dict[str, Any] = {"data_root": here.data, "device": here.device, "threads": 1 if here.toy else 3}
    code = {stage: stage_code(stage, config.pipeline, config.data.name) for stage in ("train", "evaluate")}
    train(config, run, build=pipelines.build, hooks=paper.hooks(config), code=code["train"], **where)
    own = {"evaluations": paper.evaluations(config), "after": lambda place: paper.measured(config, place)}
    return evaluate_run(run, config=config, build=pipelines.build, code=code["evaluate"], **where, **own)


@dataclass(frozen=True)
class Part:
    work: Callable[[Setting], None]
    seconds: int
    toy_seconds: int


PARTS = {
    "prepare": Part(prepare, 50, 60),
    "kernels": Part(kernels, 70, 120),
    "layers": Part(layers, 100, 120),
    "network": Part(network, 50, 120),
    "accuracy": Part(accuracy, 70, 120),
    "full": Part(full, 100, 45),
}


def pack(here: Setting) -> dict[str, Any]:
    """The runs under way in pieces, the finished ones first, as many as there is room for; the rest is told."""
    runs = sorted(here.work.glob("*/*/*/seed*"), key=lambda run: (not (run / "metrics.json").is_file(), str(run)))
    archive, left_out = io.BytesIO(), []
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for run in runs:
            files = [path for path in sorted(run.rglob("*")) if path.is_file() and _travels(path)]
            if archive.tell() + sum(path.stat().st_size + 2048 for path in files) > PIECE * PIECES:
                left_out.append(str(run.relative_to(here.work)))
                continue
            for path in files:
                tar.add(path, path.relative_to(here.work).as_posix())
    content, names = archive.getvalue(), {}
    for old in here.out.glob("runs.tar.*"):
        old.unlink()
    for number in range(0, len(content) if runs else 0, PIECE):
        piece = here.out / f"runs.tar.{number // PIECE:02d}"
        piece.write_bytes(content[number : number + PIECE])
        names[piece.name] = hashlib.sha256(piece.read_bytes()).hexdigest()
    return {"pieces": names, "left_out": left_out}


def _travels(path: Path) -> bool:
    # a finished run needs no state, and no run the state before its last
    finished = (path.parent / "metrics.json").is_file()
    return not path.name.startswith(".") and ".previous." not in path.name and not (finished and path.suffix == ".pt")


def unpack(source: Path, target: Path) -> None:
    """Lays the runs of an earlier call into `target`; ends with a sentence where a piece is missing or damaged."""
    summary = source / "summary.json"
    if not summary.is_file():
        raise SystemExit(f"{source} is not what a call of this left: there is no summary.json")
    pieces, content = json.loads(summary.read_text())["runs"]["pieces"], b""
    for name, expected in sorted(pieces.items()):
        path = source / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise SystemExit(f"{path} is missing or damaged: nothing was unpacked")
        content += path.read_bytes()
    target.mkdir(parents=True, exist_ok=True)
    if content:
        # Python 3.11.2 has no filters of tarfile yet: regular files alone, inside `target`
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for member in tar:
                place, file = (target / member.name).resolve(), tar.extractfile(member)
                if file is None or not place.is_relative_to(target.resolve()):
                    raise SystemExit(f"{source} holds {member.name!r}, which is no file of a run")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(file.read())


def carried(here: Setting) -> Iterator[tuple[str, int]]:
    """(what, bytes) of all that travels to the GPU's machine."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in listed.stdout.splitlines() if not name.startswith(".dvc-store/")]
    yield "code, without the store", sum(path.stat().st_size for path in files if path.is_file())
    if here.data.is_dir():
        archives = [path for path in here.data.glob("cifar10*") if path.is_file()]
        yield "CIFAR-10 as it is packed", sum(path.stat().st_size for path in archives)
    if wheels := os.environ.get("WHEELS"):
        yield "wheels", sum(path.stat().st_size for path in Path(wheels).glob("*.whl"))


def plan(here: Setting, parts: list[str]) -> int:
    """Says what a call would do, and whether all fits."""
    total = 0
    for name in parts:
        seconds = PARTS[name].toy_seconds if here.toy else PARTS[name].seconds
        total += seconds
        print(f"{name:9} at most {seconds:4} s  {(PARTS[name].work.__doc__ or '').splitlines()[0]}")
    print(f"in all    at most {total:4} s, and {GRACE} s for each part that must be stopped")
    size = 0
    for what, amount in carried(here):
        size += amount
        print(f"carried   {amount / 2**20:6.1f} MiB  {what}")
    print(f"carried   {size / 2**20:6.1f} MiB of {CARRIED >> 20} in all{'' if size <= CARRIED else ': TOO MUCH'}")
    print(f"comes back: summary.json, a JSON file a part, runs.tar.NN of {PIECE >> 20} MiB, {PIECES} at most")
    return int(size > CARRIED)


def run_parts(here: Setting, parts: list[str]) -> int:
    """Each part in a process of its own, stopped at its limit; the summary is written after each."""
    here.out.mkdir(parents=True, exist_ok=True)
    # parts that an earlier call made here stay in the summary
    summary, done = here.out / "summary.json", {}
    if summary.is_file() and json.loads(summary.read_text())["toy"] == here.toy:
        done = json.loads(summary.read_text())["parts"]
    about: dict[str, Any] = {"machine": device(here), "toy": here.toy, "parts": done, "runs": pack(here)}
    write(here.out / "summary.json", about)
    words = [sys.executable, __file__, "--out", str(here.out), "--data", str(here.data), *["--toy"] * here.toy]
    for name in parts:
        limit, begun = PARTS[name].toy_seconds if here.toy else PARTS[name].seconds, time.perf_counter()
        process, stopped = subprocess.Popen([*words, "--part", name]), False
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            stopped = True
            process.terminate()
            try:
                code = process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
        seconds = round(time.perf_counter() - begun, 1)
        about["parts"][name] = {"seconds": seconds, "limit": limit, "exit_code": code, "stopped_at_limit": stopped}
        about["runs"] = pack(here)
        write(here.out / "summary.json", about)
        print(f"{name}: {seconds} s of {limit}, exit code {code}{', stopped at its limit' * stopped}", flush=True)
    return 0


def device(here: Setting) -> dict[str, Any]:
    import torch

    name = torch.cuda.get_device_name(0) if not here.toy and torch.cuda.is_available() else platform.machine()
    if not here.toy and not torch.cuda.is_available():
        raise SystemExit("no GPU is here: --toy rehearses on the CPU, --dry-run says what would be done")
    return {"device": name, "torch": torch.__version__, "python": platform.python_version()}


def main() -> int:
    form = argparse.ArgumentParser(prog="scripts/gpu_check.sh", allow_abbrev=False)
    form.add_argument("parts", nargs="*", metavar="PART", help=f"these alone: {', '.join(PARTS)}")
    form.add_argument("--out", type=Path, default=Path("gpu_check"), metavar="DIR", help="what comes back")
    form.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="folder of the data")
    form.add_argument("--toy", action="store_true", help="on the CPU, at a toy size")
    form.add_argument("--dry-run", action="store_true", help="say what would be done")
    form.add_argument("--from", dest="source", type=Path, metavar="DIR", help="go on with the runs of an earlier call")
    form.add_argument(
        "--unpack", nargs=2, type=Path, metavar=("DIR", "RESULTS"), help="lay the runs of a call into RESULTS"
    )
    form.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    form.add_argument("--train", nargs=2, help=argparse.SUPPRESS)
    args = form.parse_args()
    here = Setting(args.out.resolve(), args.data.resolve(), args.toy)
    if unknown := [name for name in args.parts if name not in PARTS]:
        form.error(f"{unknown[0]} is no part: {', '.join(PARTS)}")
    if args.unpack:
        unpack(*args.unpack)
        return 0
    if args.train:
        with suppress(KeyboardInterrupt):
            return train_one(here, *args.train)
    if args.part:
        PARTS[args.part].work(here)
        return 0
    if args.dry_run:
        return plan(here, args.parts or list(PARTS))
    if args.source:
        unpack(args.source, here.work)
    return run_parts(here, args.parts or list(PARTS))


def train_one(here: Setting, name: str, recipe: str) -> int:
    from stillpoint.core.base.errors import UserError
    from stillpoint.core.base.interrupt import Interrupted

    try:
        found = trained(here, name, recipe, here.work)
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
