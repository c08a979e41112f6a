"""An epoch of the perceptron on translated Fashion-MNIST, fed in four ways: ``python -m benchmarks.translations``.

60,000 training images (forward, backward, step of SGD) and 10,000 test images (forward), batches of 250, on 56x56
windows of images padded to 84x84. Contenders, in turn in every round, each over the same number of batches:

ready        the network alone, on windows that were cut before the clock started
ours         `stillpoint.core.data.loading.DeviceLoader`: bytes on the device, whole rows of a window copied at once
float gather the images padded and normalised beforehand as float32, pixels gathered one by one
torchvision  Pad, RandomCrop, ToTensor, Normalize in a DataLoader with two workers (in its last round only: it is slow)

The cost of one image in a worker is measured too (``--items``: only that): as the contender reads it, and by the
notebook's own data set, torchvision's FashionMNIST class, with the same four transforms.

Two minutes and 4 GB on two idle cores; STILLPOINT_DATA must hold Fashion-MNIST. Ratios are of wall-clock time, and of
CPU time (workers included), which other load disturbs less; with one thread read the second.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Clock, machine, pin

RESULTS = Path(__file__).parent / "results"
BATCH, PADDING, WINDOW = 250, 28, 56
MEAN, STD = 0.1307, 0.3081

Batches = Callable[[int, bool], Iterator[tuple[Any, Any]]]


def cpu_time() -> float:
    """CPU seconds of this process and of its workers that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def epoch(batches: Batches, number: int) -> dict[str, float]:
    """Seconds of one training epoch and one test pass of a fresh perceptron; the loss is read in every step."""
    import torch
    from torch.nn import functional

    from stillpoint.core.backbones.perceptron import Perceptron

    net = Perceptron(WINDOW * WINDOW)
    optimiser = torch.optim.SGD(net.parameters(), 0.01, 0.5, fused=True)
    start, used = time.perf_counter(), cpu_time()
    net.train()
    for images, labels in batches(number, True):
        loss = functional.nll_loss(net(images), labels)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        loss.item()
    net.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in batches(number, False):
            correct += (net(images).argmax(1) == labels).sum().item()
    return {"wall": time.perf_counter() - start, "cpu": cpu_time() - used}


def ours(sets: dict[bool, Any]) -> Batches:
    from stillpoint.core.data.augment import Augment, Crop
    from stillpoint.core.data.loading import DeviceLoader

    augment = Augment(((Crop(PADDING, WINDOW), "pixels"),))
    loaders = {
        training: DeviceLoader(one, BATCH, shuffle=training, augment=augment, mean=(MEAN,), std=(STD,))
        for training, one in sets.items()
    }

    def batches(number: int, training: bool) -> Iterator[tuple[Any, Any]]:
        return ((batch.images, batch.labels) for batch in loaders[training].epoch(number))

    return batches


def ready(source: Batches) -> Batches:
    held = {training: list(source(0, training)) for training in (True, False)}
    return lambda number, training: iter(held[training])


def float_gather(sets: dict[bool, Any]) -> Batches:
    import torch
    from torch.nn import functional

    def prepared(one: Any) -> tuple[Any, Any]:
        padded = functional.pad(one.images, (PADDING,) * 4)
        return (padded.float().div_(255).sub_(MEAN).div_(STD), one.labels)

    held = {training: prepared(one) for training, one in sets.items()}
    steps = torch.arange(WINDOW)

    def batches(number: int, training: bool) -> Iterator[tuple[Any, Any]]:
        images, labels = held[training]
        order = torch.randperm(len(labels)) if training else torch.arange(len(labels))
        for chosen in order.split(BATCH):
            top, left = (torch.randint(images.shape[2] - WINDOW + 1, (len(chosen), 1)) for _ in range(2))
            rows, columns = (top + steps)[:, :, None], (left + steps)[:, None, :]
            yield images[chosen[:, None, None], 0, rows, columns][:, None], labels[chosen]

    return batches


def changes() -> Any:
    """The notebook's four transforms, from a Pillow image to a tensor."""
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.Pad(PADDING),
            transforms.RandomCrop(WINDOW),
            transforms.ToTensor(),
            transforms.Normalize((MEAN,), (STD,)),
        ]
    )


class Pictures:
    """Images held as arrays and transformed one by one, as a worker of torchvision's loader does."""

    def __init__(self, one: Any) -> None:
        self.images, self.labels, self.change = one.images[:, 0].numpy(), one.labels.tolist(), changes()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        return self.change(Image.fromarray(self.images[index])), self.labels[index]


def torchvision_loader(sets: dict[bool, Any]) -> Batches:
    from torch.utils.data import DataLoader

    loaders = {t: DataLoader(Pictures(one), BATCH, shuffle=t, num_workers=2) for t, one in sets.items()}  # type: ignore[arg-type, var-annotated]
    return lambda number, training: iter(loaders[training])


def items(one: Any, rounds: int, count: int = 2000) -> dict[str, Any]:
    """Microseconds of CPU time that one image takes in a worker, in turn for both data sets."""
    from torchvision.datasets import FashionMNIST

    # the class itself over images in memory, without its constructor, which looks for files
    theirs = FashionMNIST.__new__(FashionMNIST)
    theirs.data, theirs.targets = one.images[:, 0], one.labels
    theirs.transform, theirs.target_transform = changes(), None
    sources = {"arrays": Pictures(one), "FashionMNIST class": theirs}
    times: dict[str, list[float]] = {name: [] for name in sources}
    for number in range(-1, rounds):
        for name, source in sources.items():
            start = time.process_time()
            for index in range(count):
                source[index % len(source)]
            if number >= 0:
                times[name].append(1e6 * (time.process_time() - start) / count)
    ratios = [b / a for a, b in zip(*times.values(), strict=True)]
    return {
        "microseconds": {name: round(statistics.median(own), 1) for name, own in times.items()},
        "all": {name: [round(value, 1) for value in own] for name, own in times.items()},
        "FashionMNIST class / arrays": round(statistics.median(ratios), 3),
    }


def check(ours_: Batches, sets: dict[bool, Any]) -> None:
    """`SystemExit` unless our first 20 test windows are windows of their padded and normalised images."""
    import torch
    from torch.nn import functional

    windows, _ = next(ours_(0, False))
    padded = (functional.pad(sets[False].images[:BATCH], (PADDING,) * 4).float() / 255 - MEAN) / STD
    for image, window in zip(padded[:20], windows[:20], strict=True):
        places = image[0].unfold(0, WINDOW, 1).unfold(1, WINDOW, 1)  # (29, 29, 56, 56)
        distance = (places - window[0]).abs().amax((2, 3)).min()
        if not torch.isclose(distance, torch.tensor(0.0), atol=1e-5):
            raise SystemExit("one of our windows matches none of its image's offsets")


def main() -> int:
    form = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    form.add_argument("--threads", type=int, default=2)
    form.add_argument("--rounds", type=int, default=5)
    form.add_argument("--json", type=Path, default=RESULTS / "translations.json")
    form.add_argument("--items", action="store_true", help="measure one image in a worker, and nothing else")
    args = form.parse_args()
    pin(args.threads, "benchmarks.translations")
    from stillpoint.core.base.files import write_json
    from stillpoint.core.data.datasets import load

    clock = Clock("cpu", args.threads)
    sets = {part == "train": load("fashion_mnist", None, part, val_size=0) for part in ("train", "test")}
    one = items(sets[False], args.rounds)
    print(json.dumps(one["microseconds"]), flush=True)
    if args.items:
        write_json(args.json, (json.loads(args.json.read_text()) if args.json.is_file() else {}) | {"image": one})
        return 0
    source = ours(sets)
    check(source, sets)
    contenders = {"ready": ready(source), "ours": source, "float gather": float_gather(sets)}
    slow = {"torchvision": torchvision_loader(sets)}
    times: dict[str, list[dict[str, float]]] = {name: [] for name in (*contenders, *slow)}
    for number in range(args.rounds):
        last = number == args.rounds - 1
        names = list(contenders)
        turn = number % len(names)
        for name in [*names[turn:], *names[:turn], *(slow if last else ())]:
            times[name].append(epoch((contenders | slow)[name], number))
            took = times[name][-1]
            print(f"round {number}: {name} {took['wall']:.2f} s, of CPU time {took['cpu']:.2f} s", flush=True)
    seconds, ratios = {}, {}
    for clock_name in ("wall", "cpu"):
        one = {name: [took[clock_name] for took in values] for name, values in times.items()}
        middle = {name: statistics.median(values) for name, values in one.items()}
        seconds[clock_name] = {
            name: {"median": round(middle[name], 3), "all": [round(value, 3) for value in values]}
            for name, values in one.items()
        }
        found = {
            "ours / ready": statistics.median(a / b for a, b in zip(one["ours"], one["ready"], strict=True)),
            "float gather / ours": middle["float gather"] / middle["ours"],
            "torchvision / ours": one["torchvision"][-1] / one["ours"][-1],
        }
        ratios[clock_name] = {name: round(value, 3) for name, value in found.items()}
    result = {
        "what": "seconds of an epoch: 60,000 training and 10,000 test images of 56x56, perceptron of 100 neurons",
        "batch": BATCH,
        "machine": machine(clock),
        "seconds": seconds,
        "ratios": ratios,
        "image": one,
    }
    write_json(args.json, result)
    print(json.dumps(result["ratios"], indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
