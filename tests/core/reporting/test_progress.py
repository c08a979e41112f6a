"""Progress is read from what runs write, and a workflow that fails is told by its exit code."""

import io
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from stillpoint.core.base.interrupt import Interrupted
from stillpoint.core.reporting import progress
from stillpoint.core.reporting.progress import (
    EVALUATION,
    START,
    Status,
    clock,
    evaluation_share,
    follow,
    left,
    overview,
    remaining,
    status,
)
from stillpoint.core.runs.layout import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    found = Run("aps", "digits", "net", 0, tmp_path)
    found.folder.mkdir(parents=True)
    return found


def test_a_run_goes_from_waiting_over_training_and_measuring_to_done(run: Run) -> None:
    seen = [status(run, 4)]
    run.history.write_text("epoch\n1\n2\n")
    seen.append(status(run, 4))
    run.history.write_text("epoch\n1\n2\n3\n4\n")
    run.weights.write_text("")
    seen.append(status(run, 4))
    run.metrics.write_text("{}")
    seen.append(status(run, 4))
    assert [str(state) for state in seen] == ["waiting", "epoch 2/4", "to measure", "done"]
    works = [state.work() for state in seen]
    assert works == sorted(works) and works[0] == 0 and works[-1] == 1
    assert works[2] == pytest.approx((1 + START) / (1 + START + EVALUATION))


def test_a_low_terminal_shows_the_networks_at_work_and_counts_the_others(tmp_path: Path) -> None:
    stages = ["done"] * 5 + ["waiting"] * 20 + ["training"]
    runs = {Run("aps", "digits", f"net{k}", 0, tmp_path): Status(stage, 1, 4) for k, stage in enumerate(stages)}

    def lines(most: int | None) -> list[str]:
        console = Console(file=io.StringIO(), width=80)
        console.print(overview(runs, most))
        return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]

    assert len(lines(None)) == len(lines(26)) == 27
    shown = lines(8)
    assert len(shown) == 9 and "net25 epoch 1/4" in shown
    # those at work, then in their order, and a count
    assert shown[1:7] == [f"net{k} done" for k in range(5)] + ["net5 waiting"] and shown[-1] == "19 more 19 waiting"


def test_remaining_time_follows_from_what_was_done() -> None:
    assert remaining(0.5, 0.0, 60) == pytest.approx(60)
    assert remaining(0.75, 0.5, 30) == pytest.approx(30)
    assert remaining(0.5, 0.5, 60) is None
    assert (clock(187), clock(90_187)) == ("3:07", "25:03:07")


def test_an_estimate_runs_down_and_is_not_stretched_while_nothing_new_is_known() -> None:
    said = [left(187.0, since) for since in (0.0, 60.0, 186.0, 187.0, 500.0)]
    assert said == ["about 3:07 left", "about 2:07 left", "about 0:01 left", *["remaining time unknown"] * 2]
    assert left(None) == "remaining time unknown"


def test_an_evaluations_share_is_that_of_the_runs_that_are_done(run: Run) -> None:
    assert evaluation_share([run]) == EVALUATION
    run.training.write_text('{"seconds": 20.0}')
    run.metrics.write_text('{"provenance": {"seconds": 30.0}}')
    torn = Run("aps", "digits", "net", 1, run.root)
    torn.folder.mkdir()
    torn.training.write_text('{"secon')
    assert evaluation_share([run, torn]) == pytest.approx(1.5)
    # trained to the end, an evaluation of one and a half trainings still to come
    assert Status("to measure", 4, 4).work(1.5) == pytest.approx((1 + START) / (2.5 + START))


@pytest.mark.parametrize("code", [0, 3])
def test_follow_returns_the_exit_code_and_keeps_the_output(run: Run, code: int) -> None:
    text = io.StringIO()
    command = [sys.executable, "-c", f"print('said'); raise SystemExit({code})"]
    folder = run.root / "folder"
    assert follow(command, [run], 4, folder, Console(file=text), interval=0.01) == code
    assert (folder / "logs" / "workflow.txt").read_text() == "said\n"
    assert "0 of 1 runs measured" in text.getvalue()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_reached_this_process_alone_is_passed_on_as_an_interrupt(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.2)
    # a snakemake that a `kill` of this process alone has not reached
    waits = (
        "import pathlib, time\n"
        "try:\n"
        "    pathlib.Path('begun').touch(); time.sleep(60)\n"
        "except KeyboardInterrupt:\n    pathlib.Path('told').touch()\n"
    )
    monkeypatch.chdir(tmp_path)
    sleep, kills = time.sleep, [number]

    def killed(seconds: float) -> None:
        if kills and Path("begun").is_file():
            os.kill(os.getpid(), kills.pop())
        sleep(seconds)

    monkeypatch.setattr(progress.time, "sleep", killed)
    # a shell starts what runs behind `&` deaf to interrupts, and a child inherits that
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(Interrupted) as stopped:
            follow([sys.executable, "-c", waits], [run], 2, tmp_path, Console(file=io.StringIO()))
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.value.signal == number and Path("told").is_file()


def test_a_workflow_that_failed_behind_its_last_measurement_is_not_done(run: Run) -> None:
    run.metrics.write_text("{}")
    said = {}
    for code in (0, 2):
        text = io.StringIO()
        follow([sys.executable, "-c", f"raise SystemExit({code})"], [run], 1, run.root, Console(file=text), interval=0)
        said[code] = text.getvalue()
    assert "all is done" in said[0] and "stopped" not in said[0]
    assert "all is done" not in said[2] and "1 of 1 runs measured, and the workflow stopped" in said[2]


def test_a_torn_history_stops_no_display(run: Run) -> None:
    run.history.write_bytes(b"epoch\n1\n\xff\xfe")
    assert status(run, 4).stage == "training"


def test_first_epochs_that_end_together_give_no_estimate(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # a second after the one's first epoch the other's ends, which tells nothing of the speed
    now, text, other = [0.0], io.StringIO(), Run(run.pipeline, run.recipe, run.model, run.seed + 1, run.root)
    waits = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    steps = iter([(run, 1, 100), (other, 1, 1), (run, 2, 9)])

    def slept(seconds: float) -> None:
        if (step := next(steps, None)) is None:
            raise KeyboardInterrupt
        one, epochs, took = step
        now[0] += took
        one.history.parent.mkdir(parents=True, exist_ok=True)
        one.history.write_text("".join(f"{line}\n" for line in ["epoch", *range(1, epochs + 1)]))

    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.time, "sleep", slept)
    with pytest.raises(KeyboardInterrupt):
        follow(waits, [run, other], 10, run.root, Console(file=text, width=200), interval=0)
    said = [line for line in text.getvalue().splitlines() if "epoch" in line]
    assert len(said) == 3 and all("remaining time unknown" in line for line in said[:2])
    # a start counts as half an epoch, an evaluation as five: 2.5 in 10 s since the first, and 27 of 31 are left
    assert "about 1:48 left" in said[2]


def test_the_start_of_a_workflow_lengthens_no_estimate(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # 100 s until the first epoch has ended, then 1 s an epoch; an evaluation is half a training
    now, text, waits = [0.0], io.StringIO(), "import sys; sys.stdin.read()"

    def slept(seconds: float) -> None:
        epochs = len(run.history.read_text().split()) if run.history.is_file() else 1
        now[0] += 1 if run.history.is_file() else 100
        if epochs == 5:
            raise KeyboardInterrupt
        run.history.write_text("".join(f"{line}\n" for line in ["epoch", *range(1, epochs + 1)]))

    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.time, "sleep", slept)
    with pytest.raises(KeyboardInterrupt):
        follow([sys.executable, "-c", waits], [run], 10, run.root, Console(file=text), interval=0)
    said = [line for line in text.getvalue().splitlines() if "epoch" in line]
    assert "epoch 1/10" in said[0] and "remaining time unknown" in said[0]
    # of two epochs of ten, 8 s of training and 5 s of measuring are left
    assert "epoch 2/10" in said[1] and "about 0:13 left" in said[1]
