"""Milliseconds of a photograph in every variant of the wavelet twins: ``python -m benchmarks.wavelet_twins``.

AlexNet's six and ResNet-34's eleven classifiers of ImageNet, inference and training (forward and backward, without the
optimiser's step) at 224x224. Variants of one family take turns in every round, so their ratios are steadier than
times. The result is the time column of ``results/wavelet_twins/<recipe>/cost.md``. Three minutes on an idle core.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Clock, machine, pin

RESULTS = Path(__file__).parent / "results"


def family(name: str) -> str:
    """Variants that differ only in their first layer: AlexNet or ResNet, and the kind of blur."""
    return name[0] + next((blur for blur in ("zh3", "zo3") if blur in name), "")


def calls(net: Any, images: Any) -> dict[str, Callable[[], Any]]:
    import torch

    def inference() -> None:
        net.eval()
        with torch.inference_mode():
            net(images)

    def training() -> None:
        net.train()
        net(images).square().mean().backward()
        net.zero_grad(set_to_none=True)

    return {"inference": inference, "training": training}


def main() -> None:
    form = argparse.ArgumentParser(description=__doc__)
    form.add_argument("--batch", type=int, default=2, help="photographs in a batch (default: 2)")
    form.add_argument("--rounds", type=int, default=3, help="measurements of each variant (default: 3)")
    form.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    form.add_argument("--threads", type=int, default=1)
    args = form.parse_args()
    pin(args.threads, "benchmarks.wavelet_twins")
    import torch

    from stillpoint.pipelines.wavelet_twins.catalogue import CLASSIFIERS
    from stillpoint.pipelines.wavelet_twins.cost import VARIANTS
    from stillpoint.pipelines.wavelet_twins.models import network

    clock = Clock(args.device, args.threads)
    images = torch.randn(args.batch, 3, 224, 224, device=args.device).to(memory_format=torch.channels_last)
    found: dict[str, dict[str, Any]] = {}
    for group in dict.fromkeys(map(family, VARIANTS)):
        names = [name for name in VARIANTS if family(name) == group]
        nets = {name: network(*CLASSIFIERS[name]).to(args.device, memory_format=torch.channels_last) for name in names}
        for what in ("inference", "training"):
            times = clock.interleaved({name: calls(net, images)[what] for name, net in nets.items()}, args.rounds)
            for name, own in times.items():
                each = [value / args.batch for value in own]
                spread = {"median": statistics.median(each), "low": min(each), "high": max(each)}
                found.setdefault(name, {})[what] = {key: round(value, 2) for key, value in spread.items()}
                print(name, what, found[name][what], flush=True)
    about = machine(clock)
    text = f"{about['device']}, {args.threads} thread, {clock.name}, batches of {args.batch}"
    content = {"machine": about, "device": text, "batch": args.batch, "rounds": args.rounds, "milliseconds": found}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "wavelet_twins.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
