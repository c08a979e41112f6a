"""Loaders beside torchvision's: ``stillpoint bench loader [--photographs ARCHIVE.tar]``.

augmented    an epoch of 32x32 images cropped out of a padded image and flipped: `data.loading.DeviceLoader` beside
             RandomCrop, RandomHorizontalFlip, ToTensor, Normalize in a DataLoader
translated   an epoch of 56x56 windows of 28x28 images padded by 28: the same, beside Pad and RandomCrop
training, evaluation, ten windows
             photographs read from JPEG files, as `benchmarks.imagenet_loader` says

Both sides take turns in every round, without worker processes, so that the CPU time of this process is the whole cost:
`python -m benchmarks.imagenet_loader` measures with workers. Without ``--photographs`` the files are smooth noise of
ImageNet's usual size. Sixteen of our small windows are checked to be ones that torchvision's side could have made.
"""

import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Clock, job_form, pin, run_jobs, spread

COUNT, BATCH, PHOTOGRAPHS = 4096, 128, 48

Side = Callable[[], int]


def small(name: str, padding: int, window: int | None, flip: bool) -> tuple[Side, Side, str]:
    """(ours, torchvision's, the images' title) of an epoch of random windows of padded images."""
    from torchvision import transforms

    from benchmarks.pictures import pictures, torchvision_loader
    from stillpoint.core.data.augment import Augment, Crop, Flip, Stage, Step
    from stillpoint.core.data.loading import DeviceLoader

    images = pictures(name, COUNT)
    steps: list[tuple[Step, Stage]] = [(Crop(padding, window), "pixels")]
    changes: list[Any] = [transforms.Pad(padding), transforms.RandomCrop(window or images.images.shape[2])]
    if flip:
        steps.append((Flip(0.5), "pixels"))
        changes.append(transforms.RandomHorizontalFlip())
    ours = DeviceLoader(images, BATCH, shuffle=True, augment=Augment(tuple(steps)))
    check(images, next(ours.epoch(0)), padding)
    theirs = torchvision_loader(images, changes, BATCH)
    return (
        lambda: sum(len(batch.images) for batch in ours.epoch(0)),
        lambda: sum(len(pixels) for pixels, _, _ in theirs),
        images.title,
    )


def check(images: Any, batch: Any, padding: int) -> None:
    """`RuntimeError` unless our first 16 windows are windows of their padded images, perhaps mirrored."""
    import torch
    from torch.nn import functional

    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (images.mean, images.std))
    for window, number in zip(batch.images[:16], batch.indices[:16].tolist(), strict=True):
        padded = (functional.pad(images.images[number], (padding,) * 4).float() / 255 - mean) / std
        nearest = min(
            float((padded.unfold(1, side, 1).unfold(2, side, 1) - view[:, None, None]).abs().amax((0, 3, 4)).min())
            for view in (window, window.flip(2))
            for side in (window.shape[1],)
        )
        if nearest > 1e-5:
            raise RuntimeError(f"our window of image {number} matches none of its offsets")


def jobs(root: Path, archive: Path | None, only: str) -> dict[str, tuple[Side, Side, str]]:
    """Every job by name: (ours, torchvision's, what the images are)."""
    from benchmarks import imagenet_loader

    found: dict[str, Callable[[], tuple[Side, Side, str]]] = {
        "augmented": lambda: small("cifar10", 4, None, True),
        "translated": lambda: small("fashion_mnist", 28, 56, False),
    }
    made = {name: make() for name, make in found.items() if only in name}
    if any(only in name for name in imagenet_loader.JOBS):
        if archive:
            count = imagenet_loader.unpack(archive, root)
            title = f"{count} photographs of {archive.name}"
        else:
            count = imagenet_loader.invent(PHOTOGRAPHS, root)
            title = f"{count} JPEG files of noise, 500x375"
        ours, theirs = imagenet_loader.ours(root, 0), imagenet_loader.theirs(root, 0)
        made |= {name: (ours[name], theirs[name], title) for name in ours if only in name}
    return made


def measure(sides: tuple[Side, Side, str], clock: Clock, rounds: int) -> dict[str, Any]:
    """Times per image of both sides, and the median of their ratios by rounds."""
    calls = {"stillpoint": sides[0], "torchvision": sides[1]}
    times: dict[str, list[float]] = {side: [] for side in calls}
    seen: dict[str, int] = {}
    for number in range(rounds + 1):
        for side in list(calls) if number % 2 else list(calls)[::-1]:
            begun = clock.read()
            seen[side] = calls[side]()
            took = (clock.read() - begun) / seen[side]
            if number:  # the first one warms up
                times[side].append(took)
    if seen["stillpoint"] != seen["torchvision"]:
        raise RuntimeError(f"our loader returned {seen['stillpoint']} images, torchvision's {seen['torchvision']}")
    ratios = [a / b for a, b in zip(times["stillpoint"], times["torchvision"], strict=True)]
    return {
        "images": sides[2],
        "count": seen["stillpoint"],
        "contenders": {
            side: {**spread(values), "images_per_second": round(1e3 / statistics.median(values), 1)}
            for side, values in times.items()
        },
        "ratio_to_torchvision": round(statistics.median(ratios), 4),
    }


def line(name: str, row: dict[str, Any]) -> str:
    """One job in one line of a terminal."""
    rates = ", ".join(f"{side} {v['images_per_second']:.0f}" for side, v in row["contenders"].items())
    return (
        f"{name:12} images a second: {rates}; time {row['ratio_to_torchvision']:.3f} of torchvision's; {row['images']}"
    )


def main(arguments: list[str] | None = None) -> None:
    form = job_form("benchmarks.loaders", __doc__, devices=("cpu",), rounds=5)
    form.add_argument("--photographs", type=Path, help="tar of files named <class>_<anything>.JPEG (default: noise)")
    args = form.parse_args(arguments)
    pin(args.threads, "benchmarks.loaders")

    clock = Clock(args.device, args.threads)
    with tempfile.TemporaryDirectory() as folder:
        sides = jobs(Path(folder), args.photographs, args.only)
        run_jobs("loader", args, clock, [(n, partial(measure, s, clock, args.rounds)) for n, s in sides.items()], line)


if __name__ == "__main__":
    main()
