"""Alias-free convnets: the authors' layers and networks by their names, keywords and weights.

Everything is computed in float64 where the case says so; the reference's masks are float32, which holds 0, 0.5 and 1.
"""

import re
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillpoint.core import layers
from stillpoint.core.backbones.convnext import Block, ConvNeXt, Reduction
from stillpoint.core.config.schema import TrainConfig
from stillpoint.core.data.shifts import fourier_shift, roll
from stillpoint.core.layers.resampling import filtering, highest_bin, upsampling
from stillpoint.core.training.schedule import rate
from stillpoint.pipelines.alias_free.grids import translate_bilinear, translation_grid
from stillpoint.pipelines.alias_free.weights import authors_names, from_authors
from tests.parity import parity

PADDINGS = {"circular": "circular", "zero": "zeros", "zeros": "zeros", "reflect": "reflect"}
CUTOFFS = {"quarter": 0.25, "half": 0.5, "three_quarters": 0.75}


def is_network(case: dict[str, Any]) -> bool:
    return case["model"].startswith("ConvNeXt")


def run(case: dict[str, Any]) -> dict[str, Tensor]:
    model = case["model"]
    if is_network(case):
        return _train_step(case) if "loss" in case["outputs"] else _network(case)
    if model.startswith("evaluate"):
        from tests.parity.adapters.alias_free_metrics import run_metric

        return run_metric(case)
    return RUNNERS[model](case)


def activation(name: str | None, kwargs: dict[str, Any], channels: int | None) -> nn.Module:
    """Ours for an activation of the authors' by its name; KeyError for one that does not exist there either."""
    options = dict(kwargs)
    options.pop("transform_mode", None)
    scale = (options.pop("in_scale", 1), options.pop("out_scale", 1))
    made: dict[str, Any] = {"scale": scale, "train_scale": options.pop("train_scale", False), "rule": "authors"}
    if name in ("relu", "gelu"):
        return nn.ReLU() if name == "relu" else nn.GELU()
    if name in ("poly", "up_poly"):
        made["train"], channels = options.pop("trainable", False), None
    if name == "lpf_poly_per_channel":
        made |= {"cutoff": options.pop("cutoff", 0.5), "fixed_size": options.pop("fixed_lpf_size", None) or 0}
    form = {"up": "upsampled", "lpf": "filtered", "poly": "pointwise"}[str(name).split("_")[0]]
    if options:
        raise KeyError(", ".join(options))
    return layers.PolynomialActivation2d(channels, form=form, **made)


def norm(name: str, options: dict[str, Any], channels: int) -> nn.Module:
    if name in ("C", "CHW2"):
        return layers.ChannelNorm2d(channels, divisor="pixel" if name == "C" else "image", **options)
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "instance":
        return nn.InstanceNorm2d(channels)
    groups = options.get("num_groups") or channels // options["channels_per_group"]
    return nn.GroupNorm(groups, channels)


def downsample(kwargs: dict[str, Any], padding: str) -> Any:
    """The factory of the authors' BlurPool by its keywords."""
    if kwargs.get("filter_type", "basic") == "ideal":
        keep = bool(kwargs.get("scale_l2", False))
        return partial(layers.IdealLowPass2d, rule="authors", keep_norm=keep)
    return partial(layers.BlurPool2d, size=kwargs.get("filt_size", kwargs.get("filter_size", 4)), padding=padding)


def network(case: dict[str, Any]) -> ConvNeXt:
    """Our network of a case, without its weights."""
    kwargs = dict(case["kwargs"])
    kind = case["model"]
    options: dict[str, Any] = {
        "depths": kwargs.pop("depths", (3, 3, 9, 3)),
        "widths": kwargs.pop("dims", (96, 192, 384, 768)),
        "num_classes": kwargs.pop("num_classes", 1000),
        "in_channels": kwargs.pop("in_chans", 3),
        "drop_path": kwargs.pop("drop_path_rate", 0.0),
    }
    padding = PADDINGS[kwargs.pop("conv_pad_type", "circular")]
    if kind == "ConvNeXtAFC":
        name, given = kwargs.pop("activation", "gelu"), kwargs.pop("activation_kwargs", {})
        options["activation"] = partial(activation, name, given)
        options["norm"] = partial(norm, kwargs.pop("normalization_type", "C"), kwargs.pop("normalization_kwargs", {}))
        options["downsample"] = downsample(kwargs.pop("blurpool_kwargs", {}), padding)
        mode = kwargs.pop("stem_mode", None)
        name, given = kwargs.pop("stem_activation", None), kwargs.pop("stem_activation_kwargs", {})
        if mode is not None:
            options["stem_activation"] = partial(activation, name, given)
            options["stem_residual"] = mode == "activation_residual"
    elif kind == "ConvNeXtAPS":
        size = kwargs.pop("blurpool_kwargs", {}).get("filt_size", 3)
        options["downsample"] = partial(layers.PolyphaseDownsample2d, size=size, select="after_blur")
        options["stem_steps"] = 2
    elif kind == "ConvNeXt(poly)":
        padding = "zeros"
        options["activation"] = partial(activation, "poly_per_channel", {})
    elif kind == "ConvNeXt":
        padding = "zeros"
    elif kind != "ConvNeXt(circ)":
        raise KeyError(kind)
    for ignored in ("layer_scale_init_value", "head_init_scale", "init_weight_std"):
        kwargs.pop(ignored, None)
    if kwargs:
        raise KeyError(", ".join(kwargs))
    return ConvNeXt(padding_mode=padding, **options)


def loaded(case: dict[str, Any]) -> ConvNeXt:
    """Our network of a case with its weights, in evaluation mode and float64."""
    with parity.Undrawn():
        net = network(case)
    net.load_state_dict(from_authors(case["state"], net))
    return net.double().eval()


@torch.no_grad()
def _network(case: dict[str, Any]) -> dict[str, Tensor]:
    net = loaded(case)
    x = case["inputs"]["x"].double()
    outputs: dict[str, Tensor] = {}

    def keep(module: nn.Module, inputs: Any, y: Tensor, *, stage: int) -> None:
        flat = y[:, :24].flatten(2)
        outputs[f"stage{stage}_mean"], outputs[f"stage{stage}_std"] = flat.mean(2), flat.std(2, correction=0)
        outputs["last_map"] = y

    handles = [stage.register_forward_hook(partial(keep, stage=i)) for i, stage in enumerate(net.stages)]
    outputs["logits"] = net(x)
    for handle in handles:
        handle.remove()
    for name in case["outputs"]:
        if match := re.fullmatch(r"logits_roll_(-?\d+)_(-?\d+)", name):
            outputs[name] = net(roll(x, (int(match[1]), int(match[2]))))
        elif match := re.fullmatch(r"logits_subpixel_up(\d)_(-?\d+)_(-?\d+)", name):
            up, a, b = map(int, match.groups())
            outputs[name] = net(fourier_shift(x, (-a / up, -b / up)))
    outputs["logits_float32"] = net.float()(x.float())
    kept = {name: want.shape[1] for name, want in case["outputs"].items() if name.startswith("logits")}
    return {name: y[:, : kept[name]] if name in kept else y for name, y in outputs.items()}


def _train_step(case: dict[str, Any]) -> dict[str, Tensor]:
    net = loaded(case).train()
    x, labels = case["inputs"]["x"].double(), case["inputs"]["labels"]
    parameters = dict(net.named_parameters())
    ours = [parameters[name] for name in authors_names(case["state"]).values() if name in parameters]
    loss = F.cross_entropy(net(x), labels, label_smoothing=0.1)
    loss.backward()
    decayed = torch.tensor([p.ndim > 1 for p in ours])
    norms = torch.stack([p.grad.norm() for p in ours if p.grad is not None])
    groups = [
        {
            "params": [p for p, decay in zip(ours, decayed, strict=True) if decay == chosen],
            "weight_decay": 0.05 * chosen,
        }
        for chosen in (True, False)
    ]
    torch.optim.AdamW(groups, lr=4e-3, betas=(0.9, 0.999), eps=1e-8).step()
    after = torch.stack([p.detach().norm() for p in ours])
    return {
        "loss": loss.detach(),
        "grad_norm": norms,
        "decayed": decayed,
        "norm_after_step": after,
        "logits_after_step": net(x).detach(),
    }


def _differentiated(case: dict[str, Any], module: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    """The outputs of a layer case; `names` are the authors' names of parameters -> ours."""
    module = module.double()
    shapes = {theirs: case["state"][theirs] for theirs in names}
    state = module.state_dict()
    module.load_state_dict(state | {names[k]: t.reshape(_padded(t, state[names[k]])) for k, t in shapes.items()})
    outputs: dict[str, Tensor] = {}
    tensors = dict(module.named_parameters())
    for name, given in case["inputs"].items():
        if not name.startswith("x"):
            continue
        x = given.double().requires_grad_()
        y = module(x)
        outputs["y" + name[1:]] = y.detach()
        if "cotangent" in case["inputs"]:
            (y * case["inputs"]["cotangent"].double()).sum().backward()
            assert x.grad is not None
            outputs["grad_x"] = x.grad
            for theirs, own in names.items():
                grad = tensors[own].grad if own in tensors else None
                if grad is not None:
                    outputs[f"grad:{theirs}"] = grad.reshape(case["state"][theirs].shape)
    return outputs


def _padded(tensor: Tensor, like: Tensor) -> torch.Size:
    assert tensor.numel() == like.numel()
    return like.shape


def _act(case: dict[str, Any]) -> dict[str, Tensor]:
    kinds = {
        "PolyActPerChannel": "poly_per_channel",
        "UpPolyActPerChannel": "up_poly_per_channel",
        "LPFPolyActPerChannel": "lpf_poly_per_channel",
        "PolyAct": "poly",
        "UpPolyAct": "up_poly",
    }
    kwargs = dict(case["kwargs"])
    module = activation(kinds[case["model"]], kwargs, kwargs.pop("channels", None))
    names = {k: k.split(".")[-1].replace("coef", "coefficients") for k in case["state"]}
    shared = [k for k in case["state"] if k.endswith("coef") and case["state"][k].ndim == 1]
    if shared:
        # theirs takes a fourth coefficient and, one short in its loop, leaves it out
        (key,), length = shared, case["state"][shared[0]].numel()
        cut = {**case, "state": {**case["state"], key: case["state"][key][:3]}}
        outputs = _differentiated(cut, module, names)
        if f"grad:{key}" in outputs:
            outputs[f"grad:{key}"] = F.pad(outputs[f"grad:{key}"], (0, length - 3))
        return outputs
    begin = {name: value.detach().clone() for name, value in module.state_dict().items()}
    outputs = _differentiated(case, module, names)
    if "coef" in case["outputs"]:
        outputs |= {k: begin[ours].reshape(case["state"][k].shape) for k, ours in names.items()}
    return outputs


def _blur_pool(case: dict[str, Any]) -> dict[str, Tensor]:
    kwargs = case["kwargs"]
    padding = PADDINGS[kwargs.get("pad_type", "circular")]
    stride = kwargs.get("stride", 2)
    if kwargs.get("filter_type", "basic") == "ideal" and abs(kwargs.get("cutoff", 1 / stride) * stride - 1) > 1e-9:
        raise KeyError(f"cutoff {kwargs['cutoff']} with a stride of {stride}")
    return _differentiated(case, downsample(kwargs, padding)(kwargs["channels"], stride), {})


def _band_limit(case: dict[str, Any]) -> dict[str, Tensor]:
    options = {"cutoff": case["kwargs"].get("cutoff", 0.5), "fixed_size": case["kwargs"].get("fixed_size") or 0}
    inputs = case["inputs"]
    return {"y" + k[1:]: layers.band_limit2d(x.double(), **options, rule="authors") for k, x in inputs.items()}


def _upsample(case: dict[str, Any]) -> dict[str, Tensor]:
    up = case["kwargs"].get("up", 2)
    rule = "exact" if up == 2 else "authors"
    return {"y" + k[1:]: layers.ideal_upsample2d(x.double(), factor=up, rule=rule) for k, x in case["inputs"].items()}


def _bins(matrix: Tensor, gain: float = 1.0) -> Tensor:
    """What a filter's matrix does to each frequency: the spectrum of its response to the first pixel."""
    return torch.fft.fft(matrix[:, 0].double()).real / gain


def _low_masks(case: dict[str, Any]) -> dict[str, Tensor]:
    found = {}
    for name in case["outputs"]:
        cutoff, n = name.rsplit("_", 1)
        top = highest_bin(int(n), CUTOFFS[cutoff], rule="authors")
        found[name] = _bins(filtering(int(n), top, 1, torch.zeros(1, dtype=torch.float64)))
    return found


def _fixed_masks(case: dict[str, Any]) -> dict[str, Tensor]:
    found = {}
    for name in case["outputs"]:
        size, n = map(int, name.removeprefix("fixed").split("_"))
        top = highest_bin(n, 0.5, fixed_size=size)
        found[name] = _bins(filtering(n, top, 1, torch.zeros(1, dtype=torch.float64)))
    return found


def _up_masks(case: dict[str, Any]) -> dict[str, Tensor]:
    found = {}
    for name in case["outputs"]:
        up, n = map(int, name.removeprefix("up").split("_"))
        found[name] = _bins(upsampling(n, up, True, torch.zeros(1, dtype=torch.float64)), gain=up)
    return found


def _conv(case: dict[str, Any]) -> dict[str, Tensor]:
    kwargs = case["kwargs"]
    weight = case["state"]["1.weight"]
    conv = layers.PaddedConv2d(
        kwargs["in_planes"],
        kwargs["out_planes"],
        weight.shape[-1],
        padding="same",
        groups=kwargs.get("groups", 1),
        padding_mode=PADDINGS[kwargs.get("conv_pad_type", "circular")],
    )
    return _differentiated(case, conv, {"1.weight": "weight", "1.bias": "bias"})


def _norm(case: dict[str, Any]) -> dict[str, Tensor]:
    kwargs = case["kwargs"]
    module = norm(kwargs["normalization_type"], {"eps": kwargs.get("eps", 1e-6)}, kwargs["normalized_shape"])
    return _differentiated(case, module, {name: name for name in case["state"]})


def _block(case: dict[str, Any]) -> dict[str, Tensor]:
    kwargs = case["kwargs"]
    block = Block(
        kwargs["dim"],
        activation=partial(activation, kwargs.get("activation", "gelu"), kwargs.get("activation_kwargs", {})),
        norm=partial(norm, kwargs.get("normalization_type", "C"), {}),
        padding_mode="circular",
        layer_scale=1.0,
    )
    names = {key: ours.removeprefix("stages.0.0.") for key, ours in _under("stages.0.0.", case).items()}
    return _differentiated(case, block, names)


def _stem(case: dict[str, Any]) -> dict[str, Tensor]:
    kwargs = case["kwargs"]
    net = network(
        {
            "model": "ConvNeXtAFC",
            "kwargs": {
                "depths": [1, 1, 1, 1],
                "dims": [kwargs["dim"]] * 4,
                "in_chans": kwargs["in_chans"],
                "normalization_type": "CHW2",
                "blurpool_kwargs": {"filter_type": "ideal"},
                "stem_mode": kwargs["stem_mode"],
                "stem_activation": "lpf_poly_per_channel",
                "stem_activation_kwargs": {"in_scale": 7, "out_scale": 7, "train_scale": True, "cutoff": 0.75},
            },
        }
    )
    stem = net.downsample_layers[0]
    assert isinstance(stem, Reduction)
    prefix = "downsample_layers.0."
    names = {key: ours.removeprefix(prefix) for key, ours in _under(prefix, case).items()}
    return _differentiated(case, stem, names)


def _under(prefix: str, case: dict[str, Any]) -> dict[str, str]:
    """The authors' name in a part of a network -> ours in the whole."""
    whole = authors_names({prefix + key: tensor for key, tensor in case["state"].items()})
    return {key.removeprefix(prefix): ours for key, ours in whole.items()}


def _mlp(case: dict[str, Any]) -> dict[str, Tensor]:
    """Channels last, and on a map twice as fine throughout; ours has the finer map in the activation alone."""
    width = case["kwargs"]["dim"]
    block = Block(
        width,
        activation=partial(activation, "up_poly_per_channel", case["kwargs"]["activation_kwargs"]),
        norm=lambda channels: nn.Identity(),
        padding_mode="circular",
        layer_scale=1.0,
    )
    mlp = nn.Sequential()
    for name in ("pwconv1", "act", "pwconv2"):
        mlp.add_module(name, block.get_submodule(name))
    last = {**case, "inputs": {k: v.permute(0, 3, 1, 2) for k, v in case["inputs"].items()}}
    names = {key: key.replace("coef", "coefficients") for key in case["state"]}
    found = _differentiated(last, mlp, names)
    return {k: v.permute(0, 2, 3, 1) if k in ("y", "grad_x") else v for k, v in found.items()}


def _schedule(case: dict[str, Any]) -> dict[str, Tensor]:
    kwargs = case["kwargs"]
    cosine = TrainConfig(
        lr=kwargs["base"],
        lr_min=kwargs["final"],
        epochs=kwargs["epochs"],
        warmup_epochs=kwargs["warmup_epochs"],
        warmup="before",
        schedule="cosine",
        schedule_per="step",
    )
    steps = TrainConfig(lr=0.1, epochs=5, warmup_epochs=1, warmup="before", schedule="multistep", milestones=(2, 4))
    found = {}
    for name, train, per_epoch in (("lr", cosine, kwargs["steps_per_epoch"]), ("steps", steps, 3)):
        rates = [rate(train, epoch, step, per_epoch) for epoch in range(train.epochs) for step in range(per_epoch)]
        found[name] = torch.tensor(rates, dtype=torch.float64)
    # ours has no schedule of the decay, for theirs goes from 0.05 to 0.05
    decay = TrainConfig(weight_decay=0.05).weight_decay
    return found | {"weight_decay": torch.full((len(found["lr"]),), decay, dtype=torch.float64)}


def _translate(case: dict[str, Any]) -> dict[str, Tensor]:
    found = {}
    for name in case["outputs"]:
        if match := re.fullmatch(r"t_(-?[\d.]+)_(-?[\d.]+)", name):
            by = (float(match[2]), float(match[1]))
            found[name] = translate_bilinear(case["inputs"]["x"], by, rule="authors")
        elif match := re.fullmatch(r"grid_constraint(\d+)_size(\d+)", name):
            found[name] = torch.tensor(translation_grid(int(match[1]), int(match[2])))
    return found


def _subpixel(case: dict[str, Any]) -> dict[str, Tensor]:
    found, x = {}, case["inputs"]["x"].double()
    for name in case["outputs"]:
        up, a, b = map(int, name.removeprefix("up").split("_"))
        found[name] = fourier_shift(x, (-a / up, -b / up))
    return found


RUNNERS = {
    **dict.fromkeys(("PolyActPerChannel", "UpPolyActPerChannel", "LPFPolyActPerChannel", "PolyAct", "UpPolyAct"), _act),
    "BlurPool": _blur_pool,
    "LPF_RFFT": _band_limit,
    "UpsampleRFFT": _upsample,
    "create_lpf_rect": _low_masks,
    "create_fixed_lpf_rect": _fixed_masks,
    "create_recon_rect": _up_masks,
    "conv2x2": _conv,
    "conv4x4": _conv,
    "conv7x7": _conv,
    "LayerNorm(C)": _norm,
    "LayerNorm(CHW2)": _norm,
    "Block": _block,
    "stem": _stem,
    "subpixel_shift": _subpixel,
    "AALMLP": _mlp,
    "cosine_scheduler, lr_steps_scheduler": _schedule,
    "spatial.transform": _translate,
}
