"""Sparse-coding networks beside the plain ResNet-18: ``python -m benchmarks.sdnet [--device cuda] [--batch 128]``.

A training step (forward, loss, backward, optimiser; step sizes measured as in training) and inference (step sizes are
known from the first batch), full width on 32x32 colour images; the peak of what a training step holds beside the
parameters. The published memory and speed were measured by others, on a GPU, with a program of their own.
"""

import argparse
import os
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


def contender(
    name: str, settings: dict[str, Any], batch: int, device: str
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """(a training step, an inference) of one network."""
    import torch
    import torch.nn.functional as F

    import pipelines

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


def main(arguments: list[str] | None = None) -> None:
    form = argparse.ArgumentParser(prog="python -m benchmarks.sdnet", description=__doc__, allow_abbrev=False)
    form.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    form.add_argument("--threads", type=int, default=1)
    form.add_argument("--rounds", type=int, default=5)
    form.add_argument("--batch", type=int, default=16)
    args = form.parse_args(arguments)
    pin(args.threads, "benchmarks.sdnet")

    import torch

    from core.files import write_json

    torch.manual_seed(0)
    clock = Clock(args.device, args.threads)
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
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / f"sdnet-{args.device}.json", {"machine": about, "networks": found})


if __name__ == "__main__":
    main()
