"""The script for a GPU: what it would do, and that its runs come back whole or not at all."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "gpu_check.py"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = sys.modules["gpu_check"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_dry_run_says_what_is_done_how_long_and_that_it_fits(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--dry-run", "--data", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seconds = [int(number) for number in re.findall(r"at most +(\d+) s", done.stdout)]
    # all parts within eight minutes, what two of them take to save their states included
    assert sum(seconds[:-1]) == seconds[-1] and seconds[-1] + 2 * 20 <= 480
    assert "TOO MUCH" not in done.stdout and "of 64 in all" in done.stdout


def test_runs_come_back_in_pieces_finished_ones_first_or_not_at_all(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = check.Setting(tmp_path / "out", tmp_path, True)
    names = {"a": ("state.pt", "history.csv"), "b": ("state.pt", "weights.safetensors", "metrics.json")}
    for model, files in names.items():
        folder = here.work / "aps" / "digits" / model / "seed0"
        folder.mkdir(parents=True)
        for number, name in enumerate((*files, "state.previous.pt", ".lock")):
            (folder / name).write_bytes(bytes([number]) * 30_000)
    monkeypatch.setattr(check, "PIECE", 50_000)
    found = check.pack(here)
    assert len(found["pieces"]) == 3 and found["left_out"] == []
    (here.out / "summary.json").write_text(json.dumps({"runs": found}))
    check.unpack(here.out, tmp_path / "home")
    back = {path.relative_to(tmp_path / "home").as_posix() for path in (tmp_path / "home").rglob("*") if path.is_file()}
    # a finished run needs no state, none the one before its last
    assert back == {
        *(f"aps/digits/a/seed0/{name}" for name in names["a"]),
        *(f"aps/digits/b/seed0/{name}" for name in names["b"][1:]),
    }
    (here.out / "runs.tar.01").write_bytes(b"other")
    with pytest.raises(SystemExit, match="damaged: nothing was unpacked"):
        check.unpack(here.out, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()
    monkeypatch.setattr(check, "PIECES", 2)
    assert check.pack(here)["left_out"] == ["aps/digits/a/seed0"]
