"""What a workflow may replace: only what a workflow made under the same settings, of other code or other images."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.interrupt import locked
from stillpoint.core.data.datasets import prepare
from stillpoint.core.runs.layout import Run
from stillpoint.core.training.train import train
from stillpoint.pipelines import workflow
from stillpoint.pipelines.cli import main
from tests import fresh

ROOT = Path(__file__).parent.parent.parent
PAIRS = ["TRAIN.EPOCHS", "2", "DATA.LIMIT", "32", "MODEL.WIDTH", "0.25"]
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("aps", "digits", "resnet20", 0, tmp_path / "results")


@pytest.fixture
def trained(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """``stillpoint train`` in the folder of `run`; the exit code and all that was said."""

    def do(*more: str, pairs: list[str] = PAIRS) -> tuple[int, str]:
        words = ["train", "aps/resnet20", "--results", str(run.root), "--data", str(tmp_path / "data")]
        code = main([*words, "--threads", "1", *more, *pairs])
        said = capsys.readouterr()
        return code, said.out + said.err

    return do


def other_code(monkeypatch: pytest.MonkeyPatch, name: str = "other") -> None:
    """From now on as if a file had been edited that decides a training."""
    monkeypatch.setattr(workflow, "stage_code", lambda stage, paper, data="": f"{name} {stage}")


def plan(run: Run, pairs: list[str] = PAIRS) -> workflow.Plan:
    given = {"results": str(run.root), "data": str(run.root.parent / "data"), "settings": " ".join(pairs)}
    return workflow.plan("aps", given)


def contents(run: Run) -> dict[str, bytes]:
    """All that a run left, but for what only tells of it."""
    apart = (".lock", "log.txt")
    return {p.name: p.read_bytes() for p in run.folder.iterdir() if p.is_file() and p.name not in apart}


def test_what_a_workflow_made_is_made_anew_where_its_code_has_changed(
    run: Run, trained: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "begins" in trained("--workflow")[1]
    before = contents(run)
    assert "nothing is trained again" in trained("--workflow")[1]
    assert contents(run) == before
    # snakemake remembers nothing of runs that were made elsewhere: it is told which to make again
    assert "--forcerun" not in workflow.snakemake(plan(run))
    other_code(monkeypatch)
    assert plan(run).outdated() == [run]
    command = workflow.snakemake(plan(run))
    assert command[command.index("--forcerun") + 1] == str(run.weights)
    code, said = trained("--workflow")
    assert code == 0 and "it is made anew" in said and "begins" in said
    assert run.code.read_text() == "other train" and json.loads(run.training.read_text())["codes"] == ["other train"]


def test_a_training_stopped_by_hand_is_gone_on_with(
    run: Run, trained: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pipelines.configure("aps/resnet20", "digits", PAIRS)
    places = {"data_root": tmp_path / "data", "device": "cpu", "threads": 1}
    assert len(train(config, run, build=pipelines.build, until=1, **places)) == 1
    assert not run.weights.exists()
    other_code(monkeypatch)
    plan(run).refuse(run)
    code, said = trained("--workflow")
    assert code == 0 and "training resumes (after epoch 1)" in said and "begins" not in said
    assert run.weights.is_file() and not run.code.exists()


def test_what_is_begun_by_hand_where_a_workflow_left_only_its_mark_is_by_hand(
    run: Run, trained: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a workflow that was killed before its first state
    run.folder.mkdir(parents=True)
    run.code.write_text("a workflow's")
    assert "begins" in trained()[1] and not run.code.exists()
    before = contents(run)
    other_code(monkeypatch)
    assert "nothing is trained again" in trained("--workflow")[1] and contents(run) == before


@pytest.mark.parametrize("whose", ["by hand", "kept"])
def test_a_finished_run_by_hand_or_kept_is_never_remade(
    run: Run, trained: Command, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    trained(*(["--workflow"] if whose == "kept" else []))
    if whose == "kept":
        run.card.write_text("cited\n")
    before = contents(run)
    other_code(monkeypatch)
    assert plan(run).outdated() == []
    code, said = trained("--workflow")
    assert code == 0 and "nothing is trained again" in said and contents(run) == before
    # asked for by name, it is
    assert "begins" in trained("--anew")[1] and not run.card.exists() and not run.code.exists()


@pytest.mark.parametrize("whose", ["by hand", "a workflow", "kept"])
def test_a_trial_with_other_settings_is_refused(
    run: Run, trained: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], whose: str
) -> None:
    trained(*([] if whose == "by hand" else ["--workflow"]))
    if whose == "kept":
        run.card.write_text("cited\n")
    before, trial = contents(run), ["TRAIN.EPOCHS", "1", *PAIRS[2:]]
    said = {"by hand": "trained by hand", "a workflow": "made by a workflow", "kept": "kept"}[whose]
    said = f"seed0 holds a run that was {said} with other settings (TRAIN.EPOCHS: 2 -> 1): replace it (--anew)"
    with pytest.raises(UserError) as error:
        plan(run, trial).refuse(run)
    assert said in str(error.value) and "\n" not in str(error.value)
    code, told = trained("--workflow", pairs=trial)
    assert code == 2 and said in told
    places = ["--results", str(run.root), "--data", str(tmp_path / "data")]
    assert main(["run", "aps", *places, *trial]) == 2 and said in capsys.readouterr().err
    command = ["-m", "snakemake", "pipelines/aps/all", "--dry-run", "--config"]
    given = [f"results={run.root}", f"data={tmp_path / 'data'}", f"settings={' '.join(trial)}"]
    done = fresh.run([*command, *given])
    assert done.returncode and said in done.stdout + done.stderr
    assert contents(run) == before


def test_nothing_is_touched_before_the_lock_is_held(
    run: Run, trained: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained("--workflow")
    before = contents(run)
    other_code(monkeypatch)
    # the training of a workflow that was killed goes on without it
    with locked(run.lock):
        for words in (["--workflow"], ["--anew"], []):
            code, said = trained(*words)
            assert code == 2 and "in use by another process" in said
            assert contents(run) == before, words
    assert "begins" in trained("--workflow")[1] and run.code.read_text() == "other train"


def test_each_command_beside_the_job_of_a_killed_workflow_is_refused_or_waits(
    run: Run, trained: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, few = ["--data", str(tmp_path / "data")], ["EVALUATE.METRICS", "['accuracy']", "EVALUATE.UNTRAINED", "False"]
    trained("--workflow")
    assert main(["evaluate", str(run.folder), *data, *few]) == 0
    before, folder = contents(run), str(run.folder)
    words = ["run", "aps", "--results", str(run.root), *data, "--seeds", "1"]
    pairs = ["GRID", "['resnet20']", *few]
    with locked(run.lock):
        for refused in (
            ["evaluate", folder, *data, *few],
            ["evaluate", folder, *data, "--workflow", *few],
            ["verify", folder, *data],
            ["release", folder, *data, "--to", str(tmp_path / "kept")],
        ):
            capsys.readouterr()
            assert main(refused) == 2 and "in use by another process" in capsys.readouterr().err, refused
            assert contents(run) == before
        # what would be refused afterwards does not wait
        assert main([*words, *pairs, "TRAIN.EPOCHS", "1", *PAIRS[2:]]) == 2 and "--anew" in capsys.readouterr().err
    monkeypatch.setattr("stillpoint.core.reporting.progress.follow", lambda *given, **named: 0)
    monkeypatch.setattr("stillpoint.pipelines.gathering.draw_figures", lambda *given: [])
    for more in ([], ["--anew"]):
        job, waited = ExitStack(), []
        job.enter_context(locked(run.lock))

        def told(sentence: str, job: ExitStack = job, waited: list[str] = waited) -> None:
            if sentence.endswith("waiting for it to end"):
                waited.append(sentence)
                assert contents(run) == before
                job.close()

        monkeypatch.setattr("stillpoint.pipelines.commands.results.tell", told)
        code = main([*words, *more, *pairs, *PAIRS])
        assert len(waited) == 1 and "seed0 is in use by another process" in waited[0]
        # nothing is left of the run where it is to be made anew: the stand-in for snakemake makes none
        assert (code, contents(run)) == ((2, {}) if more else (0, before))


def test_a_setting_that_is_younger_than_a_run_had_its_default_there(run: Run, trained: Command) -> None:
    trained("--workflow")
    text = run.config.read_text()
    assert "  NESTEROV: false\n" in text
    run.config.write_text(text.replace("  NESTEROV: false\n", ""))
    plan(run).refuse(run)
    with pytest.raises(UserError, match=r"TRAIN\.NESTEROV: False -> True"):
        plan(run, [*PAIRS, "TRAIN.NESTEROV", "True"]).refuse(run)


def pictures(root: Path, seed: int) -> None:
    """A copy of CIFAR-10 in folders, of noise: six training and three test images a class."""
    from stillpoint.core.data.cifar import CIFAR10_CLASSES

    shutil.rmtree(root / "cifar10", ignore_errors=True)
    random = np.random.default_rng(seed)
    for part, count in (("train", 6), ("test", 3)):
        for kind in CIFAR10_CLASSES:
            folder = root / "cifar10" / part / kind
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{number}.png")


@pytest.mark.parametrize("whose", ["by hand", "a workflow", "a workflow, fetched without its states"])
def test_other_images_make_a_workflows_run_anew_and_refuse_one_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], whose: str
) -> None:
    data, own = tmp_path / "data", [] if whose == "by hand" else ["--workflow"]
    words = ["train", "aps/resnet20", "--recipe", "cifar10_demo", "--results", str(tmp_path), "--data", str(data)]
    pairs = ["TRAIN.EPOCHS", "1", "TRAIN.BATCH_SIZE", "16", "DATA.VALIDATION", "10", "MODEL.WIDTH", "0.25"]
    run = Run("aps", "cifar10_demo", "resnet20", 0, tmp_path)
    pictures(data, 0)
    raw = workflow.raw_data("cifar10", data)
    assert raw and raw == workflow.raw_data("cifar10", data)
    prepare("cifar10", data)
    assert main([*words, *own, *pairs]) == 0
    if "fetched" in whose:
        # train.json alone then says which images it was trained on
        for state in run.folder.glob("state*.pt"):
            state.unlink()
    before = contents(run)
    pictures(data, 1)
    # what Snakemake is told to look at again
    assert workflow.raw_data("cifar10", data) != raw
    prepare("cifar10", data)
    capsys.readouterr()
    code = main([*words, "--workflow", *pairs])
    said = capsys.readouterr()
    if whose == "by hand":
        assert code == 2 and "was trained by hand with other images than a workflow would use now" in said.err
        assert contents(run) == before
    else:
        assert code == 0 and "the images have changed" in said.out and "begins" in said.out
        assert contents(run)["weights.safetensors"] != before["weights.safetensors"]
        # it is still a workflow's, which makes it anew the next time too
        assert contents(run)["code.txt"] == before["code.txt"]


def test_what_is_measured_is_not_measured_again_and_not_overwritten_by_other_settings(
    run: Run, trained: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ["EVALUATE.METRICS", "['circular']", "EVALUATE.UNTRAINED", "False"]

    def measure(*more: str, pairs: list[str] = few) -> tuple[int, str]:
        code = main(["evaluate", str(run.folder), "--data", str(tmp_path / "data"), *more, *pairs])
        return code, capsys.readouterr().err

    trained("--workflow")
    assert measure("--workflow")[0] == 0
    before = run.metrics.read_bytes()
    assert measure("--workflow")[0] == 0 and run.metrics.read_bytes() == before
    code, said = measure("--workflow", pairs=[*few, "EVALUATE.REPEATS", "7"])
    assert code == 2 and "was measured with other settings (REPEATS: 2 -> 7)" in said
    assert run.metrics.read_bytes() == before
    # by hand one measures as one likes
    assert measure(pairs=[*few, "EVALUATE.REPEATS", "7"])[0] == 0 and run.metrics.read_bytes() != before
    assert measure()[0] == 0
    # other code measures a workflow's run again, but not one by hand
    before = run.metrics.read_bytes()
    other_code(monkeypatch)
    assert measure("--workflow")[0] == 0 and run.metrics.read_bytes() != before
    before, mark = run.metrics.read_bytes(), run.code.read_text()
    run.code.unlink()
    other_code(monkeypatch, "third")
    assert measure("--workflow")[0] == 0 and run.metrics.read_bytes() == before
    run.code.write_text(mark)
    # other weights are measured, whatever stands there
    assert "begins" in trained("--workflow")[1] and not run.metrics.exists()


def test_an_unfinished_training_is_not_measured_by_the_weights_of_another(run: Run, trained: Command) -> None:
    trained("--workflow")
    run.training.unlink()
    code = main(["evaluate", str(run.folder)])
    assert code == 2


@pytest.mark.parametrize("recipe", ["../../aps/configs/digits", "../configs/digits", "/etc/digits", "digits/"])
@pytest.mark.parametrize("command", ["train", "show-config", "table", "figures", "run"])
def test_a_recipes_name_leads_nowhere_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, recipe: str
) -> None:
    what = "aps/resnet20" if command in ("train", "show-config") else "aps"
    places = [] if command == "show-config" else ["--results", str(tmp_path / "results")]
    assert main([command, what, "--recipe", recipe, *places]) == 2
    assert "no recipe" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_fault_of_ours_keeps_its_traceback_on_the_terminal_and_in_the_log(
    run: Run, trained: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stillpoint.core.layers.blur import BlurPool2d
    from stillpoint.core.training.learner import Learner

    def broken(*given: object, **named: object) -> None:
        raise ValueError("deep inside")

    monkeypatch.setattr(Learner, "step", broken)
    with pytest.raises(ValueError, match="deep inside"):
        trained()
    log = run.log.read_text()
    assert "Traceback (most recent call last)" in log and log.rstrip().endswith("ValueError: deep inside")
    monkeypatch.undo()
    # nor is a check that fails in the middle of a training or a measurement anyone's bad setting
    blurred = ["train", "aps/resnet20_lpf3", "--results", str(run.root), "--data", str(tmp_path / "data")]
    assert main([*blurred, *PAIRS]) == 0
    folder = Run("aps", "digits", "resnet20_lpf3", 0, run.root).folder
    monkeypatch.setattr(BlurPool2d, "forward", broken)
    for words in (["evaluate", str(folder), "--data", str(tmp_path / "data")], [*blurred, "--anew", *PAIRS]):
        (folder / "log.txt").unlink()
        with pytest.raises(ValueError, match="deep inside"):
            main(words)
        assert "ValueError: deep inside" in (folder / "log.txt").read_text()


def test_a_run_begun_again_under_other_code_tells_whether_it_gives_the_same_bits(
    run: Run, trained: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["verify", str(run.folder), "--data", str(tmp_path / "data"), "--threads", "1"]
    trained()
    before = contents(run)
    first = json.loads(run.training.read_text())["codes"][0]
    other_code(monkeypatch)
    assert main(words) == 0 and "reproduces the first epoch bit by bit" in capsys.readouterr().out
    assert list(json.loads(run.verified.read_text())) == ["other train"] and first != "other train"
    assert contents(run) == {**before, run.verified.name: run.verified.read_bytes()}
    other_code(monkeypatch, "wrong")
    schedule = "stillpoint.core.training.loop.rate"
    monkeypatch.setattr(schedule, lambda *given: 0.01)
    assert main(words) == 1 and "gets other weights in the first epoch" in capsys.readouterr().out
    assert list(json.loads(run.verified.read_text())) == ["other train"]
    run.training.write_text("{}")
    assert main(words) == 2 and "there is nothing to compare" in capsys.readouterr().err


def test_anew_is_the_one_way_to_replace_what_was_made_by_hand_by_other_settings_or_kept(
    run: Run, trained: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained()
    run.card.write_text("cited\n")
    before, words = contents(run), ["run", "aps", "--results", str(run.root), "--data", str(tmp_path / "data")]
    trial = ["TRAIN.EPOCHS", "1", *PAIRS[2:], "GRID", "['resnet20']"]
    monkeypatch.setattr("stillpoint.core.reporting.progress.follow", lambda *given, **named: 1)
    assert main([*words, *trial]) == 2 and "--anew" in capsys.readouterr().err and contents(run) == before
    # under the lock of each run
    with locked(run.lock):
        assert main(["train", "aps/resnet20", "--results", str(run.root), "--anew", *PAIRS]) == 2
    assert contents(run) == before
    # results that were copied or fetched have no lock file
    run.lock.unlink()
    assert main([*words, "--anew", *trial]) == 2 and "the workflow stopped" in capsys.readouterr().err
    assert contents(run) == {}


def test_numbers_older_than_their_table_are_shown_and_seeds_not_asked_for_are_not(
    run: Run, trained: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ["EVALUATE.METRICS", "['accuracy']", "EVALUATE.UNTRAINED", "False"]
    trained("--workflow")
    assert main(["evaluate", str(run.folder), "--data", str(tmp_path / "data"), *few]) == 0
    shutil.copytree(run.folder, run.folder.with_name("seed1"))
    pairs = [*PAIRS, *few, "GRID", "['resnet20']"]
    show = ["table", "aps", "--results", str(run.root), "--seeds", "1", *pairs]
    assert main(show) == 0
    table = run.root / "aps" / "digits" / "table.json"
    before, numbers = table.read_bytes(), json.loads(run.metrics.read_text())
    numbers["trained"]["accuracy"] /= 2
    run.metrics.write_text(json.dumps(numbers))
    # as after a clock was put back, or a copy that keeps its times
    os.utime(run.metrics, (0, 0))
    drawn: list[object] = []
    monkeypatch.setattr("stillpoint.core.reporting.progress.follow", lambda *given, **named: 0)
    monkeypatch.setattr("stillpoint.pipelines.gathering.draw_figures", lambda *given: drawn.append(given))
    words = ["run", "aps", "--results", str(run.root), "--data", str(tmp_path / "data"), "--seeds", "1"]
    assert main([*words, *pairs]) == 0
    after = table.read_bytes()
    assert after != before and len(drawn) == 1
    # what is as it should be is left alone
    assert main([*words, *pairs]) == 0 and len(drawn) == 1
    assert main(show) == 0 and table.read_bytes() == after


def test_snakemake_removes_no_result_of_a_rule_that_is_refused() -> None:
    rules = (ROOT / "pipelines" / "recipe.smk").read_text().split("\nrule ")[1:]
    outputs = {text.partition(":")[0]: text.partition("output:")[2].partition("params:")[0] for text in rules}
    # what is no `update` is gone before its rule runs, and stays away where it fails
    kept = {name: output.count("update(") for name, output in outputs.items() if output}
    assert kept == {"train": 3, "evaluate": 2, "table": 4, "figures": 1}


def test_a_mark_of_code_that_is_no_text_is_that_of_other_code(run: Run, trained: Command) -> None:
    trained("--workflow")
    mark = run.code.read_bytes()
    run.code.write_bytes(b"\xff\xfe")
    assert plan(run).outdated() == [run]
    code, said = trained("--workflow")
    assert code == 0 and "it is made anew" in said and run.code.read_bytes() == mark
