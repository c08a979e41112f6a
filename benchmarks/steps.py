"""Whole steps beside their bare convolutions: ``stillpoint bench steps [--network NAME] [--only WORD] [--no-compile]``.

Forward, loss, backward and SGD on one batch of noise of 32x32, channels last, or a forward pass in evaluation mode:

stillpoint    the network as it trains and is measured
plain         the same network by PyTorch's own operators alone, our kernels switched off
compile       torch.compile of the network
convolutions  every convolution of the network alone, forward and backward, weights and maps in the given precision;
              each in its fastest layout (for circular padding with a border in the map, or padding by zeros)

float32 and bfloat16 (autocast, the weights in float32) are measured separately. Contenders take turns, each round in
another order; a ratio is of two times of one round. Losses of the first two must agree, or nothing is written.
"""

import contextlib
import random
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

from benchmarks.harness import Clock, job_form, pin, ratios, run_jobs, spread

#: name -> images a batch
NETWORKS = {
    "aps/resnet20": 128,
    "aps/resnet20_aps3": 128,
    "blurpool/resnet18": 64,
    "blurpool/resnet18_lpf3": 64,
    "lps/resnet18_lps3": 64,
    "wavelet_twins/R18zh3wyC_mod": 64,
}
PRECISIONS, MODES = ("bfloat16", "float32"), ("training", "evaluation")
#: largest acceptable ratio of a step's time to that of its convolutions
GOALS = {("training", "bfloat16"): 1.4, ("training", "float32"): 1.6}
EVALUATION_GOAL = 1.2
SIDE = 32


@contextlib.contextmanager
def plain_pytorch() -> Iterator[None]:
    """A context without our kernels, norms not folded into convolutions, and with PyTorch's own convolutions."""
    from stillpoint.core.kernels import folded, native, small_maps

    with (
        mock.patch.object(native, "library", lambda *which: None),
        mock.patch.object(small_maps, "plain_only", lambda: True),
        mock.patch.object(folded, "available", lambda dtype: False),
    ):
        yield


def step(net: Any, images: Any, labels: Any, mode: str, precision: str) -> Callable[[], Any]:
    """A function that makes one step and returns its loss, or the logits in evaluation."""
    import torch
    from torch.nn import functional

    from stillpoint.core.base.modes import weights_fixed

    kept: dict[Any, Any] = {}
    optimiser = torch.optim.SGD(net.parameters(), 1e-4, momentum=0.9, fused=True)
    autocast = partial(torch.autocast, images.device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def learn() -> Any:
        with autocast():
            loss = functional.cross_entropy(net(images).float(), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    def infer() -> Any:
        with torch.inference_mode(), weights_fixed(kept), autocast():
            return net(images)

    return learn if mode == "training" else infer


def convolutions(net: Any, images: Any) -> dict[tuple[Any, ...], int]:
    """How often each convolution occurs in a pass: (map, weight, stride, padding, dilation, groups, margin, whether its
    map has a gradient); `margin` is the circular border that the map includes, in pixels."""
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    from stillpoint.core.layers import PaddedConv2d

    found: dict[tuple[Any, ...], int] = {}
    margins: list[int] = []

    class Seen(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is functional.conv2d:
                bound = dict(
                    zip(("x", "weight", "bias", "stride", "padding", "dilation", "groups"), args, strict=False)
                )
                bound |= {("x" if key == "input" else key): value for key, value in (kwargs or {}).items()}
                pairs = [
                    _pair(bound.get(key, usual)) for key, usual in (("stride", 1), ("padding", 0), ("dilation", 1))
                ]
                margin = margins[-1] if margins else 0
                key = (tuple(bound["x"].shape), tuple(bound["weight"].shape), *pairs, bound.get("groups", 1), margin)
                key += (bound["x"].requires_grad,)
                found[key] = found.get(key, 0) + 1
            return function(*args, **(kwargs or {}))

    def around(module: Any) -> int:
        same = module.padding_mode == "circular" and module.stride == (1, 1)
        return int(module.padding[0]) if same and len({*module.padding, *module.kernel_size}) == 2 else 0

    handles = []
    for module in net.modules():
        if isinstance(module, PaddedConv2d):
            handles.append(module.register_forward_pre_hook(lambda m, i: margins.append(around(m))))
            handles.append(module.register_forward_hook(lambda m, i, y: margins.clear()))
    # under a mode, norms and circular convolutions run as plain PyTorch; our filters do not, and are not counted
    with Seen(), torch.enable_grad():
        net(images)
    for handle in handles:
        handle.remove()
    return found


def _pair(value: Any) -> Any:
    return value if isinstance(value, str) else tuple(value) if isinstance(value, tuple | list) else (value, value)


def alone(key: tuple[Any, ...], mode: str, precision: str, device: str) -> list[Callable[[], Any]]:
    """The ways to compute one convolution, in training with its gradients."""
    import torch
    from torch.nn import functional

    shape, weights, stride, padding, dilation, groups, margin, moves = key
    ways: list[Callable[[], Any]] = []
    for layout in (torch.channels_last, torch.contiguous_format):
        for inside in {0, margin}:
            size = (*shape[:2], *(n - 2 * inside for n in shape[2:]))
            x, weight = (
                torch.randn(s, device=device).to(getattr(torch, precision)).contiguous(memory_format=layout)
                for s in (size, weights)
            )
            pads = (inside, inside) if inside else padding
            options = {"stride": stride, "padding": pads, "dilation": dilation, "groups": groups}
            forward = partial(functional.conv2d, x, weight, **options)
            if mode == "training":
                inputs = [weight.requires_grad_(), *([x.requires_grad_()] if moves else [])]
                ways.append(partial(_both, forward, inputs, torch.randn_like(forward())))
            else:
                ways.append(forward)
    return ways


def _both(forward: Callable[[], Any], inputs: list[Any], seed: Any) -> Any:
    import torch

    return torch.autograd.grad(forward(), inputs, seed)


def operations(key: tuple[Any, ...], mode: str) -> int:
    """Multiplications and additions of one convolution."""
    (batch, _, height, width), (outputs, inputs, *taps), (s, t), padding, dilation, _, _, moves = key
    sizes = []
    for n, k, stride, d, p in zip((height, width), taps, (s, t), dilation, _ends(padding), strict=True):
        sizes.append((n + 2 * p - d * (k - 1) - 1) // stride + 1)
    passes = 1 if mode == "evaluation" else 2 + moves
    return 2 * passes * batch * outputs * sizes[0] * sizes[1] * inputs * taps[0] * taps[1]


def _ends(padding: Any) -> tuple[int, int]:
    return (0, 0) if isinstance(padding, str) else padding


def measure(name: str, mode: str, precision: str, compiled: bool, clock: Clock, rounds: int) -> dict[str, Any]:
    """Times of the contenders and their ratios; `RuntimeError` if our results and plain PyTorch's differ."""
    import copy

    import torch

    import stillpoint

    torch.manual_seed(0)
    batch = NETWORKS.get(name, 64)
    net = stillpoint.create(name, dataset="cifar10").to(clock.device)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    net.train(mode == "training")
    images = torch.randn(batch, 3, SIDE, SIDE).to(clock.device, memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,)).to(clock.device)
    counts = convolutions(copy.deepcopy(net), images)
    ways = {key: alone(key, mode, precision, clock.device) for key in counts}
    nets: dict[str, Any] = {"stillpoint": net, "plain": copy.deepcopy(net)}
    if compiled:
        nets["compile"] = torch.compile(copy.deepcopy(net))
    calls = {side: step(own, images, labels, mode, precision) for side, own in nets.items()}
    run_plain = calls["plain"]

    def plain() -> Any:
        with plain_pytorch():
            return run_plain()

    calls["plain"] = plain
    found = []
    for side in ("stillpoint", "plain"):
        torch.manual_seed(1)  # of layers that draw
        found.append(calls[side]())
    ours, theirs = found
    bound = 1e-3 if precision == "float32" else 5e-2
    if not torch.allclose(ours.float(), theirs.float(), rtol=bound, atol=bound):
        raise RuntimeError(f"{name}, {mode}, {precision}: ours returned {ours}, plain PyTorch {theirs}")
    for call in (*calls.values(), *(way for several in ways.values() for way in several)):
        call()
    times: dict[str, list[float]] = {side: [] for side in calls}
    bare: dict[tuple[Any, ...], list[list[float]]] = {key: [[] for _ in ways[key]] for key in ways}
    for k in range(rounds):
        for side in random.Random(k).sample(list(calls), len(calls)):
            times[side].append(_timed(clock, calls[side]))
        for key, several in ways.items():
            for found, way in zip(bare[key], several, strict=True):
                found.append(_timed(clock, way))
    fastest = {key: min(found, key=statistics.median) for key, found in bare.items()}
    times["convolutions"] = [sum(counts[key] * fastest[key][k] for key in counts) for k in range(rounds)]
    median = statistics.median(times["convolutions"])
    return {
        "images": f"{batch} of {SIDE}x{SIDE}, noise",
        "batch": batch,
        "contenders": {side: spread(values) for side, values in times.items()},
        "ratio_to_convolutions": {side: ratios(values, times["convolutions"]) for side, values in times.items()},
        "images_per_second": {
            side: round(1e3 * batch / statistics.median(values), 1) for side, values in times.items()
        },
        "gflops_per_second": round(sum(counts[key] * operations(key, mode) for key in counts) / median / 1e6, 1),
        "goal": GOALS.get((mode, precision), EVALUATION_GOAL),
    }


def _timed(clock: Clock, call: Callable[[], Any]) -> float:
    begun = clock.read()
    call()
    return clock.read() - begun


def line(name: str, row: dict[str, Any]) -> str:
    """One measurement in one line of a terminal."""
    shown = ", ".join(f"{side} {v['median']:.2f}" for side, v in row["ratio_to_convolutions"].items())
    return (
        f"{name}: times the convolutions: {shown} (goal {row['goal']}); "
        f"{row['images_per_second']['stillpoint']:.0f} images/s, convolutions {row['gflops_per_second']:.0f} GFLOP/s"
    )


def main(arguments: list[str] | None = None) -> None:
    form = job_form("benchmarks.steps", __doc__, devices=("cpu", "cuda"), rounds=9)
    form.add_argument("--network", action="append", help=f"may be repeated (default: {', '.join(NETWORKS)})")
    form.add_argument("--no-compile", action="store_true", help="without torch.compile, which takes minutes")
    args = form.parse_args(arguments)
    pin(args.threads, "benchmarks.steps")
    clock = Clock(args.device, args.threads)
    jobs = [
        (
            f"{name}, {mode}, {precision}",
            partial(measure, name, mode, precision, not args.no_compile, clock, args.rounds),
        )
        for name in args.network or NETWORKS
        for mode in MODES
        for precision in PRECISIONS
    ]
    run_jobs("steps", args, clock, jobs, line)


if __name__ == "__main__":
    main()
