"""All shift metrics in one evaluation, beside a DataLoader pass for every shift: ``stillpoint bench eval``.

stillpoint   `evaluation.engine.evaluate` with the metrics of the APS recipes: each batch is read once, and its views
             are made on the device
torchvision  for each shift a pass over the images: Pillow image, ToTensor, Normalize, the shift, a DataLoader, the
             network; its shifts are those that our evaluation draws

Both read the clock around every forward, so that the overhead relates a run to its own network, whatever the machine's
other load. Nothing is written unless both find the same consistencies; three pairs of images may differ, since rounding
can decide a near tie. CIFAR-10 if available, otherwise noise of the same form; the network is untrained, which does not
affect times.
"""

import json
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Clock, job_form, pin, run_jobs, spread

RESULTS = Path(__file__).parent / "results"
NETWORKS = ("aps/resnet20",)
IMAGES, REPEATS, FRACTIONS, EVERY, SIDE = 256, 2, 4, 4, 6
PAIRS = {
    "EVALUATE.METRICS": ["accuracy", "circular", "crop", "erase", "flips", "all_shifts", "fractional"],
    "EVALUATE.BATCH_SIZE": 128,
    "EVALUATE.REPEATS": REPEATS,
    "EVALUATE.FRACTIONS": FRACTIONS,
    "EVALUATE.LIMIT_ALL_SHIFTS": EVERY,
    "EVALUATE.ERASE": [SIDE],
}


class Timed:
    """Wraps a network to add up the milliseconds of its forwards and the images that it saw."""

    def __init__(self, net: Any, clock: Clock) -> None:
        import torch

        self.spent, self.images = 0.0, 0
        meter = self

        class Around(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = net

            def forward(self, x: Any) -> Any:
                begun = clock.read()
                found = self.net(x)
                meter.spent += clock.read() - begun
                meter.images += len(x)
                return found

        self.net = Around()


def passes(config: Any, images: Any) -> Iterator[tuple[str, int, Callable[[Any, int], Any]]]:
    """(metric, number of images, function of a normalised image and its number) for every shift of every metric."""
    import torch
    from torch.nn import functional

    from stillpoint.core.base.randomness import uniform_integers
    from stillpoint.core.data.shifts import fourier_shift
    from stillpoint.core.evaluation.erase import erased

    numbers, reach, seed = torch.arange(len(images)), config.evaluate.max_shift, 0
    height, width = images.images.shape[2:]

    def corner(extent: int, axis: str) -> Any:
        return uniform_integers(numbers, 0, extent - SIDE + 1, 1, f"erase {axis}", seed, SIDE)

    corners = torch.cat([corner(height, "rows"), corner(width, "columns")], 1)

    def unchanged(x: Any, number: int) -> Any:
        return x

    def erase(x: Any, number: int) -> Any:
        return erased(x[None], corners[number][None], SIDE)[0]

    def turned(x: Any, number: int) -> Any:
        return x.flip(1, 2)

    def rolled(first: Callable, drawn: Any) -> Callable[[Any, int], Any]:
        # content moves to higher rows and columns, as torch.roll moves it
        return lambda x, number: torch.roll(first(x, number), drawn[number].tolist(), (1, 2))

    def window(drawn: Any) -> Callable[[Any, int], Any]:
        def cut(x: Any, number: int) -> Any:
            top, left = (reach + drawn[number]).tolist()
            return functional.pad(x, (reach,) * 4)[:, top : top + height, left : left + width]

        return cut

    def between(part: float) -> Callable[[Any, int], Any]:
        return lambda x, number: fourier_shift(x[None], (part, part))[0]

    yield "accuracy", len(images), unchanged
    for name, first in (("circular", unchanged), ("crop", None), (f"erase{SIDE}", erase), ("flips", turned)):
        if first not in (unchanged, None):
            yield name, len(images), first
        for repeat in range(REPEATS):
            drawn = uniform_integers(numbers, -reach, reach, 4, name, seed, repeat)
            for k in (0, 2):
                part = drawn[:, k : k + 2]
                yield name, len(images), rolled(first, part) if first else window(part)
    for down in range(height):
        for right in range(width):
            shift = torch.tensor([[down, right]]).expand(len(images), 2)
            yield "all_shifts", min(EVERY, len(images)), rolled(unchanged, shift)
    for k in range(1, FRACTIONS + 1):
        yield "fractional", len(images), between(k / FRACTIONS)


def one_pass_a_shift(net: Any, images: Any, config: Any, device: str) -> dict[str, float]:
    """Consistencies by a DataLoader pass for every shift."""
    import torch

    from benchmarks.pictures import torchvision_loader
    from stillpoint.core.data.sets import sample

    classes: dict[str, list[Any]] = {}
    net.eval()
    for name, count, change in passes(config, images):
        if name.rstrip("0123456789") not in config.evaluate.metrics:
            continue
        loader = torchvision_loader(images.sample(count), [], config.evaluate.batch_size, shuffle=False, change=change)
        with torch.inference_mode():
            found = [
                net(x.to(device).contiguous(memory_format=torch.channels_last)).argmax(1).cpu() for x, _, _ in loader
            ]
        classes.setdefault(name, []).append(torch.cat(found))
    consistent = {}
    for name in ("circular", "crop", f"erase{SIDE}", "flips"):
        shifted = classes[name][-2 * REPEATS :]
        agree = torch.stack([a == b for a, b in zip(shifted[::2], shifted[1::2], strict=True)])
        consistent[f"{name}_consistency"] = agree.double().mean().item()
    if "all_shifts" in classes:
        every = torch.stack(classes["all_shifts"])
        # in a copy in class folders the sample is not the first images
        plain = classes["accuracy"][0][sample(images.labels, every.shape[1])]
        consistent["all_shifts_consistency"] = (every == plain).double().mean().item()
    return consistent


def measure(name: str, clock: Clock, rounds: int) -> dict[str, Any]:
    import torch

    from benchmarks.pictures import pictures
    from stillpoint import pipelines
    from stillpoint.core.evaluation.engine import evaluate

    config = pipelines.configure(name, "cifar10", [text for key, v in PAIRS.items() for text in (key, json.dumps(v))])
    images = pictures("cifar10", IMAGES, "test")
    torch.manual_seed(0)
    net = pipelines.build(config).to(clock.device).eval()
    sides = {side: Timed(net, clock) for side in ("stillpoint", "torchvision")}
    calls: dict[str, Callable[[], Any]] = {
        "stillpoint": lambda: evaluate(
            sides["stillpoint"].net, images, config.evaluate, device=clock.device, channels_last=True
        ),
        "torchvision": lambda: one_pass_a_shift(sides["torchvision"].net, images, config, clock.device),
    }
    times: dict[str, list[float]] = {side: [] for side in sides}
    over: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds + 1):
        found = {}
        for side in list(calls) if number % 2 else list(calls)[::-1]:
            sides[side].spent, sides[side].images = 0.0, 0
            begun = clock.read()
            found[side] = calls[side]()
            took = clock.read() - begun
            if number:  # the first one warms up
                times[side].append(took)
                over[side].append(took / sides[side].spent)
        _compare(found["stillpoint"], found["torchvision"])
    if sides["stillpoint"].images != sides["torchvision"].images:
        raise RuntimeError(
            f"our network saw {sides['stillpoint'].images} images, torchvision's {sides['torchvision'].images}"
        )
    ratios = [a / b for a, b in zip(times["stillpoint"], times["torchvision"], strict=True)]
    return {
        "images": images.title,
        "count": IMAGES,
        "network_images": sides["stillpoint"].images,
        "evaluate": config.dump()["EVALUATE"],
        "contenders": {side: spread(values) for side, values in times.items()},
        "over_network": {side: round(statistics.median(values), 4) for side, values in over.items()},
        "ratio_to_torchvision": round(statistics.median(ratios), 4),
        "consistency": {key: round(value, 4) for key, value in found["torchvision"].items()},
    }


def _compare(ours: dict[str, Any], theirs: dict[str, float]) -> None:
    for key, value in theirs.items():
        trials = EVERY * 1024 if key.startswith("all") else IMAGES * REPEATS
        if abs(ours[key] - value) * trials > 3:
            raise RuntimeError(f"{key} is {ours[key]} in one pass and {value} with a pass for each shift")


def line(name: str, row: dict[str, Any]) -> str:
    """One network in one line of a terminal."""
    parts = [
        f"{side} {v['median_ms'] / 1e3:.2f} s ({100 * (row['over_network'][side] - 1):+.1f} % over its network)"
        for side, v in row["contenders"].items()
    ]
    return f"{name:20} {row['network_images']} views: {', '.join(parts)}; ratio {row['ratio_to_torchvision']:.2f}"


def main(arguments: list[str] | None = None) -> None:
    form = job_form("benchmarks.evaluation", __doc__, devices=("cpu", "cuda"), rounds=5)
    form.add_argument("--network", action="append", help=f"may be repeated (default: {', '.join(NETWORKS)})")
    args = form.parse_args(arguments)
    pin(args.threads, "benchmarks.evaluation")

    clock = Clock(args.device, args.threads)
    jobs = [(name, partial(measure, name, clock, args.rounds)) for name in args.network or NETWORKS]
    run_jobs("eval", args, clock, jobs, line)


if __name__ == "__main__":
    main()
