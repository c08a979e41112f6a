"""Learned sampling and alias-free layers beside textbook code: ``python -m benchmarks.sampling [--rounds 7] [--json]``.

About two minutes on one core. LPS: four phases sliced and stacked, two padded convolutions of them, a softmax, a
weighted sum; the two convolutions alone, on phases already split and padded, are timed as well. `beyond` is our time
less theirs, over the textbook's less theirs: negative if ours is faster than the convolutions, since it never computes
the second one. TIPS: a depthwise convolution, a pooling, a softmax, four slices and a weighted sum. Max-pools
at stride one: PyTorch's, after its padding. The others are in `benchmarks.alias_free`.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.harness import Clock, machine, pin
from benchmarks.layers import measure

RESULTS = Path(__file__).parent / "results"
BATCH, CHANNELS, SIDE = 32, 64, 32


def cases(device: str) -> Iterator[Any]:
    """Every case of `benchmarks.layers.measure`, LPS first."""
    import torch
    import torch.nn.functional as F

    class _Ready(torch.autograd.Function):
        """Returns `ready` in place of `x`: the gradient at `ready` is computed, and `x` receives zeros."""

        @staticmethod
        def forward(ctx: Any, x: Any, ready: Any) -> Any:
            ctx.shape = x.shape
            return ready.view_as(ready)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return grad.new_zeros(()).expand(ctx.shape), None

    from benchmarks.cases import LAYOUTS, Case
    from stillpoint.core.layers import LearnablePolyphaseDownsample2d, TranslationInvariantDownsample2d
    from stillpoint.core.layers.dense_max_pool import DenseMaxPool2d

    def wrapped(x: Any) -> Any:
        return F.pad(x, (1,) * 4, mode="circular")

    for hidden in (CHANNELS // 8, CHANNELS):
        for layout, backward in ((layout, backward) for layout in LAYOUTS for backward in (False, True)):
            torch.manual_seed(0)
            layer = LearnablePolyphaseDownsample2d(CHANNELS, hidden=hidden, sampling="softmax")
            layer = layer.to(device, memory_format=LAYOUTS[layout])
            first, second = layer.scorer.conv1, layer.scorer.conv2
            x = torch.randn(BATCH, CHANNELS, SIDE, SIDE, device=device).to(memory_format=LAYOUTS[layout])

            def convolved(y: Any, conv: Any) -> Any:
                return F.conv2d(y, conv["weight"].to(y.dtype), conv["bias"].to(y.dtype))

            def textbook(x: Any, first: Any = first, second: Any = second) -> Any:
                phases = torch.stack([x[:, :, r::2, c::2] for c in (0, 1) for r in (0, 1)])  # (4, B, C, h, w)
                inner = F.relu(convolved(wrapped(phases.flatten(0, 1)), first))
                scores = convolved(wrapped(inner), second).mean((1, 2, 3)).view(4, -1)
                return (phases * scores.softmax(0)[:, :, None, None, None]).sum(0)

            side = SIDE // 2 + 2
            inner = torch.randn(4 * BATCH, hidden, side, side, device=device).to(memory_format=LAYOUTS[layout])
            split = torch.randn(4 * BATCH, CHANNELS, side, side, device=device).to(memory_format=LAYOUTS[layout])

            def alone(x: Any, split: Any = split, inner: Any = inner, first: Any = first, second: Any = second) -> Any:
                return convolved(_Ready.apply(x, split), first).sum() + convolved(_Ready.apply(x, inner), second).sum()

            yield Case(
                "LPS",
                {"hidden": hidden, "layout": layout, "dtype": "float32"},
                x,
                textbook,
                {"stillpoint": layer, "textbook": textbook},
                bounds={"convolutions": alone},
                output=x.numel() // 4,
                baseline="textbook",
                tolerance=1e-4,
                backward=backward,
            )
    for layout, backward in ((layout, backward) for layout in LAYOUTS for backward in (False, True)):
        torch.manual_seed(0)
        tips = TranslationInvariantDownsample2d(CHANNELS).to(device, memory_format=LAYOUTS[layout])

        def pooled(x: Any, tips: Any = tips) -> Any:
            psi = F.relu(F.conv2d(x, tips.psi.weight.to(x.dtype), padding=1, groups=CHANNELS))
            means = F.conv2d(F.adaptive_avg_pool2d(psi, 2), tips.scale.weight.to(x.dtype), groups=CHANNELS)
            tau = means.flatten(2).softmax(2)
            phases = torch.stack([x[:, :, r::2, c::2] for c in (0, 1) for r in (0, 1)], 2)
            return (phases * tau[..., None, None]).sum(2)

        x = torch.randn(BATCH, CHANNELS, SIDE, SIDE, device=device).to(memory_format=LAYOUTS[layout])
        yield Case(
            "TIPS",
            {"layout": layout, "dtype": "float32"},
            x,
            pooled,
            {"stillpoint": tips, "textbook": pooled},
            output=x.numel() // 4,
            baseline="textbook",
            tolerance=1e-4,
            backward=backward,
        )
    for size, margin in ((2, "circular"), (3, "same")):
        pool = DenseMaxPool2d(size, margin=margin)

        def largest(x: Any, size: int = size, margin: str = margin) -> Any:
            if margin == "same":
                return F.max_pool2d(x, size, 1, size // 2)
            return F.max_pool2d(F.pad(x, (0, size - 1, 0, size - 1), mode="circular"), size, 1)

        for layout, backward in ((layout, backward) for layout in LAYOUTS for backward in (False, True)):
            torch.manual_seed(0)
            x = torch.randn(BATCH, CHANNELS, SIDE, SIDE, device=device).to(memory_format=LAYOUTS[layout])
            yield Case(
                f"Dense max-pool, {size}x{size}",
                {"layout": layout, "dtype": "float32"},
                x,
                largest,
                {"stillpoint": pool, "textbook": largest},
                output=x.numel(),
                baseline="textbook",
                tolerance=1e-6,
                backward=backward,
            )


def main(arguments: list[str] | None = None) -> None:
    form = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__, allow_abbrev=False)
    form.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    form.add_argument("--threads", type=int, default=1)
    form.add_argument("--rounds", type=int, default=7)
    form.add_argument(
        "--only", metavar="WORD", default="", help="measure only jobs whose name contains this word, and write nothing"
    )
    form.add_argument(
        "--json", action="store_true", help="print the JSON, which is also written to benchmarks/results/"
    )
    args = form.parse_args(arguments)
    pin(args.threads, "benchmarks.sampling")
    clock = Clock(args.device, args.threads)
    from benchmarks.alias_free import cases as alias_free

    rate, begun, rows = clock.bandwidth(), time.perf_counter(), []
    about = {**machine(clock), "copy_gigabytes_per_second": round(rate / 1e6, 2), "rounds": args.rounds}
    for case in chain(cases(args.device), alias_free(args.device)):
        if args.only.lower() not in case.job.lower():
            continue
        row = measure(case, clock, rate, args.rounds)
        found = {name: v["median_ms"] for name, v in row["contenders"].items()}
        if "convolutions" in row["bounds"]:
            bound = row["bounds"]["convolutions"]["median_ms"]
            row["beyond"] = round((found["stillpoint"] - bound) / (found["textbook"] - bound), 3)
        rows.append(row)
        if not args.json:
            peak = {name: round(v["peak_bytes"] / 2**20, 1) for name, v in row["contenders"].items()}
            words = [str(row[key]) for key in ("job", "hidden", "layout", "mode") if key in row]
            print(
                f"{' '.join(words):45} {row['ratio']:6.3f} beyond {row.get('beyond', '-')} | {found} ms, {peak} MiB",
                flush=True,
            )
    about |= {"load_after": [round(v, 2) for v in os.getloadavg()], "seconds": round(time.perf_counter() - begun, 1)}
    result = {"machine": about, "cases": rows}
    if args.json:
        print(json.dumps(result, indent=2))
    if args.only:
        return
    from benchmarks.report import write
    from stillpoint.core.base.files import write_json

    write_json(RESULTS / f"sampling-{args.device}.json", result)
    write()


if __name__ == "__main__":
    main()
