"""Papers whose steps draw noise, shifts or dropped paths: a training stopped or killed ends in the same bits."""

import os
from functools import partial

import pytest
import torch

from stillpoint import pipelines
from stillpoint.core.base.interrupt import Interrupted
from stillpoint.core.runs.checkpoint import load_state
from tests import fresh
from tests.core.tiny import run_in, trained
from tests.core.training.test_train_resume import StopAfter, assert_same_run

#: paper -> sections beside those of every run here
SECTIONS = {
    "lps": {
        "MODEL": {"ARCH": "basic", "DOWNSAMPLE": "learnable_polyphase", "FILTER_SIZE": 3, "FILLING": ["reduction=8"]},
        "TRAIN": {"TAU": "linear", "TAU_PER": "step", "TAU_MILESTONES": [8], "TAU_TEMPERATURES": [0.2]},
    },
    "tips": {
        "MODEL": {"ARCH": "resnet20", "NUM_DOWN": 2, "WIDTH": 0.125},
        "TRAIN": {"WAKE_UP_AT": 2, "CLIP_NORM": 1.0},
    },
    "alias_free": {
        "MODEL": {
            "ARCH": "convnext_nano", "WIDTH": 0.125, "DOWNSAMPLE": "ideal_lowpass", "ACTIVATION": "polynomial",
            "NORM": "alias_free", "LAYER_SCALE": 1.0, "SCALE": 1.0, "DROP_PATH": 0.3,
        },
        "TRAIN": {"OPTIMIZER": "adamw", "LR": 0.004, "DECAY": "matrices"},
    },
}  # fmt: skip
RECIPE = {"EPOCHS": 3, "BATCH_SIZE": 16, "SCHEDULE": "cosine", "SCHEDULE_PER": "step", "KEEP": "best"}


def built(config):
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return pipelines.paper(config.pipeline).build(config.model, in_channels=1, num_classes=3, image_size=8)


@pytest.mark.parametrize("name", SECTIONS)
def test_a_run_that_was_stopped_within_epochs_goes_on_to_the_same_bits(tmp_path, name):
    paper, own = pipelines.paper(name), SECTIONS[name]
    section = {"PIPELINE": name, "RECIPE": "tiny", "DATA": {"VALIDATION": 20}, "TRAIN": {**RECIPE, **own["TRAIN"]}}
    config = paper.schema().model_validate({**section, "MODEL": {"NAME": "net", **own["MODEL"]}})
    go = partial(trained, network=built, config=config)

    def hooks():  # of a new process
        found = paper.hooks(config)
        return {} if found is None else {"hooks": found}

    go(tmp_path / "whole", **hooks())
    for steps in (6, 1):  # of 3 x 4
        with pytest.raises(Interrupted):
            go(tmp_path / "parts", progress=StopAfter(steps), **hooks())
        assert load_state(run_in(tmp_path / "parts").state)[0]["step"]
    go(tmp_path / "parts", **hooks())
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("network", ["lps/resnet20_lps3", "tips/resnet20_tips_down2", "alias_free/convnext_nano_afc"])
def test_a_run_that_was_killed_within_an_epoch_ends_in_the_same_bytes_from_weights_to_metrics(network):
    paper, _, model = network.partition("/")
    command = ["-m", "tests.faults", "kill", "--pipeline", paper, "--model", model, "--times", "1"]
    done = fresh.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    # of three steps an epoch
    assert "1/1: killed after step 7 of 9: the same bits" in done.stdout and "1 tried, 1 survived" in done.stdout
