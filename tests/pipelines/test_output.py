"""What commands print: as it is, whatever it holds, on terminals of every encoding, and 80 columns wide."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.cli import main, parse
from stillpoint.pipelines.commands import COMMANDS, GROUPS, compute

ROOT = Path(__file__).resolve().parents[2]
TITLE = "[/b] [red]short[/red] :boom: ± × $x$ é"
SMALL = ["TRAIN.EPOCHS", "1", "DATA.LIMIT", "24", "TRAIN.BATCH_SIZE", "8", "TITLE", TITLE]


class Terminal(io.TextIOWrapper):
    """A stream of an encoding that refuses what it lacks, as Python's own do."""

    def __init__(self, encoding: str, *, terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict", newline="\n")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def shown(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything in it that a table, figures and an evaluation need, under a title that is all markup."""
    root = tmp_path_factory.mktemp("[b]results é")
    words = ["train", "aps/resnet20_aps1", "--results", str(root), "--data", str(root / "data"), *SMALL]
    assert main(words) == 0
    run = Run("aps", "digits", "resnet20_aps1", 0, root)
    measured = ["EVALUATE.METRICS", "[accuracy, circular]", "EVALUATE.REPEATS", "1"]
    assert main(["evaluate", str(run.folder), "--data", str(root / "data"), *measured]) == 0
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 48, 3), np.uint8)).save(root / "[x] é.png")
    return root


def commands(root: Path) -> dict[str, list[str]]:
    run, data = str(Run("aps", "digits", "resnet20_aps1", 0, root).folder), ["--data", str(root / "data")]
    picture = str(root / "[x] é.png")
    return {
        "list": ["list", "aps/resnet20*"],
        "show-config": ["show-config", "aps/resnet20", "TITLE", TITLE],
        "prepare": ["prepare", "digits", *data],
        "train": ["train", "aps/resnet20_aps1", "--results", str(root), *data, *SMALL],
        "evaluate": ["evaluate", run, *data, "EVALUATE.METRICS", "[accuracy, circular]", "EVALUATE.REPEATS", "1"],
        "table": ["table", "aps", "--results", str(root), "TITLE", TITLE],
        "figures": ["figures", "aps", "--results", str(root), "TITLE", TITLE],
        "measure": ["measure", run, "--image", picture, "--max-shift", "1", "--output", str(root / "[m] é.png")],
        "explain": ["explain", run],
        "maximise": ["maximise", run, "--class", "1", "--output", str(root / "[n] é.png")],
        "weights": ["weights", "convert", f"{run}/weights.safetensors", str(root / "[w] é.safetensors")],
        "pretrained": ["evaluate", "aps/nothing [/b] é", "--pretrained"],
        "verify": ["verify", run, *data],
        "release": ["release", run, "--to", str(root / "[p] é"), *data],
        "bench": ["bench", "layer", "--network", "[b] é"],
        "run": ["run", "aps", "TITLE", TITLE, "TRAIN.EPOCHS", "[b] é"],
        "doctor": ["doctor", "--results", str(root), *data],
        "completion": ["completion", "bash"],
        "help": ["measure", "--help"],
    }


@pytest.mark.parametrize(("encoding", "terminal"), [("ascii", True), ("ascii", False), ("cp1252", True)])
def test_every_command_writes_in_every_encoding(results: Path, monkeypatch, encoding: str, terminal: bool) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    for name, words in commands(results).items():
        if name in ("release", "verify") and (encoding, terminal) != ("ascii", True):
            continue  # they train and measure: seconds, in the poorest encoding alone
        out, err = Terminal(encoding, terminal=terminal), Terminal(encoding, terminal=terminal)
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code
        said = out.shown() + err.shown()
        refused = name in ("pretrained", "figures", "bench", "run")
        # what the doctor finds is the machine's
        assert code in ((0, 1) if name == "doctor" else (2 if refused else 0,)), said
        assert said.strip() and "Traceback" not in said, name
        if name == "table":
            assert "[/b] [red]short[/red] :boom: " + ("+- x" if encoding == "ascii" else "± ×") in said


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_an_encoding_lacks_is_spelled(results: Path, monkeypatch, encoding: str) -> None:
    out = Terminal(encoding, terminal=False)
    monkeypatch.setattr(sys, "stdout", out)
    assert main(commands(results)["measure"]) == 0
    shown = out.shown()
    none = "." if encoding == "ascii" else "·"
    assert f"({none} none, # 1e-05: all are rounding)" in shown


def test_tables_of_80_columns_lose_no_name(results: Path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    for name in ("list", "explain", "table", "evaluate"):
        out = Terminal("utf-8", terminal=True)
        monkeypatch.setattr(sys, "stdout", out)
        assert main(commands(results)[name]) == 0
        lines = out.shown().splitlines()
        assert "…" not in out.shown(), name
        codes = re.compile(r"\x1b\[[0-9;]*m")
        tables = [codes.sub("", line) for line in lines if any(edge in line for edge in "│┃┏└")]
        assert name == "list" or tables
        assert all(len(line) <= 80 for line in tables)


def test_a_table_of_80_columns_breaks_headings_before_names_and_numbers(results: Path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal("utf-8", terminal=True)
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["table", "aps", "--kept"]) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out.shown()).splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert max(map(len, lines[1:8])) <= 80
    names = [cell[0].removesuffix(" *") for cell in cells if cell[0]]
    assert names and set(names) == {"resnet20", "resnet20_lpf3", "resnet20_aps1", "resnet20_aps3"}
    changes = [cell[-1] for cell in cells if cell[-1]]
    assert len(changes) == len(names) and all(re.fullmatch(r"\d\.\de[+-]\d\d", change) for change in changes)


def test_help_fits_80_columns_and_its_first_page_a_screen(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    inner = [("board", word) for word in ("page", "add", "check")]
    inner += [("weights", word) for word in ("convert", "fetch")]
    for words in ([], *([name] for name in COMMANDS), *inner):
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        lines = capsys.readouterr().out.splitlines()
        # an example is to be copied in one piece
        assert not [
            line for line in lines if len(line) > 80 and not line.startswith(("  stillpoint ", "  torchrun "))
        ], words
        assert len(lines) <= (50 if words else 24), words
        examples = lines[lines.index("examples:") + 1 :] if words else []
        assert not words or any(f"stillpoint {' '.join(words)}" in line for line in examples), words
        assert words or sorted(COMMANDS) == sorted(name for names in GROUPS.values() for name in names)
        assert words or all(any(f" {name} " in line for line in lines) for name in COMMANDS)


def test_long_work_begins_with_a_line_and_goes_on_with_lines_where_no_terminal_is(monkeypatch, capsys) -> None:
    from stillpoint.pipelines.commands import base

    monkeypatch.setattr(base, "LINES", 0.0)
    with base.reported("measuring it") as progress:
        assert capsys.readouterr().out == "measuring it\n"
        progress("images", 1, 2000)
        progress("worst shift", 3, 0)
    assert capsys.readouterr().out == "images: 1 of 2,000\nworst shift: 3\n"
    monkeypatch.setattr(base, "LINES", 60.0)
    with base.reported("measuring it", quiet=True) as progress, base.reported() as soon:
        progress("images", 1, 2)
        soon("images", 1, 2)
    assert capsys.readouterr().out == ""


def test_json_is_the_same_in_every_encoding(results: Path, monkeypatch) -> None:
    found = []
    for encoding in ("ascii", "cp1252", "utf-8"):
        out = Terminal(encoding, terminal=False)
        monkeypatch.setattr(sys, "stdout", out)
        assert main([*commands(results)["measure"], "--json"]) == 0
        found.append(json.loads(out.shown()))
    assert found[0] == found[1] == found[2] and "é" in found[0]["figure"]


def test_texts_are_read_as_they_were_written_in_every_locale(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("± é → <!-- kept: runs aps --><!-- /kept -->\n", "utf-8")
    program = (
        "import hashlib, pathlib\n"
        "from stillpoint.pipelines import pages\n"
        "from stillpoint.pipelines.board import page\n"
        "from stillpoint.pipelines.board.entries import read_entries\n"
        "from stillpoint.pipelines.board.gather import kept_board\n"
        "((_, text),) = pages.outdated(pathlib.Path('none'), pathlib.Path())\n"
        "html = page.html(read_entries(kept_board('digits')))\n"
        "print(ascii(text), hashlib.sha256(html.encode()).hexdigest())\n"
    )
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    said = set()
    for locale in ({"PYTHONUTF8": "1"}, plain):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **locale}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        said.add(done.stdout)
    assert len(said) == 1 and ascii("± é →")[1:-1] in said.pop()


#: with Python's own buffer, what is in it is written when the interpreter ends
BUFFERS = ({}, {"PYTHONUNBUFFERED": "1"})
PLAIN = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}


@pytest.mark.parametrize("buffer", BUFFERS, ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["measure", "--help"],
        ["board", "add", "--help"],
        ["--version"],
        ["list"],
        ["list", "aps/resnet20", "--json"],
        ["completion", "bash"],
    ],
    ids=" ".join,
)
def test_output_that_finds_no_room_is_told_and_not_taken_for_whole(words: list[str], buffer: dict[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "stillpoint", *words]
        done = subprocess.run(command, cwd=ROOT, env=PLAIN | buffer, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.stderr == "stillpoint: the printed output is incomplete: No space left on device\n"
    assert done.returncode == 2


@pytest.mark.parametrize("words", [["evaluate", "nothing"], ["nothing"], ["board"]], ids=" ".join)
def test_an_error_that_finds_no_room_keeps_its_exit_code(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "stillpoint", *words]
        done = subprocess.run(command, cwd=ROOT, env=PLAIN, stdout=subprocess.PIPE, stderr=full, text=True)
    assert done.returncode == 2 and not done.stdout


NAMELESS = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize(
    "words",
    [
        ["train", "aps/resnet20", "--results", NAMELESS, *SMALL],
        ["train", "aps/resnet20", "--data", NAMELESS, *SMALL],
        ["evaluate", f"{NAMELESS}/aps/digits/resnet20/seed0"],
        ["release", "results/aps", "--to", NAMELESS],
        ["release", f"{NAMELESS}/aps"],
        ["train", "aps/resnet20", "TITLE", NAMELESS],
    ],
)
def test_a_name_that_no_file_can_hold_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "is not UTF-8" in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_setting_that_the_locale_cut_into_bytes_is_the_text_that_was_typed() -> None:
    typed = "± é".encode().decode("ascii", "surrogateescape")
    assert parse(["show-config", "aps/resnet20", "TITLE", typed]).pairs == ["TITLE", "± é"]


@pytest.mark.parametrize("command", ["list", "train", "json"])
def test_a_reader_that_has_exited_ends_no_work(tmp_path: Path, command: str) -> None:
    train = ["train", "aps/resnet20_aps1", "--results", str(tmp_path), "--data", str(tmp_path / "data"), *SMALL]
    words = {"list": ["list"], "json": ["list", "--json"], "train": train}[command]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    options = {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-m", "stillpoint", *words], **options) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, "")
    if command == "train":
        assert Run("aps", "digits", "resnet20_aps1", 0, tmp_path).training.is_file()


def test_an_epochs_estimate_counts_from_the_first_step(monkeypatch, capsys) -> None:
    now = [0.0]
    monkeypatch.setattr(compute.time, "monotonic", lambda: now[0])
    with compute._training_display(10) as display:
        # the first step compiles for 100 s, then a second a step; an earlier call trained four epochs
        for number in range(1, 11):
            now[0] += 100 if number == 1 else 1.01
            display.on_step(5, number, 10, 1.0, 1.0)
        display.on_epoch({"epoch": 5.0, "train_loss": 1.0, "train_accuracy": 0.5})
    assert capsys.readouterr().out == "epoch 5/10: loss 1.0000, accuracy 50.00%, about 0:50 left\n"
