"""Steps of training beside torchvision's and beside the network alone: ``stillpoint bench train [--network NAME]``.

Forward, loss, backward and SGD on batches of 128 images of 32x32, cropped out of a padded image and flipped at random:

stillpoint   `training.train.train` as a run calls it: images on the device, batched augmentation, records of each step
network      the same network on batches that were ready before the clock started: the lower bound of any loop
torchvision  RandomCrop, RandomHorizontalFlip, ToTensor, Normalize in a DataLoader, and the usual loop

The three take turns at every step, so that other load affects all alike. The batches of `network` are those that our
loop draws, and both must have the same losses at every step, or nothing is written. torchvision's transforms run in the
process itself: worker processes would move the work to another core, not avoid it. The cost of the end of an epoch (the
state saved, the tables written) is reported separately, since it does not grow with the epoch. CIFAR-10 if available,
otherwise noise of the same form. Two minutes for both networks on an idle core.
"""

import math
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Clock, job_form, pin, ratios, run_jobs, spread

RESULTS = Path(__file__).parent / "results"
NETWORKS = ("aps/resnet20", "aps/resnet18")
BATCH, WARM_UP = 128, 3


def configured(name: str, steps: int) -> Any:
    """The recipe of every contender: cropped and flipped images, one rate, one epoch of `steps` steps."""
    from stillpoint import pipelines

    pairs = {
        "DATA.VALIDATION": 0,
        "AUGMENT.CROP_PADDING": 4,
        "AUGMENT.FLIP": 0.5,
        "TRAIN.BATCH_SIZE": BATCH,
        "TRAIN.EPOCHS": 1,
        "TRAIN.LR": 0.01,
        "TRAIN.SCHEDULE": "constant",
        "TRAIN.KEEP": "last",
        "DATA.LIMIT": steps * BATCH,
    }
    if name.startswith("aps/"):
        pairs["MODEL.CONV_PADDING"] = "zeros"
    return pipelines.configure(name, "cifar10", [text for key, v in pairs.items() for text in (key, str(v))])


def plain_steps(config: Any, device: str, batches: Iterator[tuple[Any, Any]]) -> Iterator[float]:
    """The usual loop: makes a step at each turn and yields its loss."""
    import torch
    from torch.nn import functional

    from stillpoint import pipelines

    net = pipelines.build(config).to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    recipe = config.train
    optimiser = torch.optim.SGD(
        net.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, fused=True
    )
    for images, labels in batches:
        loss = functional.cross_entropy(net(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield loss.item()


def torchvision_batches(images: Any, device: str) -> Iterator[tuple[Any, Any]]:
    import torch
    from torchvision import transforms

    from benchmarks.pictures import torchvision_loader

    loader = torchvision_loader(
        images, [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()], BATCH
    )
    for pixels, labels, _ in loader:
        yield pixels.to(device, memory_format=torch.channels_last), labels.to(device)


def measure(name: str, clock: Clock, rounds: int) -> dict[str, Any]:
    """Times of every contender's steps and their ratios; `RuntimeError` if our losses and those of `network` differ."""
    from benchmarks.pictures import pictures
    from stillpoint import pipelines
    from stillpoint.core.data.build import Loaders, augmentation
    from stillpoint.core.data.loading import DeviceLoader
    from stillpoint.core.runs.layout import Run
    from stillpoint.core.training.train import Progress, train

    steps = rounds + WARM_UP
    config = configured(name, steps)
    images = pictures("cifar10", steps * BATCH)

    def source() -> DeviceLoader:
        options: dict[str, Any] = {"seed": config.seed, "shuffle": True, "channels_last": True, "device": clock.device}
        return DeviceLoader(images, BATCH, augment=augmentation(config, training=True), **options)

    ready = [(batch.images, batch.labels) for batch in source().epoch(0)]
    others = {
        "network": plain_steps(config, clock.device, iter(ready)),
        "torchvision": plain_steps(config, clock.device, torchvision_batches(images, clock.device)),
    }
    times: dict[str, list[float]] = {side: [] for side in ("stillpoint", *others)}
    losses: dict[str, list[float]] = {side: [] for side in times}

    class Turns(Progress):
        """Lets every other contender make a step between two of our steps, outside our timing."""

        began = 0.0
        done = 0
        ended = 0.0

        def on_step(self, epoch: int, step: int, steps: int, loss: float, images_per_second: float) -> None:
            # on a GPU our loop reports its steps in groups, and the others make as many at a time
            count, self.done = step - self.done, step
            times["stillpoint"].append((clock.read() - self.began) / count)
            losses["stillpoint"].append(loss)
            for side in list(others) if step % 2 else list(others)[::-1]:
                begun = clock.read()
                found = [next(others[side]) for _ in range(count)]
                times[side].append((clock.read() - begun) / count)
                losses[side].append(found[-1])
            self.began = clock.read()

        def on_epoch(self, row: Any) -> None:
            self.ended = clock.read() - self.began

    turns = Turns()
    with tempfile.TemporaryDirectory() as folder:
        run = Run("benchmark", "cifar10", name.replace("/", "_"), 0, Path(folder))
        loaders = Loaders(train=source(), digest="benchmark", title=images.title)
        turns.began = clock.read()
        train(
            *(config, run),
            build=pipelines.build,
            device=clock.device,
            threads=clock.threads,
            progress=turns,
            loaders=lambda *place: loaders,
        )
    for number, (a, b) in enumerate(zip(losses["stillpoint"], losses["network"], strict=True), 1):
        if not math.isclose(a, b, rel_tol=1e-3 if clock.device == "cuda" else 1e-5):
            raise RuntimeError(f"{name}: our loop has loss {a}, the plain one {b} (comparison {number})")
    return {
        "images": images.title,
        "batch": BATCH,
        "steps": steps,
        "contenders": {side: spread(values[_cold(values) :]) for side, values in times.items()},
        "ratio_to_network": _ratio(times, "stillpoint", "network"),
        "torchvision_to_network": _ratio(times, "torchvision", "network"),
        "ratio_to_torchvision": _ratio(times, "stillpoint", "torchvision"),
        "end_of_epoch_ms": round(turns.ended, 1),
        "losses_compared": len(losses["network"]),
    }


def _cold(values: list[float]) -> int:
    return min(WARM_UP, len(values) - 3)


def _ratio(times: dict[str, list[float]], side: str, other: str) -> dict[str, float]:
    """Median and quartiles of the ratios of two contenders' steps in the same turn, without the first turns."""
    cold = _cold(times[side])
    return ratios(times[side][cold:], times[other][cold:])


def line(name: str, row: dict[str, Any]) -> str:
    """One network in one line of a terminal."""
    times = ", ".join(f"{side} {v['median_ms']:.1f}" for side, v in row["contenders"].items())
    return (
        f"{name:20} a step: {times} ms; over the network {100 * (row['ratio_to_network']['median'] - 1):+.1f} %, "
        f"torchvision {100 * (row['torchvision_to_network']['median'] - 1):+.1f} %; {row['images']}"
    )


def main(arguments: list[str] | None = None) -> None:
    form = job_form("benchmarks.training", __doc__, devices=("cpu", "cuda"), rounds=30)
    form.add_argument("--network", action="append", help=f"may be repeated (default: {', '.join(NETWORKS)})")
    args = form.parse_args(arguments)
    pin(args.threads, "benchmarks.training")

    import torch

    torch.manual_seed(0)
    clock = Clock(args.device, args.threads)
    rounds = args.rounds * (50 if args.device == "cuda" else 1)  # a step on a GPU is short
    run_jobs("train", args, clock, [(n, partial(measure, n, clock, rounds)) for n in args.network or NETWORKS], line)


if __name__ == "__main__":
    main()
