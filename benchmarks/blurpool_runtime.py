"""The cost of filters in a whole network, beside the published plot: ``python -m benchmarks.blurpool_runtime``.

The forward pass of ResNets at 224x224, plain and with filters of 2 to 5 taps, in turn in every round. Only the ratio
to the plain network is comparable: the published times (Zhang's plot) are of 48 images on an RTX 2080 Ti, read to about
0.5 ms, and 4 taps are not on it. 48 images here too: four minutes on one core of a CPU; on a GPU ``--device cuda``.
"""

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import Clock, machine, pin, spread

HERE = Path(__file__).parent
NETWORKS = ("resnet18", "resnet34", "resnet50", "resnet101")
SIZES = (2, 3, 4, 5)


def measure(clock: Clock, networks: tuple[str, ...], batch: int, rounds: int) -> list[dict[str, Any]]:
    """Times and ratios of each network and filter."""
    import torch

    from stillpoint import pipelines

    rows = []
    for arch in networks:
        names = [arch, *(f"{arch}_lpf{size}" for size in SIZES)]
        nets = {
            name: pipelines.create(f"blurpool/{name}").eval().to(clock.device, memory_format=torch.channels_last)
            for name in names
        }
        images = torch.rand(batch, 3, 224, 224, device=clock.device).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            calls = {name: (lambda net=net, images=images: net(images)) for name, net in nets.items()}
            times = clock.interleaved(calls, rounds)
        for name in names:
            # paired by rounds, in which a busy machine slows both
            ratio = statistics.median(a / b for a, b in zip(times[name], times[arch], strict=True))
            paper = published(name, arch)
            rows.append({"network": name, "plain": arch, **spread(times[name]), "ratio": round(ratio, 4), **paper})
            print(f"{name}: {rows[-1]['median_ms']:.1f} ms, {ratio:.3f} of the plain network {paper}", flush=True)
    return rows


def published(name: str, plain: str) -> dict[str, float]:
    """The published time and ratio; empty unless both times are on the plot."""
    from stillpoint import pipelines

    rows = [row for entry in pipelines.paper("blurpool").published.entries for row in entry.rows]
    found = {row.models[0]: time for row in rows if (time := row.number("runtime_ms")) is not None}
    if name not in found or plain not in found:
        return {}
    return {"published_ms": found[name], "published_ratio": round(found[name] / found[plain], 4)}


def draw(measured: Mapping[str, Any], path: Path) -> None:
    """Ratios as bars, the published ones as marks."""
    from stillpoint.core.reporting.figures import PALETTE, save, styled, subplots

    @styled
    def drawn(path: Path) -> Path:
        rows = measured["networks"]
        plains = list(dict.fromkeys(row["plain"] for row in rows))
        figure, axes = subplots(1, 1, (6.4, 3.4))
        axis = axes[0, 0]
        for k, size in enumerate(SIZES):
            own = {row["plain"]: row for row in rows if row["network"].endswith(f"_lpf{size}")}
            places = [number + (k - 1.5) * 0.2 for number in range(len(plains))]
            heights = [100 * (own[plain]["ratio"] - 1) for plain in plains]
            axis.bar(places, heights, 0.18, color=PALETTE[k], label=f"{size} taps")
            for place in places:
                axis.text(place, 0.4, str(size), ha="center", color="white", fontsize=7)
            stated = [
                (x, 100 * (own[p]["published_ratio"] - 1))
                for x, p in zip(places, plains, strict=True)
                if "published_ratio" in own[p]
            ]
            if stated:
                axis.plot(*zip(*stated, strict=True), "_", color="black", markersize=11, markeredgewidth=1.6)
        axis.plot(
            [],
            [],
            "_",
            color="black",
            markersize=11,
            markeredgewidth=1.6,
            label="published (RTX 2080 Ti,\nbatch of 48)",
        )
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xticks(range(len(plains)), plains)
        axis.set_ylabel("longer than the plain network (%)")
        title = f"Forward pass, batch of {measured['batch']} at 224x224\n{measured['machine']['device']}"
        threads = measured["machine"]["threads"]
        axis.set_title(f"{title}, {threads} thread{'s' * (threads != 1)}; in the bars: taps", loc="left")
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return save(figure, path)

    drawn(path)


def main() -> int:
    form = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    form.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    form.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    form.add_argument("--batch", type=int, default=48)
    form.add_argument("--rounds", type=int, default=3)
    form.add_argument("--threads", type=int, default=1)
    form.add_argument("--json", type=Path, help="default: benchmarks/results/blurpool_runtime-<device>.json")
    form.add_argument("--figure", type=Path, default=HERE.parent / "docs" / "blurpool" / "runtime.png")
    args = form.parse_args()
    pin(args.threads, "benchmarks.blurpool_runtime")
    from stillpoint.core.base.files import write_json

    clock = Clock(args.device, args.threads)
    about = machine(clock)
    rows = measure(clock, tuple(args.networks), args.batch, args.rounds)
    result = {
        "what": "forward pass of whole networks at 224x224; ratio: to the plain network, median over rounds",
        "batch": args.batch,
        "rounds": args.rounds,
        "machine": about,
        "networks": rows,
    }
    write_json(args.json or HERE / "results" / f"blurpool_runtime-{args.device}.json", result)
    draw(result, args.figure)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
