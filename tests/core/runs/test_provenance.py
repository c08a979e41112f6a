"""What a result says of its origin."""

import json
import subprocess

import torch

from stillpoint.core.config.schema import RunConfig
from stillpoint.core.kernels import native
from stillpoint.core.runs import provenance as origin


def test_it_is_json_and_names_code_data_and_settings():
    config = RunConfig.model_validate({"SEED": 4, "TRAIN": {"KEEP": "last"}})
    found = origin.provenance(config, "abc", torch.device("cpu"), 1.23456)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["seed"] == 4 and found["data_digest"] == "abc" and found["config_digest"] == config.digest()
    assert found["torch"] == torch.__version__ and found["seconds"] == 1.235
    assert found["kernels"] in ("compiled", "plain")
    assert 10**7 < found["peak_memory_bytes"] < 10**12


def test_it_says_whether_kernels_answered(monkeypatch):
    def kernels(device):
        return origin.provenance(RunConfig(), "abc", torch.device(device), 1.0)["kernels"]

    assert kernels("cpu") == "compiled"
    assert kernels("meta") == "plain"
    monkeypatch.setenv("STILLPOINT_KERNELS", "0")
    native.library.cache_clear()
    assert kernels("cpu") == "plain"
    monkeypatch.delenv("STILLPOINT_KERNELS")
    native.library.cache_clear()


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_is_that_of_the_code_and_a_change_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "_ROOT", tmp_path.resolve())
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "first")
    assert origin.commit() == (git(tmp_path, "rev-parse", "HEAD"), True)
    (tmp_path / "a").write_text("2")
    assert origin.commit() == (git(tmp_path, "rev-parse", "HEAD"), False)
    # a copy that is installed somewhere inside another repository has no commit of its own
    inside = tmp_path / "venv"
    inside.mkdir()
    monkeypatch.setattr(origin, "_ROOT", inside.resolve())
    assert origin.commit() == (None, None)


def test_outside_of_a_repository_and_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "_ROOT", tmp_path.resolve())
    assert origin.commit() == (None, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert origin.commit() == (None, None)


def test_a_copy_without_its_repository_is_told_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "_ROOT", tmp_path.resolve())
    for text, said in (
        ("a1" * 20, ("a1" * 20, True)),
        (f"{'b2' * 20}-dirty", ("b2" * 20, False)),
        ("HEAD", (None, None)),
    ):
        monkeypatch.setenv(origin.COMMIT_VARIABLE, text)
        assert origin.commit() == said
    # in a repository nothing else is believed
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-qm", "first", "--allow-empty")
    assert origin.commit() == (git(tmp_path, "rev-parse", "HEAD"), True)
