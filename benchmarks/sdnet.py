"""Sparse-coding networks beside the plain ResNet-18: ``python -m benchmarks.sdnet [--device cuda] [--batch 128]``.

A training step (forward, loss, backward, optimiser; step sizes measured as in training) and inference (step sizes known
from the first batch), full width on 32x32 colour images; peak memory of a training step beyond the parameters. The
published memory and speed were measured by others, on a GPU, with their own program.

Also one layer alone, with T = 2 iterations, beside the convolution that it replaces: the first layer of a network for
CIFAR-10 (3 to 64 channels, 3x3) and one of its blocks (64 to 64), in evaluation with the step size known, and with the
step size measured anew, as in training after every update. ``--layer`` measures this part alone and keeps the others.
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Clock, machine, peak_memory, pin, spread

RESULTS = Path(__file__).parent / "results"
#: shown as -> (network, settings)
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18": ("resnet18", {}),
    "sdnet18": ("sdnet18", {}),
    "sdnet18_all": ("sdnet18_all", {}),
    "sdnet18_all, recomputed": ("sdnet18_all", {"recompute": True}),
    "sdnet18_all_noshortcut": ("sdnet18_all_noshortcut", {}),
}


#: layers that are compared with a convolution -> channels of their input
LAYERS = {"first layer": 3, "layer of a block": 64}
LAYER_ROUNDS = 6  # a layer is fast beside a network: this many rounds for each round of the networks


def contender(
    name: str, settings: dict[str, Any], batch: int, device: str
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """(a training step, an inference) of one network."""
    import torch
    import torch.nn.functional as F

    from stillpoint import pipelines

    images = torch.randn(batch, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,), device=device)
    nets = [pipelines.create(f"sdnet/{name}", dataset="cifar10", **settings).to(device) for _ in range(2)]
    training, frozen = (net.to(memory_format=torch.channels_last) for net in nets)
    frozen.eval()
    optimiser = torch.optim.SGD(training.parameters(), 0.01, 0.9, nesterov=True, weight_decay=5e-4, fused=True)

    def step() -> None:
        loss = F.cross_entropy(training(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def infer() -> None:
        with torch.inference_mode():
            frozen(images)

    return step, infer


def layers(clock: Clock, device: str, rounds: int) -> dict[str, Any]:
    """Times of a layer with T = 2 on 16 images, and their ratios to the convolution with the same weights."""
    import torch
    import torch.nn.functional as F

    from stillpoint.core.layers.sparse_coding import SparseCoding2d

    found = {}
    for shown, channels in LAYERS.items():
        x = torch.randn(16, channels, 32, 32, device=device)
        layer, moving = (SparseCoding2d(channels, 64, 3, padding=1, iterations=2).to(device) for _ in range(2))
        layer.eval()
        # the size of a training update of the atoms
        step = 1e-3 * torch.randn_like(moving.weight)

        def anew(moving: SparseCoding2d = moving, x: torch.Tensor = x, step: torch.Tensor = step) -> None:
            moving.weight.add_(step.neg_())
            moving(x)

        calls: dict[str, Callable[[], Any]] = {
            "convolution": lambda x=x, w=layer.weight: F.conv2d(x, w, padding=1),
            "step size known": lambda layer=layer, x=x: layer(x),
            "step size measured": anew,
        }
        with torch.no_grad():
            times = clock.interleaved(calls, rounds)
        base = times["convolution"]
        ratios = {name: statistics.median(a / b for a, b in zip(times[name], base, strict=True)) for name in times}
        found[shown] = {
            "shape": f"16x{channels}x32x32",
            **{name: {**spread(own), "of_convolution": round(ratios[name], 2)} for name, own in times.items()},
        }
        print(f"{shown}: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()), flush=True)
    return found


def main(arguments: list[str] | None = None) -> None:
    form = argparse.ArgumentParser(prog="python -m benchmarks.sdnet", description=__doc__, allow_abbrev=False)
    form.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    form.add_argument("--threads", type=int, default=1)
    form.add_argument("--rounds", type=int, default=5)
    form.add_argument("--batch", type=int, default=16)
    form.add_argument("--layer", action="store_true", help="measure one layer beside a convolution, and nothing else")
    args = form.parse_args(arguments)
    pin(args.threads, "benchmarks.sdnet")

    import torch

    from stillpoint.core.base.files import write_json

    torch.manual_seed(0)
    clock = Clock(args.device, args.threads)
    path = RESULTS / f"sdnet-{args.device}.json"
    RESULTS.mkdir(exist_ok=True)
    rounds = LAYER_ROUNDS * args.rounds
    layer = {"machine": {**machine(clock), "rounds": rounds}, "layers": layers(clock, args.device, rounds)}
    if args.layer:
        write_json(path, (json.loads(path.read_text()) if path.is_file() else {}) | {"layer": layer})
        return
    about = {**machine(clock), "rounds": args.rounds, "batch": args.batch}
    made = {shown: contender(name, settings, args.batch, args.device) for shown, (name, settings) in NETWORKS.items()}
    times = [clock.interleaved({shown: pair[k] for shown, pair in made.items()}, args.rounds) for k in (0, 1)]
    found: dict[str, Any] = {}
    for shown, (step, _) in made.items():
        row: dict[str, Any] = {"peak_bytes": peak_memory(step, args.device)}
        for mode, own in zip(("training", "inference"), times, strict=True):
            middle = spread(own[shown])
            row[mode] = {**middle, "images_per_second": round(1e3 * args.batch / middle["median_ms"], 1)}
        found[shown] = row
        base = found["resnet18"]
        row["of_resnet18"] = {
            "training_time": round(row["training"]["median_ms"] / base["training"]["median_ms"], 3),
            "inference_time": round(row["inference"]["median_ms"] / base["inference"]["median_ms"], 3),
            "peak": round(row["peak_bytes"] / base["peak_bytes"], 3),
        }
        rates = ", ".join(f"{mode} {row[mode]['images_per_second']:.0f} images/s" for mode in ("training", "inference"))
        print(
            f"{shown:26} {rates}, peak {row['peak_bytes'] / 2**20:.0f} MiB, of resnet18: {row['of_resnet18']}",
            flush=True,
        )
    about["load_after"] = [round(v, 2) for v in os.getloadavg()]
    write_json(path, {"machine": about, "networks": found, "layer": layer})


if __name__ == "__main__":
    main()
