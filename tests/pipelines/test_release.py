"""``release``: a run is kept once its numbers are reproduced, and refused in a sentence where anything is off."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.numpy import save

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.interrupt import locked
from stillpoint.core.reporting.reading import read_maps
from stillpoint.core.runs import cards
from stillpoint.core.runs.checkpoint import read_tensors, save_weights
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines import checkup, networks, released
from stillpoint.pipelines.cli import main

PAIRS = ["TRAIN.EPOCHS", "1", "DATA.LIMIT", "64", "MODEL.WIDTH", "0.25", "EVALUATE.METRICS", "['accuracy', 'circular']"]
NAME = "aps/resnet20_aps3"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a short run, seeds 0 and 1, and their data."""
    place = tmp_path_factory.mktemp("release")
    where = ["--data", str(place / "data"), "--threads", "1", "--device", "cpu"]
    for seed in ("0", "1"):
        assert main(["train", NAME, "--results", str(place / "results"), "--seed", seed, *where, *PAIRS]) == 0
        assert (
            main(["evaluate", str(place / "results" / "aps" / "digits" / "resnet20_aps3" / f"seed{seed}"), *where]) == 0
        )
    return place


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of seed 0 that a test may damage, beside seed 1."""
    shutil.copytree(made / "results", tmp_path / "results")
    monkeypatch.setenv("STILLPOINT_DATA", str(made / "data"))
    monkeypatch.setattr(networks, "KEPT", tmp_path / "runs")
    return Run("aps", "digits", "resnet20_aps3", 0, tmp_path / "results")


def release(*words: object) -> int:
    return main(["release", *map(str, words), "--threads", "1", "--device", "cpu"])


def files(folder: Path) -> dict[str, bytes]:
    """What lies below a folder, but for locks, which stay."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_runs_are_kept_without_weights_and_nothing_is_trained_or_measured_over_them(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert release(run.root / "aps" / "digits") == 0
    kept = [Run("aps", "digits", "resnet20_aps3", seed, tmp_path / "runs") for seed in (0, 1)]
    for one, source in zip(kept, (run, Run("aps", "digits", "resnet20_aps3", 1, run.root)), strict=True):
        said = cards.about(one)
        assert (
            said["weights"] is None
            and not one.weights.exists()
            and one.metrics.read_bytes() == source.metrics.read_bytes()
        )
        stated = json.loads(source.metrics.read_text())["trained"]["accuracy"]
        assert (
            said["measured_again"]["metrics"]["accuracy"] == pytest.approx(stated)
            and said["measured_again"]["images"] == 64
        )
        assert said["weights_digest"] == json.loads(source.metrics.read_text())["provenance"]["weights_digest"]
        assert set(said["files"]) == {path.name for path in one.folder.iterdir()} - {"card.json", "card.md"}
    before = files(tmp_path / "runs")
    words = ["train", NAME, "--results", str(tmp_path / "runs"), "--device", "cpu", *PAIRS]
    assert main(words) == 2 and "is a kept run, and training would change it" in capsys.readouterr().err
    assert release(run.folder) == 2 and "is kept already: --anew replaces" in capsys.readouterr().err
    assert {k: v for k, v in files(tmp_path / "runs").items() if not k.endswith((".lock", "log.txt"))} == before
    assert release(run.folder, "--anew") == 0
    # a table of them, and one that a changed file spoils
    assert main(["table", "aps", "--kept", *PAIRS]) == 0
    rows = (tmp_path / "runs" / "aps" / "digits" / "table.csv").read_text()
    assert ",2," in rows
    kept[0].metrics.write_text(kept[0].metrics.read_text() + " ")
    capsys.readouterr()
    assert main(["table", "aps", "--kept", *PAIRS]) == 2
    assert "metrics.json is not the file that its card describes" in capsys.readouterr().err


def test_weights_are_kept_in_half_precision_and_the_metrics_are_theirs(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert release(run.folder, "--weights") == 0
    kept = Run("aps", "digits", "resnet20_aps3", 0, tmp_path / "runs")
    tensors, about = read_tensors(cards.weights(kept))
    assert {t.dtype for t in tensors.values() if t.dim() > 1} == {torch.float16}
    assert tensors["bn1.running_var"].dtype == torch.float32 and about["precision"].startswith("float16")
    metrics, before = json.loads(kept.metrics.read_text()), json.loads(run.metrics.read_text())
    assert metrics["untrained"] == before["untrained"] and metrics["evaluate"] == before["evaluate"]
    assert metrics["provenance"]["weights_digest"] != before["provenance"]["weights_digest"]
    assert cards.read(kept)["before_rounding"]["accuracy"] == before["trained"]["accuracy"]
    assert torch.equal(pipelines.pretrained(NAME).state_dict()["conv1.weight"], tensors["conv1.weight"].float())
    capsys.readouterr()
    assert main(["evaluate", NAME, "--pretrained", "--json", "--threads", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["differing"] == []
    # nothing is measured over what its card describes, by hand or by a workflow with other settings
    before = files(kept.folder)
    for more in ([], ["--workflow", "EVALUATE.REPEATS", "9"]):
        assert main(["evaluate", str(kept.folder), "--threads", "1", *more]) == 2
        said = capsys.readouterr().err
        assert "measured with other settings" in said if more else "measuring would change it" in said
    assert files(kept.folder) == before
    # what is kept elsewhere comes in as it is, its digests looked at
    assert main(["release", str(kept.folder), "--to", str(tmp_path / "home"), "--weights", "--threads", "1"]) == 0
    assert files(tmp_path / "home") == {k: v for k, v in files(tmp_path / "runs").items() if not k.endswith(".lock")}
    kept.weights.write_bytes(run.weights.read_bytes())
    with pytest.raises(UserError, match="not the file that its card describes"):
        pipelines.pretrained(NAME)
    assert main(["release", str(kept.folder), "--to", str(tmp_path / "third"), "--weights"]) == 2
    assert not (tmp_path / "third" / "aps").exists()
    kept.weights.unlink()
    with pytest.raises(UserError, match=r"dvc pull .*weights.safetensors.dvc fetches it"):
        pipelines.pretrained(NAME)
    with pytest.raises(UserError, match="no pretrained weights are kept for aps/resnet20"):
        pipelines.pretrained("aps/resnet20")


def changed(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def _other_weights(run: Run) -> None:
    tensors, about = read_tensors(run.weights)
    more = {key: about[key] for key in ("config_digest", "epoch", "dataset", "seed")}
    save_weights(run.weights, {k: t * 1.5 if t.dim() > 1 else t for k, t in tensors.items()}, model=NAME, **more)


def _moved(run: Run) -> None:
    other = run.folder.parents[1] / "resnet20_aps1"
    other.mkdir()
    run.folder.rename(other / "seed0")
    run.folder.mkdir()
    (run.folder / "elsewhere").symlink_to(other / "seed0")


WRONG: dict[str, tuple[Callable[[Run], object], str]] = {
    "not finished": (
        lambda run: run.training.unlink(),
        "has not finished training, so it cannot be released: finish it first",
    ),
    "not measured": (lambda run: run.metrics.unlink(), "was not measured"),
    "no run": (lambda run: run.config.unlink(), "holds no run"),
    "other weights": (_other_weights, "was measured with other weights"),
    "torn weights": (lambda run: run.weights.write_bytes(run.weights.read_bytes()[:-9]), "truncated or damaged"),
    "torn maps": (lambda run: run.maps.write_bytes(b"12345678"), "truncated or damaged"),
    "short history": (
        lambda run: run.history.write_text(run.history.read_text().splitlines()[0] + "\n"),
        "does not have the 1 epoch",
    ),
    "other settings": (
        lambda run: changed(run.training, lambda d: d.update(config_digest="0")),
        "has other settings",
    ),
    "other images": (
        lambda run: changed(run.metrics, lambda d: d["provenance"].update(data_digest="0")),
        "on other images",
    ),
    "better numbers": (
        lambda run: changed(run.metrics, lambda d: d["trained"].update(accuracy=0.99)),
        "do not reproduce its numbers",
    ),
    "more consistent": (
        lambda run: changed(run.metrics, lambda d: d["trained"].update(circular_consistency=0.5)),
        "circular_consistency: 0.5 in metrics.json",
    ),
    "nothing but rounding": (
        lambda run: changed(run.metrics, lambda d: d["trained"].update(circular_max_logit_change=0.1)),
        "circular_max_logit_change: 0.1 in metrics.json",
    ),
    "of no images": (lambda run: changed(run.metrics, lambda d: d.pop("images")), "does not say what it measured"),
    "measured by nothing": (
        lambda run: changed(run.metrics, lambda d: d["evaluate"].update(METRICS=7)),
        "EVALUATE.METRICS",
    ),
    "of no commit": (
        lambda run: changed(run.training, lambda d: d.pop("commit")),
        "does not say how the run was trained",
    ),
    "torn timing": (lambda run: run.timing.write_bytes(b"\xff\xfe\x00"), "timing.csv cannot be read"),
    "no origin": (lambda run: changed(run.metrics, lambda d: d.pop("provenance")), "does not say what it measured"),
    "of another seed": (
        lambda run: run.config.write_text(run.config.read_text().replace("SEED: 0", "SEED: 7")),
        "was moved",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_run_that_does_not_hold_together_is_refused_with_all_others(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    damage, said = WRONG[what]
    damage(run)
    # the good run before it is not kept either
    before = [run.folder.with_name("seed1")] if what == "torn weights" else []
    assert release(*before, run.folder) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1, told
    assert not files(tmp_path / "runs")


def test_a_run_of_a_network_that_is_not_there_or_in_another_folder_is_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model, said in (("resnet20_aps1", "it was moved"), ("resnet19", "unknown network 'aps/resnet19'")):
        shutil.copytree(run.folder, other := run.folder.parents[1] / model / "seed0")
        assert release(other) == 2 and said in capsys.readouterr().err
    assert release(run.folder, run.folder) == 2 and "two of these runs would become" in capsys.readouterr().err
    assert release(tmp_path / "nothing") == 2 and "there is no folder" in capsys.readouterr().err
    assert not files(tmp_path / "runs")


def test_a_store_without_room_and_a_remote_that_is_not_there_leave_all_as_it_was(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    assert release(run.folder, "--weights", "--remote", "cluster") == 2
    assert "dvc push failed" in (said := capsys.readouterr().err) and "cluster" in said and said.count("\n") == 1
    monkeypatch.setattr(released, "STORE_BYTES", 1000)
    assert release(run.folder, "--weights") == 2 and "has no room for" in capsys.readouterr().err
    monkeypatch.setattr(released, "LARGEST", 1000)
    assert release(run.folder, "--weights") == 2 and "the store takes" in capsys.readouterr().err
    assert not files(tmp_path / "runs")


def test_weights_in_another_remote_are_told_of_and_a_plain_pull_asks_for_none(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dvc(*words: str) -> str:
        command = [sys.executable, "-m", "dvc", *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    dvc("init", "-q")
    dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    dvc("remote", "add", "large", str(tmp_path / "large"))
    # too large for the repository's store, which another remote is not held to
    monkeypatch.setattr(released, "LARGEST", 1000)
    assert release(run.folder, "--weights") == 2 and "keep it elsewhere with --remote NAME" in capsys.readouterr().err
    assert release(run.folder, "--weights", "--remote", "large") == 0
    kept = Run("aps", "digits", "resnet20_aps3", 0, tmp_path / "runs")
    assert not Path(f"{kept.weights}.dvc").exists() and not (tmp_path / "store").exists()
    assert "in the DVC remote large, not in the clone" in kept.page.read_text()
    content = kept.weights.read_bytes()
    kept.weights.unlink()
    dvc("pull")
    assert not kept.weights.exists()
    with pytest.raises(UserError, match="is not in the clone but in the DVC remote large: dvc get-url") as told:
        pipelines.pretrained(NAME)
    monkeypatch.setattr(checkup, "KEPT", tmp_path / "runs")
    (found,) = (one for one in checkup.check_up(None, tmp_path) if one.subject == "weights")
    assert found.told.startswith("1 of 1") and "dvc get-url remote://large/" in found.told
    words = str(told.value).partition(": ")[2].removesuffix(" fetches it").split()
    assert words[0] == "dvc" and str(kept.weights) == words[-1]
    dvc(*words[1:])
    assert kept.weights.read_bytes() == content and pipelines.pretrained(NAME)


def test_a_run_from_elsewhere_is_told_of_by_its_address(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    for words in (["init", "-q"], ["remote", "add", "there", str(run.root)]):
        subprocess.run([sys.executable, "-m", "dvc", *words], check=True, capture_output=True)
    address = "remote://there/aps/digits/resnet20_aps3/seed0"
    run.weights.write_bytes(run.weights.read_bytes()[:-9])
    assert release(address) == 2
    told = capsys.readouterr().err
    assert f"{address}/weights.safetensors is truncated or damaged" in told and told.count("\n") == 1
    assert release(address.replace("seed0", "seed1")) == 0
    said = capsys.readouterr().out
    assert "aps/digits/resnet20_aps3/seed1: its numbers are reproduced" in said and "/tmp" not in said.splitlines()[0]
    kept = Run("aps", "digits", "resnet20_aps3", 1, tmp_path / "runs")
    assert kept.metrics.read_bytes() == (run.folder.with_name("seed1") / "metrics.json").read_bytes()


def test_the_former_word_is_refused_with_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["publish", "results/aps/digits/resnet20/seed0"])
    assert ended.value.code == 2 and "publish is now: stillpoint release RUN" in capsys.readouterr().err


def test_of_large_arrays_a_digest_is_kept(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"trained/small": numpy.ones(3), "trained/middle": numpy.ones(50), "trained/large": numpy.ones(400)}
    run.maps.write_bytes(save(arrays))
    monkeypatch.setattr(released, "MAPS_BYTES", 1000)
    assert release(run.folder) == 0
    kept = Run("aps", "digits", "resnet20_aps3", 0, tmp_path / "runs")
    assert set(read_maps(kept.maps)) == {"trained/small", "trained/middle"}
    assert set(cards.check(kept)["maps_left_out"]) == {"trained/large"}


def test_what_another_process_works_on_is_not_kept_and_two_releases_come_in_turn(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked(run.lock):
        assert release(run.folder) == 2 and "in use by another process" in capsys.readouterr().err
    kept = Run("aps", "digits", "resnet20_aps3", 0, tmp_path / "runs")
    assert not kept.folder.exists()
    real = released.locked

    def late(path: Path, **given: Callable[[str], object]) -> object:
        # another release has taken the place while this one waited
        if "wait" in given:
            kept.folder.mkdir(parents=True)
            kept.card.write_text("another's")
        return real(path, **given)

    monkeypatch.setattr(released, "locked", late)
    assert release(run.folder) == 2 and "is kept already" in capsys.readouterr().err
    assert kept.card.read_text() == "another's"


@pytest.mark.parametrize("moment", range(6))
def test_a_release_that_was_killed_is_taken_back_by_the_next_one_and_told_meanwhile(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    kept = Run("aps", "digits", "resnet20_aps3", 0, tmp_path / "runs")
    assert release(run.folder) == 0
    kept.card.with_name("mark.txt").write_text("the earlier one")
    before = files(kept.folder)
    # one that replaces a kept run and adds another: it moves three folders, and gives the weights to DVC
    both = [run.folder, run.folder.with_name("seed1"), "--anew"]
    moves, rename = [], Path.rename

    class Killed(BaseException):
        """As by SIGKILL: nothing is undone."""

    def dying(path: Path, target: Path) -> Path:
        moves.append(path)
        if len(moves) == moment + 1:
            raise Killed
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        patch.setattr(released, "_put_back", lambda *given: None)
        patch.setattr(shutil, "rmtree", lambda *given, **named: None)
        if moment >= 3:
            patch.setattr(released, "_store", lambda *given: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            release(*both)
    capsys.readouterr()
    assert len(list((tmp_path / "runs").glob(".release.*"))) == 1
    assert main(["table", "aps", "--kept", *PAIRS]) == 2
    assert "was killed there" in (said := capsys.readouterr().err) and said.count("\n") == 1
    if moment >= 4:  # the one that puts back is killed too
        moves.clear()

        def dying_later(path: Path, target: Path) -> Path:
            moves.append(path)
            rename(path, target)
            if len(moves) == moment - 3:
                raise Killed
            return target

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", dying_later)
            with pytest.raises(Killed):
                release(run.folder)
    # refused, but what was kept is in its place again
    assert release(run.folder) == 2
    said = capsys.readouterr()
    assert "is undone" in said.out and "is kept already" in said.err
    left = {name: content for name, content in files(tmp_path / "runs").items() if not name.endswith(".lock")}
    assert left == {f"aps/digits/resnet20_aps3/seed0/{k}": v for k, v in before.items()}
    assert not list((tmp_path / "runs").glob(".release.*"))
    assert release(*both) == 0 and not (kept.folder / "mark.txt").exists()


@pytest.mark.parametrize("name", ["../victim", "/tmp/victim", "a/b/../../../victim", "a/b/c/..", "a/b/c", 7, ["a"]])
def test_what_a_killed_release_left_moves_nothing_elsewhere(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: object
) -> None:
    place = tmp_path / "runs" / ".release.01234567"
    (place / "before0").mkdir(parents=True)
    (place / "placing.json").write_text(json.dumps([name]))
    (tmp_path / "victim").mkdir()
    before = sorted(path for path in tmp_path.glob("*/*"))
    assert release(run.folder) == 2
    said = capsys.readouterr().err
    assert "placing.json is not a list of runs: remove" in said and said.count("\n") == 1
    assert sorted(path for path in tmp_path.glob("*/*") if path.name != ".lock") == before
