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


@pytest.fixture
def parts(check: ModuleType) -> ModuleType:
    import gpu_parts

    return gpu_parts


def test_a_dry_run_says_what_is_done_how_long_and_that_it_fits(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--dry-run", "--data", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *parts, total, whole = [int(number) for number in re.findall(r"at most +(\d+) s", done.stdout)]
    # all parts within eight minutes, with what the last one takes to save its states
    assert sum(parts) == total and total + 20 <= whole <= 480
    assert "TOO MUCH" not in done.stdout and "of 64 in all" in done.stdout


def test_a_folder_that_cannot_serve_is_named_in_a_sentence(tmp_path: Path) -> None:
    script = ["bash", str(SCRIPT.with_suffix(".sh")), "kernels"]
    env = {**os.environ, "PYTHON": sys.executable}
    wheels = subprocess.run(script, env={**env, "WHEELS": str(tmp_path)}, capture_output=True, text=True)
    assert wheels.returncode == 2 and wheels.stderr == f"there is no wheel in {tmp_path}: name their folder in WHEELS\n"
    (taken := tmp_path / "taken").write_text("")
    script += ["--toy", "--data", str(tmp_path), "--out", str(taken)]
    env["STILLPOINT_COMMIT"] = "0" * 40
    out = subprocess.run(script, env=env, capture_output=True, text=True)
    assert out.returncode == 1 and out.stderr.startswith(f"{taken} cannot be made (File exists)"), out.stderr


def test_every_law_of_every_kernel_for_a_gpu_is_tried(parts: ModuleType) -> None:
    cases = (ROOT / "tests/core/kernels/triton_cases.py").read_text()
    (tried,) = re.findall(r"^CHECKS = \((.*?)^\)", cases, re.M | re.S)
    assert sorted(parts.LAWS) == sorted(re.findall(r"\w+", tried))
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
    known = (*THERE, *WHEELS, "stillpoint", "benchmarks", "gpu_check", "gpu_parts", "gpu_pieces")
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


def test_a_copy_without_its_repository_shows_its_parts_too(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    for path in SCRIPT.parent.glob("gpu_*.py"):
        (tmp_path / "scripts" / path.name).write_bytes(path.read_bytes())
    for name, size in (
        ("data/cifar10-jpeg.tar.xz", 3),
        ("wheels/yacs-1.whl", 2),
        ("core/big.py", 70),
        ("first/runs.tar.00", 5),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).open("wb").truncate(size << 20)
    words = [sys.executable, "scripts/gpu_check.py", "--dry-run", "--data", "data", "--from", "first"]
    environment = {**os.environ, "WHEELS": "wheels"} | {"STILLPOINT_COMMIT": "0" * 40}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    sizes = dict(re.findall(r"carried +([\d.]+) MiB  ([a-zA-Z]+)", done.stdout))
    # nothing is counted twice, and too much comes with a remedy
    assert {"3.0": "CIFAR", "2.0": "wheels", "5.0": "runs"}.items() <= sizes.items() and "70." in "".join(sizes), (
        done.stderr
    )
    assert done.returncode == 1 and "TOO MUCH" in done.stdout and "git sparse-checkout set" in done.stdout
    assert f"STILLPOINT_COMMIT={'0' * 40}" in done.stdout


def test_what_a_machine_lacks_is_told_before_the_time_runs(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = check.Setting(tmp_path / "out", tmp_path / "data", False)
    assert "CIFAR-10 in" in check.lacking(here)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cifar10-jpeg.tar.xz").touch()
    assert check.lacking(here) == "" and here.dataset == "cifar10"
    there = {name: name not in ("yacs", "sklearn") for name in (*check.NEEDED, "sklearn")}
    monkeypatch.setattr(check, "find_spec", lambda name: there[name] or None)
    with pytest.raises(SystemExit, match="yacs: install"):
        check.run_parts(here, ["prepare"], None)
    there["yacs"] = True
    toy = check.Setting(tmp_path / "out", tmp_path, True)
    assert toy.dataset == "digits" and "scikit-learn" in check.lacking(toy)
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "digits.safetensors").touch()
    assert check.lacking(toy) == ""


@pytest.mark.parametrize(("codes", "ends"), [((0, 0), 0), ((1, 0), 1), ((-15, 0), 0)])
def test_a_part_that_fails_is_named_last_and_decides_the_exit_code(
    check: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    codes: tuple[int, ...],
    ends: int,
) -> None:
    given, stopped = iter(codes), {"ended": "stopped at its limit"}

    def one_part(here: object, name: str, limit: float) -> tuple[dict, int]:
        code = next(given)
        return {"seconds": 1.0, "limit": 2, "exit_code": code, **(stopped if code < 0 else {})}, 0

    monkeypatch.setattr(check, "one_part", one_part)
    monkeypatch.setattr(check, "lacking", lambda here: "")
    monkeypatch.setattr(check.signal, "signal", lambda *given: None)
    monkeypatch.setenv("STILLPOINT_COMMIT", "0" * 40)
    assert check.run_parts(check.Setting(tmp_path / "out", tmp_path, True), ["kernels", "layers"], None) == ends
    last = capsys.readouterr().out.splitlines()[-1]
    assert ("failed: kernels" in last) == (codes[0] > 0) and ("stopped at their limits: kernels" in last) == (
        codes[0] < 0
    )


def test_a_law_that_does_not_hold_fails_its_part(check: ModuleType, tmp_path: Path) -> None:
    here = check.Setting(tmp_path, tmp_path, True)
    parts = {"good": [], "bad": ["norms"]}
    for name, failed in parts.items():
        check.PARTS[name] = type(check.PARTS["kernels"])(lambda here, failed=failed: failed, 1, 1)
    try:
        assert (check.run_part(here, "good"), check.run_part(here, "bad")) == (0, 1)
    finally:
        for name in parts:
            del check.PARTS[name]


def test_an_earlier_calls_runs_are_taken_once_and_never_mixed_with_new_ones(
    check: ModuleType, pieces: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (check.Setting(tmp_path / name, tmp_path, True) for name in ("first", "second"))

    def trained(here: object, name: str) -> None:
        folder = here.fast / "aps" / "cifar10_fast" / "speednet" / "seed0"
        folder.mkdir(parents=True)
        (folder / name).write_text(name)
        (folder / "train.json").write_text("{}")

    trained(first, "old.csv")
    first.out.mkdir()
    check.write(first, {"toy": True, "parts": {}, "runs": pieces.pack(first.out, first.runs)})
    monkeypatch.setattr(check, "lacking", lambda here: "")
    monkeypatch.setattr(check.signal, "signal", lambda *given: None)
    monkeypatch.setenv("STILLPOINT_COMMIT", "0" * 40)
    for _ in range(2):  # the same command once more, as after an interruption
        assert check.run_parts(second, [], first.out) == 0
    assert [run.parents[3] for run in second.runs] == [second.results]
    trained(second, "new.csv")
    assert check.run_parts(second, [], first.out) == 0
    names = [
        path.name
        for run in pieces.unpack(second.out, tmp_path / "home")
        for path in (tmp_path / "home" / run).iterdir()
    ]
    assert sorted(names) == ["new.csv", "train.json"]


TRAINS = """
import os, signal, time

def ask():
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(0.1)

def stopped(*given):
    signal.signal(signal.SIGTERM, lambda *given: os._exit(3))
    for _ in range(3):
        ask()
    os._exit(0)

signal.signal(signal.SIGTERM, stopped)
while True:
    ask()
"""
DIES = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"


@pytest.mark.parametrize(("program", "fail"), [(TRAINS, False), (DIES, True)])
def test_a_training_is_asked_to_end_once_and_has_not_failed_then(
    parts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, fail: bool
) -> None:
    # a kernel may tell twice that a parent has ended, and a second signal ends a training that saves its state
    (tmp_path / "trains.py").write_text(program)
    monkeypatch.setattr(parts, "SCRIPT", tmp_path / "trains.py")
    here = parts.Setting(tmp_path, tmp_path, True)
    # until the part listens itself
    before = signal.signal(signal.SIGTERM, lambda *given: None)
    try:
        assert parts.full(here) == ([" ".join(run) for run in parts.DIGITS_FULL] if fail else [])
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_prepares_tells_each_failure_beside_what_is_ready(
    check: ModuleType, parts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stillpoint.core.kernels import native

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cifar10-jpeg.tar.xz").write_bytes(b"torn")
    monkeypatch.setattr(native, "available", lambda number, source: source != "norm")
    here = check.Setting(tmp_path, tmp_path / "data", False)
    failed = parts.prepare(here)
    assert sorted(one.partition(" ")[0] for one in failed) == ["cifar10", "norm"]
    found = check.read(here)["parts"]["prepare"]["found"]
    assert "cifar10-jpeg.tar.xz" in found["test_images"]["cifar10"] and found["kernels"]["pool"] == "ready"


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
    # a run that left nothing but its lock
    (empty := tmp_path / "aps/digits/e/seed0").mkdir(parents=True)
    (empty / ".lock").touch()
    assert pieces.pack(here.out, {empty: tmp_path})["pieces"] == {}


def test_what_was_measured_comes_home_in_the_form_of_the_benchmarks(pieces: ModuleType, tmp_path: Path) -> None:
    parts = {"layers": {"found": {"layers": {"cases": [1]}, "sampling": {"cases": [2]}}}, "network": {"exit_code": 1}}
    (tmp_path / "summary.json").write_text(json.dumps({"toy": False, "parts": parts, "runs": {"pieces": {}}}))
    paths = pieces.unpack_measurements(tmp_path, tmp_path / "home")
    assert [path.name for path in paths] == ["layers-cuda.json", "sampling-cuda.json"]
    assert json.loads(paths[1].read_text()) == {"cases": [2]} and pieces.unpack(tmp_path, tmp_path / "home") == []
