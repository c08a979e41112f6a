"""Any paper at a size at which it can be trained a hundred times: its own recipe, on a few images.

The recipe's schedule, loss, augmentation and hooks stay; the smallest network of its grid is taken, three short epochs
are trained and a checkpoint follows each. Data sets that cannot be had anywhere are drawn.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import stillpoint.core.metrics.accumulate  # noqa: F401  once, and not by each process that measures
from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.catalogue import DATASETS, dataset
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.data.contract import Decoded
from stillpoint.core.data.datasets import prepare
from stillpoint.core.data.stored import write
from stillpoint.core.evaluation.run import evaluate_run
from stillpoint.core.runs.layout import Run
from stillpoint.core.training.train import Progress, train

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
        hooks = pipelines.paper(self.config.pipeline).hooks(self.config)
        places = {"data_root": self.data, "device": "cpu", "threads": 1}
        train(self.config, run, build=pipelines.build, hooks=hooks, progress=progress, **places, **options)
        return run

    def evaluate(self, root: Path) -> Run:
        run = self.run(root)
        own = pipelines.paper(self.config.pipeline).evaluations(self.config)
        places = {"data_root": self.data, "device": "cpu", "threads": 1}
        evaluate_run(run, config=self.config, build=pipelines.build, evaluations=own, **places)
        return run


def setting(paper: str, data: Path, model: str | None = None, *, streaming: bool = False) -> Setting:
    """A paper's setting; its data are made below `data` where they are not there. A `UserError` without a recipe.

    `streaming`: with a data set whose pictures are read from their files in each epoch.
    """
    known = [
        name for name in pipelines.paper(paper).recipes() if not streaming or DATASETS[_dataset(paper, name)].streaming
    ]
    if not known:
        raise UserError(f"{paper} has no recipe{' for photographs' if streaming else ''}")
    recipe = min(known, key=lambda name: (not name.startswith("digits"), DATASETS[_dataset(paper, name)].size, name))
    grid = [model] if model else list(pipelines.recipe_config(paper, recipe).grid)
    configs = [_small(paper, name, recipe) for name in grid or list(pipelines.models(paper))]
    # of equally small networks the last, which is the method where the first is its baseline
    chosen = min(reversed(configs), key=lambda config: sum(p.numel() for p in pipelines.build(config).parameters()))
    draw(chosen.data.name, data)
    prepare(chosen.data.name, data)
    return Setting(chosen, data)


def _dataset(paper: str, recipe: str) -> str:
    return pipelines.recipe_config(paper, recipe).data.name


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
    """Pictures of noise in the form of a data set, unless it is there or needs nothing: decoded, or in its folders."""
    found, random = dataset(name), np.random.default_rng(0)
    entry = found.info
    if entry.streaming:
        for part, count in {"train": 2, "val": 3}.items():
            for kind in found.classes(root)[:100]:
                folder = root / name / part / kind
                folder.mkdir(parents=True, exist_ok=True)
                for path in (folder / f"{number}.png" for number in range(count)):
                    if not path.exists():
                        Image.fromarray(random.integers(0, 256, (72, 72, entry.channels), np.uint8)).save(path)
    elif name != "digits" and found.described(root) is None:
        classes = tuple(str(number) for number in range(entry.num_classes))
        shape = (2 * IMAGES, entry.channels, entry.size, entry.size)
        labels = np.arange(2 * IMAGES, dtype=np.int64) % entry.num_classes
        parts = {part: (random.integers(0, 256, shape, np.uint8), labels) for part in ("train", "test")}
        write(found, root, Decoded(f"noise in the form of {entry.title}", classes, parts))


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
