"""Any paper at a size at which it can be trained a hundred times: its own recipe, on a few images.

The recipe's schedule, loss, augmentation and hooks stay; the smallest network of its grid is taken, three short epochs
are trained and a checkpoint follows each. Data sets that cannot be had anywhere are drawn, in their published form.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.catalogue import DATASETS
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.data.datasets import prepare
from stillpoint.core.evaluation.run import evaluate_run
from stillpoint.core.runs.layout import Run
from stillpoint.core.training.train import Progress, train
from stillpoint.pipelines import workflow

IMAGES, HELD_OUT, BATCH, EPOCHS = 24, 8, 8, 3
SIDE_OF_PHOTOGRAPHS = 64


@dataclass(frozen=True)
class Setting:
    """What is trained and where its data are; `config` is the run's own."""

    config: RunConfig
    data: Path

    def run(self, root: Path) -> Run:
        return Run(self.config.pipeline, self.config.recipe, self.config.model.name, self.config.seed, root)

    def train(self, root: Path, progress: Progress | None = None, **options: Any) -> Run:
        """Trains (or goes on) in `root`, on one thread of the CPU; the run."""
        run = self.run(root)
        hooks = pipelines.hooks(self.config)
        places = {"data_root": self.data, "device": "cpu", "threads": 1}
        train(self.config, run, build=pipelines.build, hooks=hooks, progress=progress, **places, **options)
        return run

    def evaluate(self, root: Path) -> Run:
        run = self.run(root)
        own = pipelines.evaluations(self.config)
        places = {"data_root": self.data, "device": "cpu", "threads": 1}
        evaluate_run(run, config=self.config, build=pipelines.build, evaluations=own, **places)
        return run


def setting(paper: str, data: Path, model: str | None = None, *, streaming: bool = False) -> Setting:
    """A paper's setting; its data are made below `data` where they are not there. A `UserError` without a recipe.

    `streaming`: with a data set whose pictures are read from their files in each epoch.
    """
    known = [name for name in workflow.recipes(paper) if not streaming or DATASETS[_dataset(paper, name)].streaming]
    if not known:
        raise UserError(f"{paper} has no recipe{' for photographs' if streaming else ''}")
    recipe = min(known, key=lambda name: (not name.startswith("digits"), DATASETS[_dataset(paper, name)].size, name))
    grid = [model] if model else list(workflow.recipe_config(paper, recipe).grid)
    configs = [_small(paper, name, recipe) for name in grid or list(pipelines.models(paper))]
    # of equally small networks the last, which is the method where the first is its baseline
    chosen = min(reversed(configs), key=lambda config: sum(p.numel() for p in pipelines.build(config).parameters()))
    draw(chosen.data.name, data)
    prepare(chosen.data.name, data)
    return Setting(chosen, data)


def _dataset(paper: str, recipe: str) -> str:
    return workflow.recipe_config(paper, recipe).data.name


def _small(paper: str, model: str, recipe: str) -> RunConfig:
    given = pipelines.configure(f"{paper}/{model}", recipe)
    classes = DATASETS[given.data.name].num_classes
    streaming = DATASETS[given.data.name].streaming
    pairs: dict[str, Any] = {
        "TRAIN.EPOCHS": EPOCHS,
        "TRAIN.BATCH_SIZE": BATCH,
        "TRAIN.CHECKPOINT_EPOCHS": 1,
        "DATA.LIMIT": IMAGES,
        "EVALUATE.METRICS": ["accuracy", "circular"],
        "EVALUATE.REPEATS": 1,
        "EVALUATE.BATCH_SIZE": BATCH,
        "EVALUATE.UNTRAINED": False,
    }
    if given.train.accumulate > 1:
        pairs["TRAIN.ACCUMULATE"] = 2
    if given.data.validation:
        pairs["DATA.VALIDATION"] = classes if streaming else HELD_OUT
    if streaming:
        pairs |= {"DATA.IMAGE_SIZE": SIDE_OF_PHOTOGRAPHS, "EVALUATE.MARGIN": 0}
    return pipelines.configure(f"{paper}/{model}", recipe, [str(word) for pair in pairs.items() for word in pair])


def draw(name: str, root: Path) -> None:
    """Pictures of noise in the published form of a data set, unless it is there or needs nothing."""
    random = np.random.default_rng(0)
    entry = DATASETS[name]
    if name == "fashion_mnist":
        for part in ("train", "t10k"):
            images = random.integers(0, 256, (2 * IMAGES, 28, 28), np.uint8)
            labels = (np.arange(2 * IMAGES) % 10).astype(np.uint8)
            for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
                path = root / "FashionMNIST" / "raw" / f"{part}-{kind}-ubyte"
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    head = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
                    path.write_bytes(head + array.tobytes())
    elif name != "digits":
        from stillpoint.core.data.sources import CIFAR10_CLASSES

        classes = (
            CIFAR10_CLASSES if name == "cifar10" else tuple(f"c{k:03}" for k in range(min(entry.num_classes, 100)))
        )
        side = 72 if entry.streaming else entry.size
        parts = {"train": 6 if len(classes) == 10 else 2, ("val" if entry.streaming else "test"): 3}
        for part, count in parts.items():
            for kind in classes:
                folder = root / name / part / kind
                for number in range(count):
                    path = folder / f"{number}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if not path.exists():
                        Image.fromarray(random.integers(0, 256, (side, side, entry.channels), np.uint8)).save(path)


def bits(value: object) -> object:
    """A state with tensors as bytes and without the seconds that it took: equal for bitwise equal states."""
    if isinstance(value, torch.Tensor):
        return (
            str(value.dtype),
            tuple(value.shape),
            value.stride(),
            value.contiguous().view(-1).view(torch.uint8).tolist(),
        )
    if isinstance(value, dict):
        return {k: bits(v) for k, v in value.items() if k not in ("timing", "test_timing", "seconds")}
    if isinstance(value, list | tuple):
        return [bits(v) for v in value]
    return value
