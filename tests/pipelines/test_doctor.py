"""The doctor finds what is wrong, names the remedy and ends with 1; completion knows every command and option."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from stillpoint.core.base import bfloat16
from stillpoint.core.kernels import cache, native
from stillpoint.pipelines import checkup
from stillpoint.pipelines.checkup import Finding
from stillpoint.pipelines.cli import main
from stillpoint.pipelines.commands import COMMANDS


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine that nothing is wrong with, whatever this one is: kernels compiled, plenty of room."""
    monkeypatch.setenv("STILLPOINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "available", lambda number, source="pool": True)
    monkeypatch.setattr(native, "compiler", lambda: None)
    monkeypatch.setattr(checkup, "_gpu", lambda: Finding("gpu", "ok", "none"))
    monkeypatch.setattr(checkup, "_packages", lambda: iter(()))
    monkeypatch.setattr(checkup, "_stillpoint", lambda: Finding("stillpoint", "ok", "here"))
    monkeypatch.setattr(checkup, "ROOM", 1)
    return tmp_path


def examined(folder: Path, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Finding]:
    assert main(["doctor", "--json", "--results", str(folder / "results"), "--data", str(folder / "data")]) == code
    found = [Finding(**row) for row in json.loads(capsys.readouterr().out)]
    assert (code == 1) == any(finding.state == "wrong" for finding in found)
    return {finding.subject: finding for finding in found}


def test_a_healthy_machine_has_a_line_for_each_subject(healthy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = examined(healthy, capsys)
    subjects = {
        "stillpoint",
        "python",
        "torch",
        "gpu",
        "precision",
        "compiler",
        "cache",
        "kernels",
        "data",
        "disk",
        "weights",
    }
    assert subjects <= set(found)
    assert "none of STILLPOINT_DATA" in found["variables"].told or os.environ.keys() & set(checkup.VARIABLES)
    # those of other remotes too, of which no pointer lies there
    named = [*checkup.KEPT.glob("*/*/*/*/card.md")]
    kept = [page for page in named if "fetches the weights" in page.read_text()]
    assert kept and f"{len(kept)} pretrained networks" in found["weights"].told
    assert found["data"].told.startswith(f"{healthy / 'data'}: no such folder")
    (healthy / "data").mkdir()
    assert examined(healthy, capsys)["data"].told.startswith(f"{healthy / 'data'}: nothing prepared")
    assert main(["doctor", "--results", str(healthy)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= len(subjects) and {line.split()[0] for line in lines} <= {"ok", "note"}


@pytest.mark.parametrize(("lower", "state"), [(4e9, "note"), (90e9, "ok")])
def test_both_precisions_speeds_are_told(monkeypatch: pytest.MonkeyPatch, lower: float, state: str) -> None:
    monkeypatch.setattr(bfloat16, "speeds", lambda: bfloat16.Speeds(50e9, lower))
    found = checkup._precision()
    assert found.state == state and "float32 50 GFLOP/s" in found.told
    assert f"bfloat16 {lower / 1e9:.0f} GFLOP/s" in found.told and ("float32 on this CPU" in found.told) == (
        lower < 5e9
    )


def test_an_old_package_is_wrong_only_where_commands_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["numpy>=999", 'scipy>=999; extra == "pipelines"', 'setuptools>=999; extra == "dev"']
    monkeypatch.setattr(checkup, "requires", lambda name: needs)
    states = {finding.told.split()[0]: finding.state for finding in checkup._packages()}
    assert (states["numpy"], states["scipy"], states["setuptools"]) == ("wrong", "wrong", "note")


def _open_cache(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "cache").mkdir()
    (folder / "cache").chmod(0o777)


def _foreign_library(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "cache").mkdir(mode=0o700)
    library = folder / "cache" / "pool.so"
    library.touch()
    library.chmod(0o666)


def _no_kernels(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(native, "available", lambda number, source="pool": source != "packets")
    patch.setattr(native, "cause", lambda *_: cache.KernelsMissing("there is no C++ compiler", "install g++"))


def _torn_marker(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "data" / "prepared").mkdir(parents=True)
    (folder / "data" / "prepared" / "digits.json").write_text('{"ti')


def _misspelled(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("STILLPOINT_KERNEL", "0")


def _no_room(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(checkup, "ROOM", 1 << 80)


def _results_are_a_file(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "results").touch()


def _kept_run(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """A kept run without the weights that its card names."""
    at = "translations/fashion_mnist/TwoFullNet/seed0"
    shutil.copytree(checkup.KEPT / at, folder / "runs" / at, ignore=shutil.ignore_patterns("weights.*"))
    patch.setattr(checkup, "KEPT", folder / "runs")
    return folder / "runs" / at


def _other_weights(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (_kept_run(folder, patch) / "weights.safetensors").write_bytes(b"others")


def test_absent_weights_are_a_note(
    healthy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _kept_run(healthy, monkeypatch)
    found = examined(healthy, capsys)["weights"]
    assert found.state == "note" and found.told.startswith("1 of 1 pretrained networks") and "dvc pull" in found.told


@pytest.mark.parametrize(
    ("harm", "subject", "said"),
    [
        (_open_cache, "cache", "others can write"),
        (_foreign_library, "cache", "chmod go-w"),
        (_no_kernels, "kernels", "wavelet packets, a few times slower (there is no C++ compiler): install g++"),
        (_torn_marker, "data", "digits.json"),
        (_misspelled, "variables", "STILLPOINT_KERNEL has no effect; nearest: STILLPOINT_KERNELS"),
        (_no_room, "disk", "GiB free"),
        (_results_are_a_file, "disk", "cannot be written"),
        (_other_weights, "weights", "not the file that its card describes"),
    ],
)
def test_what_is_wrong_is_told_with_its_remedy(
    healthy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    harm: Callable[[Path, pytest.MonkeyPatch], None],
    subject: str,
    said: str,
) -> None:
    harm(healthy, monkeypatch)
    assert main(["doctor", "--results", str(healthy / "results"), "--data", str(healthy / "data")]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wrong")]
    assert any(line.split()[1] == subject and said in line for line in lines), lines


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert not [name for name in COMMANDS if name not in script]
    assert "max-shift" in script


def test_bash_completes_an_option_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    program = capsys.readouterr().out + (
        "COMP_WORDS=(stillpoint measure --max); COMP_CWORD=2; _shtab_stillpoint; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "--max-shift"
