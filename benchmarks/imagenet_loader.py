"""Photographs a second beside torchvision: ``python -m benchmarks.imagenet_loader PHOTOGRAPHS.tar``.

Three jobs, with as many worker processes as threads, both sides in turn in every round:

training     RandomResizedCrop(224), flip, normalise
evaluation   Resize(256), CenterCrop(224), normalise
ten windows  ten 224 windows of the central 256 pixels: ours reads each photograph once, theirs makes a pass for each

Ours is the loader of ``pipelines/blurpool/configs/imagenet.yaml``; the other is torchvision's ImageFolder with its
transforms in a DataLoader. The archive holds files named <class>_<anything>.JPEG.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Clock, machine, pin

RESULTS = Path(__file__).parent / "results"
BATCH, WINDOWS = 32, 10
JOBS = ("training", "evaluation", "ten windows")


def place(name: str, data: bytes, root: Path) -> None:
    """Writes ``<root>/imagenet/{train,val}/<class>/<name>``; the class is the name up to the first underscore."""
    for part in ("train", "val"):
        folder = root / "imagenet" / part / name.split("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def invent(count: int, root: Path) -> int:
    """Writes `count` files of noise in place of photographs; returns their number."""
    from benchmarks.pictures import photographs
    from stillpoint.core.data.imagenet_validation import classes

    for number, data in enumerate(photographs(count)):
        place(f"{classes()[number % 8]}_{number}.JPEG", data, root)
    return count


def unpack(archive: Path, root: Path) -> int:
    """Extracts the photographs of an archive into class folders; returns their number."""
    from stillpoint.core.data.archives import archive_files

    count = 0
    for path, content in archive_files(archive, most=16 << 30, largest=64 << 20):
        name = Path(path).name
        if name.lower().endswith((".jpeg", ".jpg")):
            place(name, content, root)
            count += 1
    return count


def ours(root: Path, workers: int) -> dict[str, Callable[[], int]]:
    import torch

    from stillpoint import pipelines
    from stillpoint.core.data.build import loader
    from stillpoint.core.data.shifts import crop_window

    config = pipelines.configure("blurpool/resnet18", "imagenet")
    options: dict[str, Any] = {"batch_size": BATCH, "workers": workers}
    loaders = {
        "training": loader(config, "train", root, **options),
        "evaluation": loader(config, "test", root, **options),
        "ten windows": loader(config, "test", root, margin=config.evaluate.margin, **options),
    }

    def run(job: str) -> int:
        found, seen = loaders[job], 0
        assert found is not None, "both parts are there"
        for batch in found.epoch(0):
            if job == "ten windows":
                for k in range(WINDOWS):
                    corners = torch.full((len(batch.images), 2), 3 * k)
                    seen += len(crop_window(batch.images, corners, (224, 224)))
            else:
                seen += len(batch.images)
        return seen

    return {job: (lambda job=job: run(job)) for job in loaders}


def theirs(root: Path, workers: int) -> dict[str, Callable[[], int]]:
    from torch.utils.data import DataLoader
    from torchvision import transforms as t
    from torchvision.datasets import ImageFolder

    normalise = [t.ToTensor(), t.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    changes = {
        "training": [t.RandomResizedCrop(224), t.RandomHorizontalFlip()],
        "evaluation": [t.Resize(256), t.CenterCrop(224)],
        "ten windows": [t.Resize(256), t.CenterCrop(256), t.RandomCrop(224)],
    }
    parts = {"training": "train", "evaluation": "val", "ten windows": "val"}
    loaders = {
        job: DataLoader(
            ImageFolder(str(root / "imagenet" / parts[job]), t.Compose([*steps, *normalise])),
            *(BATCH, job == "training"),
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        for job, steps in changes.items()
    }

    def run(job: str) -> int:
        passes = WINDOWS if job == "ten windows" else 1
        return sum(len(images) for _ in range(passes) for images, _ in loaders[job])

    return {job: (lambda job=job: run(job)) for job in loaders}


def main() -> int:
    form = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    form.add_argument("archive", type=Path, metavar="PHOTOGRAPHS.tar")
    form.add_argument("--threads", type=int, default=2)
    form.add_argument("--rounds", type=int, default=5)
    form.add_argument("--json", type=Path, default=RESULTS / "imagenet_loader.json")
    args = form.parse_args()
    pin(1, "benchmarks.imagenet_loader")
    from stillpoint.core.base.files import write_json

    clock = Clock("cpu", 1)
    about = machine(clock)
    with tempfile.TemporaryDirectory() as folder:
        photographs = unpack(args.archive, Path(folder))
        sides = {"stillpoint": ours(Path(folder), args.threads), "torchvision": theirs(Path(folder), args.threads)}
        jobs: dict[str, Any] = {}
        for job in sides["stillpoint"]:
            rates: dict[str, list[float]] = {side: [] for side in sides}
            for number in range(args.rounds + 1):
                for side in list(sides) if number % 2 else list(sides)[::-1]:
                    start = time.perf_counter()
                    seen = sides[side][job]()
                    # the first round starts the workers
                    if number:
                        rates[side].append(seen / (time.perf_counter() - start))
            ratios = [a / b for a, b in zip(rates["stillpoint"], rates["torchvision"], strict=True)]
            jobs[job] = {
                "images_per_second": {side: [round(v, 1) for v in values] for side, values in rates.items()},
                "median": {side: round(statistics.median(values), 1) for side, values in rates.items()},
                "ratio": round(statistics.median(ratios), 3),
            }
            print(job, jobs[job]["median"], "ratio", jobs[job]["ratio"], flush=True)
    write_json(
        args.json,
        {
            "what": "network inputs a second from JPEG files in class folders; ratio: ours to torchvision's, by rounds",
            "photographs": photographs,
            "batch": BATCH,
            "workers": args.threads,
            "clock": "wall clock",
            "machine": about,
            "jobs": jobs,
        },
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
