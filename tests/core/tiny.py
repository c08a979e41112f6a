"""A network, images and a recipe small enough to be trained in a fraction of a second; also run as a program.

python -m tests.core.tiny FOLDER [KEY VALUE ...]   trains, one line for each step
"""

import math
import sys
from pathlib import Path

import torch
from torch import nn

from stillpoint.core.base.randomness import generator
from stillpoint.core.config.merge import merge
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.data.build import Loaders
from stillpoint.core.data.loading import DeviceLoader
from stillpoint.core.data.sets import ImageSet
from stillpoint.core.runs.layout import Run
from stillpoint.core.training.train import Progress, train


class Net(nn.Module):
    """Convolution, batch normalisation, dropout, mean, linear: each thing that an exact resume must bring back."""

    def __init__(self, *, norm: bool = True, dropout: float = 0.2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(4 * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.conv(x)))
        return self.fc(self.dropout(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)))


def build(config: RunConfig, **options: object) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return Net(**options)  # type: ignore[arg-type]


def plain(config: RunConfig) -> nn.Module:
    """Without batch statistics and without dropout: what an image does to it does not depend on its batch."""
    return build(config, norm=False, dropout=0.0)


def normed(config: RunConfig) -> nn.Module:
    """With batch statistics, without dropout, whose masks each process draws for itself."""
    return build(config, dropout=0.0)


def image_set(count: int, seed: int = 0) -> ImageSet:
    """Noise with a bright column whose place is the class, so that it can be learned."""
    random = generator("tiny", seed)
    labels = torch.randint(3, (count,), generator=random)
    images = torch.randint(0, 100, (count, 1, 8, 8), generator=random)
    images[torch.arange(count), 0, :, 2 * labels + 1] += 120
    return ImageSet(images.to(torch.uint8), labels, ("a", "b", "c"), (0.3,), (0.2,), "tiny", f"{count} {seed}")


def loaders_of(config: RunConfig, count: int = 50):
    """50 images make 4 batches of 16, the last with 2; 20 more validate."""

    def make(device: torch.device, rank: int, world_size: int) -> Loaders:
        size = config.train.batch_size // config.train.accumulate
        options = {
            "device": device,
            "rank": rank,
            "world_size": world_size,
            "channels_last": config.train.channels_last,
        }
        train_set, held_out = image_set(count), image_set(20, 1)
        return Loaders(
            DeviceLoader(train_set, size, seed=config.seed, shuffle=True, **options),
            DeviceLoader(held_out, size, **options) if config.data.validation else None,
            digest=train_set.digest,
            title="tiny",
        )

    return make


def configuration(*pairs: str) -> RunConfig:
    recipe = {"EPOCHS": 3, "BATCH_SIZE": 16, "KEEP": "best", "SCHEDULE": "cosine", "SCHEDULE_PER": "step"}
    layer = {"PIPELINE": "toy", "RECIPE": "tiny", "MODEL": {"NAME": "net"}, "DATA": {"VALIDATION": 20}, "TRAIN": recipe}
    return merge(RunConfig, [layer], list(pairs))


def run_in(root: Path) -> Run:
    return Run("toy", "tiny", "net", 0, root)


def trained(root: Path, *pairs: str, network=build, config: RunConfig | None = None, **options) -> list[dict]:
    """Trains in `root` on the CPU, by a recipe that `pairs` change; on one thread, as `main` below does."""
    config = config or configuration(*pairs)
    options = {"loaders": loaders_of(config), "device": "cpu", "threads": 1, **options}
    return train(config, run_in(root), build=network, **options)


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.rows: list[dict] = []
        self.steps: list[tuple[int, int]] = []

    def on_note(self, sentence):
        self.notes.append(sentence)

    def on_step(self, epoch, step, steps, loss, images_per_second):
        assert math.isfinite(loss) and images_per_second >= 0 and steps == 4
        self.steps.append((epoch, step))

    def on_epoch(self, row):
        self.rows.append(row)


class Say(Progress):
    def on_step(self, epoch: int, step: int, steps: int, loss: float, images_per_second: float) -> None:
        print(epoch, step, flush=True)


if __name__ == "__main__":
    chosen = configuration(*sys.argv[2:])
    network = build if chosen.model.name == "net" else plain
    train(
        chosen,
        run_in(Path(sys.argv[1])),
        build=network,
        loaders=loaders_of(chosen),
        device="cpu",
        threads=1,
        progress=Say(),
    )
