"""Two processes train as one does. Run by torchrun, this file is the program that the tests look at.

The tolerance is that of sums taken in another order: 1e-5 of the losses and weights of a short training.
"""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from stillpoint.core.base.distributed import Group, group
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.interrupt import Interrupted
from stillpoint.core.runs.checkpoint import read_tensors
from stillpoint.core.runs.records import read_history
from stillpoint.core.training.train import Progress, TrainHooks, train
from tests.core.tiny import build, configuration, loaders_of, normed, run_in

REPOSITORY = Path(__file__).resolve().parents[3]
# 50 images in mini-batches of 7 leave one of 1 image: one process has none of it
RECIPES = {
    "plain": ("TRAIN.BATCH_SIZE", "7"),
    "stopped": ("TRAIN.BATCH_SIZE", "7"),
    "all": (
        "TRAIN.BATCH_SIZE",
        "14",
        "TRAIN.ACCUMULATE",
        "2",
        "TRAIN.CLIP_NORM",
        "0.5",
        "TRAIN.LABEL_SMOOTHING",
        "0.1",
    ),
}
HOOKS = TrainHooks(penalty=lambda net: 0.01 * net.fc.weight.abs().sum())


def trained(root: Path, name: str, **options: object) -> list[dict]:
    config = configuration(*RECIPES[name])
    options = {"hooks": HOOKS, "loaders": loaders_of(config), **options}
    return train(config, run_in(root / name), build=normed, device="cpu", threads=1, **options)


class Watch(Progress):
    def __init__(self) -> None:
        self.told: list[object] = []

    def on_step(self, *numbers: object) -> None:
        self.told.append(numbers)


def program(root: Path) -> None:
    """Several trainings by this process of a group; what it saw goes to seen<rank>.json."""
    rank = int(os.environ["RANK"])
    seen: dict[str, object] = {"rank": rank}
    watch = Watch()
    seen["rows"] = trained(root, "plain", progress=watch)
    seen["told"] = len(watch.told)
    trained(root, "all")

    calls = []

    def stop_one(net: nn.Module) -> None:
        calls.append(1)
        if rank == 1 and len(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        trained(root, "stopped", hooks=TrainHooks(before_forward=stop_one, penalty=HOOKS.penalty))
    except Interrupted as stopped:
        seen["stopped"] = [stopped.signal, len(calls)]
    trained(root, "stopped")

    def poison(net: nn.Module) -> torch.Tensor:
        return net.fc.weight.sum() * (math.nan if rank == 1 else 0)

    for name, options in {"nan": {"hooks": TrainHooks(penalty=poison)}, "other": {}}.items():
        config = configuration("TRAIN.LR", "0.05")
        where = root / name if name == "nan" else root / "plain"
        try:
            train(config, run_in(where), build=build, loaders=loaders_of(config), device="cpu", **options)
        except UserError as error:
            seen[name] = str(error)
    (root / f"seen{rank}.json").write_text(json.dumps(seen))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder that two processes worked in, and what each of them saw."""
    root = tmp_path_factory.mktemp("two")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "tests.core.base.test_distributed", str(root)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return root, [json.loads((root / f"seen{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", ["plain", "all", "stopped"])
def test_two_processes_train_as_one_does(two, tmp_path, name):
    alone = trained(tmp_path, name)
    together = read_history(run_in(two[0] / name).history)
    for a, b in zip(alone, together, strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    weights = [read_tensors(run_in(root / name).weights)[0] for root in (tmp_path, two[0])]
    assert weights[0].keys() == weights[1].keys()
    for key in weights[0]:
        assert torch.allclose(weights[0][key], weights[1][key], rtol=1e-5, atol=1e-5), key


def test_only_one_process_writes_and_tells(two):
    root, seen = two
    assert seen[0]["rows"] == seen[1]["rows"] == read_history(run_in(root / "plain").history)
    assert seen[0]["told"] > 0 and seen[1]["told"] == 0
    assert run_in(root / "plain").log.read_text().count("begins") == 1


def test_a_signal_to_one_process_stops_both_after_the_same_step(two):
    for seen in two[1]:
        assert seen["stopped"] == [signal.SIGTERM, 5]


def test_faults_are_raised_in_every_process(two):
    for seen in two[1]:
        assert "nan in epoch 1 at step 1" in seen["nan"]
        assert "TRAIN.LR: 0.1 -> 0.05" in seen["other"]


def test_a_process_alone_is_a_group_of_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    one = group(torch.device("cpu"))
    assert one == Group(0, 1) and one.main and one.place == (0, 1)
    assert one.agree(lambda: 5) == 5 and one.largest(3) == 3
    net = nn.Linear(1, 1)
    assert one.wrap(net) is net
    assert not torch.distributed.is_initialized()


if __name__ == "__main__":
    program(Path(sys.argv[1]))
