"""The parts that `scripts/gpu_check.sh` runs, each in its own processes with a time limit.

OUT receives at most five files, since a borrowed machine may return few: ``summary.json`` with the results of every
part, rewritten after each case, and the runs in ``runs.tar.00`` and so on, pieces of at most 15 MiB and 60 MiB in all,
from which the next call continues. Meanwhile the runs themselves are beside OUT, in OUT.work.
"""

import argparse
import ctypes
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from gpu_parts import GRACE, PARTS, ROOT, Setting, read, steps, write
from gpu_pieces import CARRIED, PIECE, PIECES, archives, carried, pack, revision, unpack, unpack_measurements

#: seconds of a whole call on a GPU, including the time to save states
WHOLE = 470
PR_SET_PDEATHSIG = 1  # option of Linux's prctl: the signal to send when the parent ends
#: what every part imports, of the machine's and of what is carried
NEEDED = ("torch", "torchvision", "numpy", "safetensors", "yaml", "pydantic", "yacs", "torchmetrics")
#: a checkout of what the parts use alone
SPARSE = "git sparse-checkout set --no-cone '/*' '!/runs/' '!/tests/' '/tests/core/kernels/' '!/.dvc-store/' '!/docs/'"


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
    for what, amount in carried(ROOT, here.data, source):
        size += amount
        print(f"carried   {amount / 2**20:6.1f} MiB  {what}")
    print(f"carried   {size / 2**20:6.1f} MiB of {CARRIED >> 20} in all{'' if size <= CARRIED else ': TOO MUCH'}")
    if size > CARRIED:
        print(f"carry less: {SPARSE}")
    commit = revision(ROOT)
    print(f"say there:  STILLPOINT_COMMIT={commit or 'COMMIT, which --dry-run prints where the repository is'}")
    print(f"comes back: summary.json and runs.tar.NN of {PIECE >> 20} MiB, {PIECES} at most")
    lacks = lacking(here)
    if lacks:
        print(f"NOT HERE:   {lacks}")
    return int(size > CARRIED)


def lacking(here: Setting) -> str:
    """What this machine lacks for any part, in words; empty if nothing."""
    # a dry run does not install the wheels
    wheels = Path(os.environ["WHEELS"]) if os.environ.get("WHEELS") else None
    absent = [name for name in NEEDED if find_spec(name) is None and not (wheels and any(wheels.glob(f"{name}-*")))]
    if absent:
        return f"{', '.join(absent)}: install them, or put their wheels into a folder and name it in WHEELS"
    digits = (here.data / "prepared" / "digits.safetensors").is_file() or find_spec("sklearn") is not None
    if here.dataset == "digits" and not digits:
        return f"CIFAR-10 in {here.data}, or scikit-learn, whose digits are learned instead"
    if here.dataset == "cifar10" and not archives(here.data):
        return f"CIFAR-10 in {here.data}, as `stillpoint prepare cifar10` expects it: name its folder with --data"
    return ""


class Cut(Exception):
    """The call received the signal of that number, and must end."""


def _cut(number: int, frame: FrameType | None) -> None:
    raise Cut(number)


def run_parts(here: Setting, parts: list[str], source: Path | None) -> int:
    """Runs each part in its own processes, stopped at its limit, and writes the summary after each; the exit code."""
    begun = time.perf_counter()
    if lacks := lacking(here):
        raise SystemExit(f"not here: {lacks}")
    machine = device(here)
    if not machine["commit"]:
        raise SystemExit("this copy has no repository: set STILLPOINT_COMMIT to its commit, so that runs can be kept")
    try:
        here.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"{here.out} cannot be made ({error.strerror}): name another folder with --out") from None
    if source and here.results.exists():
        print(f"continues from {here.results}, not from {source}: remove it to start from there again", flush=True)
    elif source:
        # renamed when complete, so that an interrupted transfer is not taken for all runs
        shutil.rmtree(arriving := here.work / "arriving", ignore_errors=True)
        unpack(source, arriving)
        if arriving.exists():
            arriving.rename(here.results)
    # results of an earlier call in OUT stay in the summary
    before = read(here)
    kept = before["parts"] if before.get("toy") == here.toy else {}
    write(here, {"machine": machine, "toy": here.toy, "parts": kept, "runs": pack(here.out, here.runs)})
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _cut)
    print(f"{machine['device']}, torch {machine['torch']}, python {machine['python']}, {machine['commit']}", flush=True)
    ended, outcomes = 0, {"failed": [], "stopped at their limits": []}
    for name in parts:
        limit = float(PARTS[name].toy_seconds if here.toy else PARTS[name].seconds)
        if not here.toy:
            left = WHOLE - GRACE - (time.perf_counter() - begun)
            limit = max(1.0, left if name == parts[-1] == "full" else min(limit, left))
        print(f"\n{name}, at most {limit:.0f} s", flush=True)
        about, ended = one_part(here, name, limit)
        found = read(here)
        found["parts"][name] = about | {key: v for key, v in found["parts"].get(name, {}).items() if key == "found"}
        found["runs"] = pack(here.out, here.runs)
        write(here, found)
        told = f", {about['ended']}" if "ended" in about else ""
        if about["exit_code"] and not told:
            outcomes["failed"].append(name)
        elif told and not ended:
            outcomes["stopped at their limits"].append(name)
        print(f"{name}: {about['seconds']} s of {about['limit']}, exit code {about['exit_code']}{told}", flush=True)
        if ended:
            break
    if left_out := read(here)["runs"]["left_out"]:
        print(f"left out, for lack of room: {', '.join(left_out)}", flush=True)
    told = "".join(f"; {what}: {', '.join(names)}" for what, names in outcomes.items() if names)
    print(f"\n{time.perf_counter() - begun:.0f} s in all; results in {here.out}{told}", flush=True)
    return ended or int(bool(outcomes["failed"]))


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
    from stillpoint.core.base.errors import UserError
    from stillpoint.core.base.interrupt import Interrupted

    try:
        failed = PARTS[name].work(here)
    except Interrupted as stop:
        print(f"{name}: {stop}", flush=True)
        return 128 + stop.signal
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    if failed:
        print(f"{name}: FAIL {', '.join(failed)}", flush=True)
    return int(bool(failed))


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
    print(f"{name}: finished, accuracy {found['trained']['accuracy']:.2%}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
