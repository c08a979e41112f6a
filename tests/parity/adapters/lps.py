"""Cases of learnable polyphase sampling: layers, networks, training, schedules, losses and metrics."""

import re
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillpoint.core.backbones.phase_control import record_grids
from stillpoint.core.layers.gumbel import set_tau
from stillpoint.core.layers.learnable_polyphase import LearnablePolyphaseDownsample2d
from stillpoint.core.layers.learnable_upsample import LearnablePolyphaseUpsample2d
from stillpoint.pipelines.lps.models import classifier, sampling, scorer_parameters, segmenter
from stillpoint.pipelines.lps.weights import from_authors, network_name
from tests.parity import parity
from tests.parity.adapters import lps_layers, lps_protocol
from tests.parity.adapters.lps_layers import PADDINGS, SCORERS, turned

ARCHITECTURES = {
    "ResNet18Custom": "resnet18",
    "ResNet50Custom": "resnet50",
    "ResNet101Custom": "resnet101",
    "basic": "basic",
}
#: where the authors' table of widths speaks of -> channels that are scored there
PLACES = {"maxpool": 64, "layer2": 128, "layer3": 256, "layer4": 512}
METHODS = {
    "LPS": "lps",
    "lps": "lps",
    "max_2_norm": "aps",
    "Decimation": "decimation",
    "decimation": "decimation",
    "avgpool": "average",
    "skip": None,
}
#: two scores nearer than this are a tie, of which the reference may have kept either
TIE = 2e-5


def is_network(case: dict[str, Any]) -> bool:
    return not lps_layers.is_layer(case) and not lps_protocol.knows(case)


def run(case: dict[str, Any]) -> dict[str, Tensor]:
    if lps_layers.is_layer(case):
        return lps_layers.run_layer(case)
    if lps_protocol.knows(case):
        return lps_protocol.run(case)
    if "deeplab" in case["model"]:
        return _segment(case)
    if "loss_step0" in case["outputs"]:
        return _train(case)
    return _forward(case)


def tolerance(case: dict[str, Any], name: str) -> float | None:
    if lps_layers.gradient_is_noise(name):
        # nothing but rounding: to be as small as that, in absolute numbers
        want = case["outputs"][name]
        return float(1e-6 / want.abs().max().clamp_min(1e-30)) if want.numel() else None
    if name.startswith("gap"):
        # a difference of two scores, each of which may be off by 1e-6
        return max(1e-4, float(2e-6 / case["outputs"][name].abs().max()))
    if name.startswith(("after_first8", "loss_step1")):
        return 2e-3
    return lps_protocol.tolerance(case, name)


def network(case: dict[str, Any]) -> nn.Module:
    """Our network for a case, with the case's weights, in evaluation mode; KeyError for what is not known."""
    kwargs = dict(case["kwargs"])
    kwargs.pop("input")
    arch = ARCHITECTURES[kwargs.pop("name", case["model"])]
    padding, width = kwargs.pop("padding", "circular"), kwargs.pop("logits_channels", None)
    options: dict[str, Any] = {
        "imagenet": not kwargs.pop("cifar", True),
        "num_classes": kwargs.pop("nc", 10),
        "conv_padding": PADDINGS.get(padding, padding),
        "strided_stem": kwargs.pop("conv1_stride", False),
        "filtered_stem": not kwargs.pop("maxpool_no_antialias", True),
        "max_pool_margin": "zeros" if kwargs.pop("maxpool_zpad", False) else "circular",
        "sample_after_convolution": kwargs.pop("swap_conv_pool", False),
    }
    kind = METHODS[kwargs.pop("method", kwargs.pop("pool_method", kwargs.pop("pooling", "LPS")))]
    filtered = {name: kwargs.pop(name) for name in ("aa", "size", "group", "aa_pad", "filter_pad") if name in kwargs}
    fill: dict[str, Any] = lps_layers.filter_options(filtered)
    fill["select"] = "before_blur" if kwargs.pop("noaa", False) else "after_blur"
    scoring: dict[str, Any] = {"extension": "zeros"}
    scoring["scorer"] = SCORERS[kwargs.pop("logits", "LPSLogitLayers")]
    pad = kwargs.pop("pad", kwargs.pop("LPS_pad", "circular"))
    scoring["scorer_padding"] = PADDINGS.get(pad, pad)
    if width:
        scoring["hidden"] = {PLACES[place]: hidden for place, hidden in width.items()}.__getitem__
    if kwargs.pop("train_convex", False):
        scoring["sampling"] = "softmax"
    if kwargs.pop("LPS_convex", kwargs.pop("convex", kwargs.pop("comp_convex", False))):
        scoring["test_sampling"] = "softmax"
    tau = kwargs.pop("tau", 1.0)
    if kwargs:
        raise KeyError(f"{case['model']} is not known to take {sorted(kwargs)}")
    slot = None if kind is None else sampling(kind, **fill, **(scoring if kind == "lps" else {}))
    with parity.Undrawn():
        net = classifier(arch, slot, **options)
    net.load_state_dict(from_authors(case["state"], net))
    set_tau(net, tau)
    return net.eval()


@torch.no_grad()
def _forward(case: dict[str, Any]) -> dict[str, Tensor]:
    (x,) = (value for name, value in case["inputs"].items() if re.fullmatch(r"x\d*", name))
    net, wanted = network(case), case["outputs"]
    recorded = [turned(wanted[f"phase{i}"]) for i in range(len(wanted)) if f"phase{i}" in wanted]
    with record_grids(net) as found:
        out = net(x)
    phases = [selection.phase for selection in found]
    if recorded and any(not torch.equal(a, b) for a, b in zip(phases, recorded, strict=True)):
        with record_grids(net, force=recorded) as found:
            out = net(x)
        phases = [_settled(s.scores, s.phase) for s in found]
    outputs = {"out": F.log_softmax(out, 1)}
    for number, (phase, selection) in enumerate(zip(phases, found, strict=True)):
        best = selection.scores.topk(2, 1).values
        outputs |= {f"phase{number}": turned(phase), f"gap{number}": best[:, 0] - best[:, 1]}
    return outputs


def _segment(case: dict[str, Any]) -> dict[str, Tensor]:
    """A DeepLabV3+ over the ImageNet ResNet of its name."""
    kwargs = case["kwargs"]
    depth = len({found[1] for name in case["state"] if (found := re.search(r"\.layer3\.(\d+)\.", name))})
    arch = {2: "resnet18", 6: "resnet50", 23: "resnet101"}[depth]
    size, width = kwargs.get("filter", kwargs.get("size", 1)), kwargs.get("logits_channels")
    aa = kwargs.get("aa", "LowPassFilter" if size > 1 else None)
    options = lps_layers.filter_options({"aa": aa, "size": size, "group": kwargs.get("group", 8)})
    hidden = {PLACES[place]: h for place, h in width.items()}.__getitem__ if width else None
    padding = kwargs.get("padding", "circular")
    backbone = classifier(
        arch,
        sampling("lps", hidden=hidden, extension="zeros", **options),
        imagenet=True,
        conv_padding=PADDINGS.get(padding, padding),
    )
    scale = kwargs.get("unpool_scale", kwargs.get("filter_scale", 1))
    net = segmenter(
        backbone,
        num_classes=kwargs["classes"],
        upsample=partial(LearnablePolyphaseUpsample2d, gain=scale**2, **options) if "unpool" in case["model"] else None,
        rates={16: (6, 12, 18), 8: (12, 24, 36)}[kwargs.get("output_stride", 16)],
        conv_padding=kwargs.get("classifier_padding_mode", "circular"),
        last_rate_padding="zeros",
    )
    net.load_state_dict(from_authors(case["state"], net))
    return _segmented(net.eval(), case)


@torch.no_grad()
def _segmented(net: nn.Module, case: dict[str, Any]) -> dict[str, Tensor]:
    (x,) = (value for name, value in case["inputs"].items() if re.fullmatch(r"x\d*", name))
    with record_grids(net) as found:
        out = net(x)
    outputs = {
        "out": out,
        "out_every_24": out[:, :, 5::24, 7::24],
        "out_corner": out[:, :, :6, :6],
        "out_channel_mean": out.double().mean((2, 3)),
        "out_channel_std": out.double().std((2, 3)),
    }
    for number, selection in enumerate(found):
        best = selection.scores.topk(2, 1).values
        outputs |= {f"phase{number}": turned(selection.phase), f"gap{number}": best[:, 0] - best[:, 1]}
    return outputs


def _settled(scores: Tensor, phase: Tensor) -> Tensor:
    """`phase` where its score is a tie with the best one, else the best phase."""
    best, index = scores.max(1)
    return torch.where(best - scores.gather(1, phase[:, None])[:, 0] < TIE, phase, index)


def _train(case: dict[str, Any]) -> dict[str, Tensor]:
    """Steps of SGD with the noise of the case, scorers without weight decay."""
    inputs, net = case["inputs"], network(case).train()
    names = {name: network_name(name, case["state"]) for name in case["state"]}
    rate, momentum = (_number(case["note"], word) for word in ("lr", "momentum"))
    decay = _number(case["note"], "weight decay")
    free = {id(p) for p in scorer_parameters(net)}
    groups = [
        {"params": [p for p in net.parameters() if id(p) not in free], "weight_decay": decay},
        {"params": scorer_parameters(net), "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=momentum)
    layers = [m for m in net.modules() if isinstance(m, LearnablePolyphaseDownsample2d) and m.chooses]
    outputs: dict[str, Tensor] = {}
    for step in range(sum(name.startswith("x_step") for name in inputs)):
        given = [inputs[f"gumbel_step{step}_layer{i}"] for i in range(len(layers))]
        with _noise(layers, given):
            out = F.log_softmax(net(inputs[f"x_step{step}"]), 1)
        loss = F.nll_loss(out, inputs[f"label_step{step}"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        outputs |= {f"out_step{step}": out.detach(), f"loss_step{step}": loss.detach()}
    state = net.state_dict()
    for theirs, ours in names.items():
        if ours in state:
            outputs[f"after_norm_{theirs}"] = state[ours].double().norm()
            outputs[f"after_first8_{theirs}"] = state[ours].flatten()[:8]
    return outputs


class _noise:
    """Hands the noise of a case to the layers of a network, in the order of execution."""

    def __init__(self, layers: list[LearnablePolyphaseDownsample2d], given: list[Tensor]) -> None:
        self.handles, left = [], iter(given)

        def hand(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            return args, {**kwargs, "noise": turned(next(left))}

        self.handles = [layer.register_forward_pre_hook(hand, with_kwargs=True) for layer in layers]

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


def _number(note: str, word: str) -> float:
    found = re.search(rf"{word} ([\d.e+-]*\d)", note)
    if found is None:
        raise KeyError(f"the note does not say {word}")
    return float(found[1])
