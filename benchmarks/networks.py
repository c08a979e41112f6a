"""What a filter costs in a whole network: ``python -m benchmarks.networks``.

ResNet-50 at 224x224 with channels last, inference and a step of training (forward, loss, backward): plain, with
BlurPool of 3 taps, and with that network's convolutions but without its filters. A BlurPool network convolves before it
subsamples, at four times the pixels, which is a cost of the network and not of the filter. For comparison timm's
ResNet-50, plain and with its own BlurPool of 3 taps. Two minutes on one core.
"""

import statistics
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from benchmarks.harness import Clock, job_form, pin, run_jobs, spread

ARCH, TAPS = "resnet50", 3
BATCH, SIDE = 8, 224
MODES = ("inference", "training")


def contenders() -> dict[str, Any]:
    """Networks by their names; each ``<side>`` is compared with its ``<side> plain``."""
    from stillpoint.core.backbones.resnet import resnet
    from stillpoint.core.layers import downsample_factory

    nets: dict[str, Any] = {
        "stillpoint plain": resnet(ARCH),
        "stillpoint": resnet(ARCH, downsample=downsample_factory("blur", size=TAPS)),
        "without filters": resnet(ARCH, downsample=downsample_factory("blur", size=1)),
    }
    if find_spec("timm"):
        from timm.layers import BlurPool2d
        from timm.models import create_model

        nets["timm plain"] = create_model(ARCH)
        nets["timm"] = create_model(ARCH, aa_layer=BlurPool2d)
    return nets


def call(net: Any, mode: str, device: str) -> Callable[[], Any]:
    """One pass over one batch."""
    import torch
    from torch.nn import functional

    net = net.to(device, memory_format=torch.channels_last).train(mode == "training")
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, 3, SIDE, SIDE, generator=draw).to(device, memory_format=torch.channels_last)
    labels = torch.randint(1000, (BATCH,), generator=draw).to(device)

    def infer() -> Any:
        with torch.inference_mode():
            return net(images)

    def learn() -> Any:
        net.zero_grad()
        functional.cross_entropy(net(images), labels).backward()

    return infer if mode == "inference" else learn


def measure(mode: str, clock: Clock, rounds: int) -> dict[str, Any]:
    """Times of all networks, and medians over rounds of their ratios to the plain one of their side."""
    import torch

    torch.manual_seed(0)
    times = clock.interleaved({name: call(net, mode, clock.device) for name, net in contenders().items()}, rounds)

    def ratio(name: str, other: str) -> float:
        return round(statistics.median(a / b for a, b in zip(times[name], times[other], strict=True)), 4)

    row = {
        "images": f"{BATCH} of {SIDE}x{SIDE}, noise",
        "taps": TAPS,
        "contenders": {name: spread(values) for name, values in times.items()},
        "ratio_to_plain": ratio("stillpoint", "stillpoint plain"),
        "without_filters_to_plain": ratio("without filters", "stillpoint plain"),
        "filters": ratio("stillpoint", "without filters"),
    }
    if "timm" in times:
        row["timm_to_plain"] = ratio("timm", "timm plain")
    return row


def line(name: str, row: dict[str, Any]) -> str:
    """One pass in one line of a terminal."""
    times = ", ".join(f"{side} {v['median_ms']:.0f}" for side, v in row["contenders"].items())
    timm = f", timm's {row['timm_to_plain']:.3f}" if "timm_to_plain" in row else ""
    return (
        f"{ARCH} {name}: {times} ms; over the plain network {row['ratio_to_plain']:.3f} "
        f"(without filters {row['without_filters_to_plain']:.3f}{timm})"
    )


def main(arguments: list[str] | None = None) -> None:
    form = job_form("benchmarks.networks", __doc__, devices=("cpu", "cuda"), rounds=5)
    args = form.parse_args(arguments)
    pin(args.threads, "benchmarks.networks")
    clock = Clock(args.device, args.threads)
    run_jobs("network", args, clock, [(mode, partial(measure, mode, clock, args.rounds)) for mode in MODES], line)


if __name__ == "__main__":
    main()
