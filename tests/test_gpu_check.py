"""The script for a GPU: what it would do, that a part that hangs or is cut costs nothing else, and that its runs come
back whole or not at all."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from stillpoint.core.data.datasets import load
from tests import fresh

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "gpu_check.py"


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import gpu_check

    return gpu_check


@pytest.fixture
def pieces(check: ModuleType) -> ModuleType:
    import gpu_pieces

    return gpu_pieces


def test_a_dry_run_says_what_is_done_how_long_and_that_it_fits(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--dry-run", "--data", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *parts, total, whole = [int(number) for number in re.findall(r"at most +(\d+) s", done.stdout)]
    # all parts within eight minutes, with what the last one takes to save its states
    assert sum(parts) == total and total + 20 <= whole <= 480
    assert "TOO MUCH" not in done.stdout and "of 64 in all" in done.stdout


def test_every_law_of_every_kernel_for_a_gpu_is_tried(check: ModuleType) -> None:
    cases = (ROOT / "tests/core/kernels/triton_cases.py").read_text()
    (tried,) = re.findall(r"^CHECKS = \((.*?)^\)", cases, re.M | re.S)
    assert sorted(check.LAWS) == sorted(re.findall(r"\w+", tried))
    (kernels,) = re.findall(r"^KERNELS = \{(.*?)^\}", cases, re.M | re.S)
    modules = {path.stem for path in (ROOT / "core/kernels").glob("triton_*.py")}
    assert modules == set(re.findall(r"^    (\w+): \(", kernels, re.M))
    # all that other modules call of them, on a GPU, is compared there
    for name in modules:
        listed = set(re.findall(r'"(\w+)"', next(line for line in kernels.splitlines() if f" {name}: " in line)))
        source = (ROOT / f"core/kernels/{name}.py").read_text()
        assert listed == set(re.findall(r"^def (?!_)(\w+)\(", re.sub(r"@triton\.jit\ndef \w+", "", source), re.M)), name


#: what the machine with the GPU has, as the script's head says, and what that itself needs
THERE = ("torch", "torchvision", "torchgen", "triton", "numpy", "safetensors", "yaml", "PIL")
THERE += ("sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec", "typing_extensions", "packaging")
#: what is carried there
WHEELS = (
    "pydantic",
    "pydantic_core",
    "annotated_types",
    "typing_inspection",
    "yacs",
    "torchmetrics",
    "lightning_utilities",
)
HELD = """
import sys
from importlib.machinery import PathFinder

class Held:
    def find_spec(name, path=None, target=None):
        top = name.partition(".")[0]
        # what comes with Python, and the house's own
        if top in sys.stdlib_module_names or top.startswith("_") or top in {known}:
            return PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Held
"""


def test_it_needs_no_package_but_those_that_its_head_names(tmp_path: Path) -> None:
    known = (*THERE, *WHEELS, "stillpoint", "benchmarks", "gpu_check", "gpu_pieces")
    # digits, which stand in for CIFAR-10 in a rehearsal, are scikit-learn's until they are decoded
    load("digits", tmp_path / "data", "test")
    # run by every process of the call
    (tmp_path / "sitecustomize.py").write_text(HELD.format(known=known))
    words = [sys.executable, str(SCRIPT), "accuracy", "network", "--toy"]
    words += ["--out", str(tmp_path / "out"), "--data", str(tmp_path / "data")]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "PYTHONNOUSERSITE": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    parts = json.loads((tmp_path / "out" / "summary.json").read_text())["parts"]
    assert {part["exit_code"] for part in parts.values()} == {0}, done.stdout + done.stderr
    assert parts["accuracy"]["found"]["trained"]["accuracy"] > 0 and set(parts["network"]["found"]) == {
        "inference",
        "training",
    }
    # what it brought home is kept like any other run
    done = fresh.run([str(SCRIPT), "--unpack", str(tmp_path / "out"), str(tmp_path / "home")])
    run, measured = done.stdout.splitlines()
    assert Path(run) == tmp_path / "home/aps/digits/resnet20/seed0" and Path(measured).name == "network-toy.json"
    words = ["-m", "stillpoint", "release", run, "--to", str(tmp_path / "runs"), "--threads", "1"]
    done = fresh.run([*words, "--data", str(tmp_path / "data"), "--device", "cpu"])
    assert done.returncode == 0 and "its numbers are reproduced" in done.stdout, done.stderr


HANGS = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(own.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("cut", [False, True])
def test_a_part_that_hangs_is_ended_with_all_that_it_started(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], cut: bool
) -> None:
    here = check.Setting(tmp_path / "out", tmp_path, True)
    here.out.mkdir()
    check.write(here, {"parts": {"kernels": {"found": {"laws": {}}}, "full": {"found": "of an earlier call"}}})
    monkeypatch.setattr(check.Setting, "grace", 0.1)
    (tmp_path / "hangs.py").write_text(HANGS)
    monkeypatch.setattr(check, "__file__", str(tmp_path / "hangs.py"))
    real = subprocess.Popen.wait

    def wait(process: subprocess.Popen, timeout: float | None = None) -> int:
        if cut and timeout == 3.0:
            time.sleep(timeout)
            raise check.Cut(signal.SIGTERM)
        return real(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    about, ended = check.one_part(here, "full", 3.0)
    assert about["exit_code"] == -signal.SIGKILL and ended == (128 + signal.SIGTERM if cut else 0)
    assert ("asked to end" if cut else "stopped at its limit") in about["ended"]
    assert check.read(here)["parts"] == {"kernels": {"found": {"laws": {}}}}
    child = int(capfd.readouterr().out)
    for _ in range(100):
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            break
        if state == "Z":
            break
        time.sleep(0.05)
    else:
        raise AssertionError("what the part started is still at work")


def test_runs_come_back_in_pieces_finished_ones_first_or_not_at_all(
    pieces: ModuleType, check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = check.Setting(tmp_path / "out", tmp_path, True)
    here.out.mkdir()
    names = {"a": ("state.pt", "history.csv"), "b": ("state.pt", "weights.safetensors", "metrics.json")}
    for model, files in names.items():
        folder = here.results / "aps" / "digits" / model / "seed0"
        folder.mkdir(parents=True)
        for number, name in enumerate((*files, "state.previous.pt", ".lock")):
            (folder / name).write_bytes(bytes([number]) * 30_000)
    # of the fast recipe, which is timed anew by each call, a finished training travels
    for model, name in (("c", "state.pt"), ("d", "train.json")):
        (folder := here.fast / "aps" / "cifar10_fast" / model / "seed0").mkdir(parents=True)
        (folder / name).write_text("{}")
    monkeypatch.setattr(pieces, "PIECE", 50_000)
    found = pieces.pack(here.out, here.runs)
    assert len(found["pieces"]) == 3 and found["left_out"] == []
    assert all((here.out / name).stat().st_size <= 50_000 for name in found["pieces"])
    check.write(here, {"toy": True, "parts": {}, "runs": found})
    assert pieces.unpack(here.out, tmp_path / "home") == [
        "aps/cifar10_fast/d/seed0",
        "aps/digits/a/seed0",
        "aps/digits/b/seed0",
    ]
    back = {path.relative_to(tmp_path / "home").as_posix() for path in (tmp_path / "home").rglob("*") if path.is_file()}
    # a finished run needs no state, none the one before its last
    assert back == {
        "aps/cifar10_fast/d/seed0/train.json",
        *(f"aps/digits/a/seed0/{name}" for name in names["a"]),
        *(f"aps/digits/b/seed0/{name}" for name in names["b"][1:]),
    }
    with pytest.raises(SystemExit, match="already exists: nothing was unpacked"):
        pieces.unpack(here.out, tmp_path / "home")
    (here.out / "runs.tar.01").write_bytes(b"other")
    with pytest.raises(SystemExit, match="damaged: nothing was unpacked"):
        pieces.unpack(here.out, tmp_path / "elsewhere")
    (here.out / "summary.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"summary\.json is damaged: nothing was unpacked"):
        pieces.unpack(here.out, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()
    monkeypatch.setattr(pieces, "PIECES", 2)
    assert pieces.pack(here.out, here.runs)["left_out"] == ["aps/digits/a/seed0"]


def test_what_was_measured_comes_home_in_the_form_of_the_benchmarks(pieces: ModuleType, tmp_path: Path) -> None:
    parts = {"layers": {"found": {"layers": {"cases": [1]}, "sampling": {"cases": [2]}}}, "network": {"exit_code": 1}}
    (tmp_path / "summary.json").write_text(json.dumps({"toy": False, "parts": parts, "runs": {"pieces": {}}}))
    paths = pieces.unpack_measurements(tmp_path, tmp_path / "home")
    assert [path.name for path in paths] == ["layers-cuda.json", "sampling-cuda.json"]
    assert json.loads(paths[1].read_text()) == {"cases": [2]} and pieces.unpack(tmp_path, tmp_path / "home") == []
