"""All measures of the board on one trained network, beside the forwards that they need: ``stillpoint bench board``.

stillpoint   the evaluations of the board's recipe, on a twentieth of the images of each kind
forwards     the network on unshifted images, in batches of the same size; its time for as many images as the protocol
             needs

The forwards needed follow from the protocol's settings: each image once, and each view of each measure once; of the
worst shift only the views up to the first failure, as many as were seen. The network is trained briefly, so that worst
shifts are searched for images that it classifies correctly. Images are already decoded, as in a prepared data set:
CIFAR-10 if available, otherwise noise of the same form.
"""

import statistics
from functools import partial
from typing import Any

from benchmarks.evaluation import Timed
from benchmarks.harness import Clock, job_form, pin, ratios, run_jobs, spread

RECIPES = ("cifar10",)
ENTRY = "board/strides"
#: images of all measures, of expensive ones, and of every shift; the protocol has twenty times as many
IMAGES, DEAR, EVERY = 500, 50, 5
WHOLE = 20
#: steps of training, and images of each
STEPS, BATCH = 60, 128
#: largest acceptable ratio of the whole time to that of the forwards needed
GOAL = 3.0


def trained(config: Any, count: int) -> Any:
    """A network, trained briefly on `count` images so that it classifies some correctly."""
    import torch
    from torch.nn import functional

    from benchmarks.pictures import pictures
    from stillpoint import pipelines
    from stillpoint.core.data.loading import DeviceLoader

    net = pipelines.build(config).train()
    loader = DeviceLoader(pictures("cifar10", count), BATCH, shuffle=True, channels_last=True)
    net.to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(net.parameters(), lr=2e-3)
    done = 0
    while done < STEPS:
        for batch in loader.epoch(done):
            adam.zero_grad()
            functional.cross_entropy(net(batch.images), batch.labels).backward()
            adam.step()
            done += 1
    return net.eval()


def measure(recipe: str, clock: Clock, rounds: int) -> dict[str, Any]:
    import torch

    from benchmarks.pictures import pictures
    from stillpoint import pipelines
    from stillpoint.core.config import evaluations
    from stillpoint.core.evaluation.engine import evaluate

    pairs = ["EVALUATE.LIMIT_DEAR", str(DEAR), "EVALUATE.LIMIT_ALL_SHIFTS", str(EVERY)]
    config = pipelines.configure(ENTRY, recipe, pairs)
    images, size = pictures("cifar10", IMAGES, "test"), config.evaluate.batch_size
    net = trained(config, 20 * BATCH)
    mine, plain = Timed(net, clock), Timed(net, clock)
    shown = torch.randn(min(size, IMAGES), *images.images.shape[1:]).contiguous(memory_format=torch.channels_last)
    times: dict[str, list[float]] = {"stillpoint": [], "forwards": []}
    inside = []
    most = evaluations.views(config.evaluate, IMAGES, images.images.shape[-1])
    with torch.inference_mode():
        plain.net(shown)
    for _ in range(rounds):
        mine.spent, mine.images, plain.spent, plain.images = 0.0, 0, 0.0, 0
        with torch.inference_mode():
            for _ in range(8):  # before and after, since other load changes meanwhile
                plain.net(shown)
        begun = clock.read()
        found = evaluate(mine.net, images, config.evaluate, device=clock.device, channels_last=True)
        took = clock.read() - begun
        with torch.inference_mode():
            for _ in range(8):
                plain.net(shown)
        if mine.images > most:
            raise RuntimeError(f"the network saw {mine.images} images, and the protocol needs {most} at most")
        times["stillpoint"].append(took)
        times["forwards"].append(plain.spent / plain.images * mine.images)
        inside.append(took / mine.spent)
    seconds = statistics.median(times["stillpoint"]) / 1e3
    return {
        "images": images.title,
        "count": IMAGES,
        "network_images": mine.images,
        "network_images_at_most": most,
        "evaluate": config.dump()["EVALUATE"],
        "contenders": {side: spread(values) for side, values in times.items()},
        "ratio_to_forwards": ratios(times["stillpoint"], times["forwards"]),
        "over_network": round(statistics.median(inside), 4),
        "goal": GOAL,
        "minutes_of_all": round(seconds * WHOLE / 60, 2),
        "accuracy": round(found["accuracy"], 4),  # type: ignore[arg-type]
    }


def line(name: str, row: dict[str, Any]) -> str:
    """One network in one line of a terminal."""
    ratio = row["ratio_to_forwards"]
    return (
        f"{name:14} {row['network_images']} views: {row['contenders']['stillpoint']['median_ms'] / 1e3:.1f} s, "
        f"{ratio['median']:.2f} of the forwards that it needs ({ratio['low']:.2f} to {ratio['high']:.2f}), "
        f"{row['over_network']:.2f} of its own; the whole protocol {row['minutes_of_all']:.1f} min"
    )


def main(arguments: list[str] | None = None) -> None:
    form = job_form("benchmarks.board", __doc__, devices=("cpu", "cuda"), rounds=3)
    args = form.parse_args(arguments)
    pin(args.threads, "benchmarks.board")

    clock = Clock(args.device, args.threads)
    jobs = [(recipe, partial(measure, recipe, clock, args.rounds)) for recipe in RECIPES]
    run_jobs("board", args, clock, jobs, line)


if __name__ == "__main__":
    main()
