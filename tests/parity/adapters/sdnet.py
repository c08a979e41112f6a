"""Cases of SDNet: its layers, its networks and their inverses, and the corruptions of CIFAR-10-C."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillpoint.core.data.corruptions import apply_seeded
from stillpoint.core.layers.linear_maps import repeated
from stillpoint.core.layers.sparse_coding import SparseCoding1d, SparseCoding2d, sparse_coding1d, sparse_coding2d
from stillpoint.pipelines.sdnet.config import Model
from stillpoint.pipelines.sdnet.models import build, sparse_layers
from stillpoint.pipelines.sdnet.reconstruction import encode, equalised, layers_up_to, reconstruct, stretched
from stillpoint.pipelines.sdnet.weights import from_authors
from tests.parity import parity

STATISTICS = {
    "cifar": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
LAYERS = {"DictBlock (csc_layer)", "MatrixSparseCodingLayer (msc_layer)"}


def is_network(case: dict[str, Any]) -> bool:
    return case["model"] not in LAYERS and not case["model"].startswith("CIFAR-10-C")


def run(case: dict[str, Any]) -> dict[str, Tensor]:
    model = case["model"]
    if model == "DictBlock (csc_layer)":
        return _images(case)
    if model == "MatrixSparseCodingLayer (msc_layer)":
        return _vectors(case)
    if model.startswith("CIFAR-10-C "):
        return _corruption(case)
    if model.endswith(" generate_x"):
        return _inverse(case)
    return _network(case)


def _corruption(case: dict[str, Any]) -> dict[str, Tensor]:
    kwargs, images = case["kwargs"], case["inputs"]["x"].numpy()
    # the reference restarts its generator before every single image
    seeds = np.full(len(images), kwargs["seed"] or 0)

    def made(**options: str) -> Tensor:
        severities = [apply_seeded(images, kwargs["corruption"], s, seeds, **options) for s in kwargs["severities"]]
        return torch.from_numpy(np.stack(severities, axis=1))

    got = {"y": made()}
    if "y_opencv5" in case["outputs"]:
        got["y_opencv5"] = made(arithmetic="float")
    return got


def tolerance(case: dict[str, Any], output: str) -> float | None:
    # pictures are compared byte for byte: one level in 255 is far more than this
    return 1e-9 if case["model"].startswith("CIFAR-10-C ") else None


def _options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword options of both layers from the authors' names; a name that is not known is a KeyError."""
    known = {
        "n_steps": "iterations",
        "lmbd": "penalty",
        "mu": "ridge",
        "non_negative": "nonnegative",
        "square_noise": "squared",
        "w_norm": "normalise",
        "ADAPTIVELAMBDA": "adaptive_penalty",
        "n_dict": "expansion",
        "stride": "stride",
        "padding": "padding",
    }
    # the last four do nothing in the authors' code
    elsewhere = {"n_channel", "dict_size", "kernel_size", "lmbd_at_test"}
    elsewhere |= {"share_weight", "step_size_fixed", "pad_mode", "PAD_MODE"}
    return {known[name]: value for name, value in kwargs.items() if name not in elsewhere}


def _images(case: dict[str, Any]) -> dict[str, Tensor]:
    kwargs, inputs = case["kwargs"], case["inputs"]
    options = _options(kwargs)
    layer = SparseCoding2d(kwargs["n_channel"], kwargs["dict_size"], kwargs["kernel_size"], **options).train()
    with torch.no_grad():
        layer.weight.copy_(case["state"]["weight"])
    if layer.normalise:
        layer.normalise_()
    x = inputs["x"].requires_grad_()
    if "v0" not in inputs:  # before any measurement: the step size as it is stored
        z = sparse_coding2d(x, layer.dictionary(), step=case["state"]["step_size"], **_functional(options))
        residual, cost = layer.losses(x, z)
        got = {"z": z, "r_loss": residual.sum(), "c_loss": cost.sum(), "weight_after": layer.weight}
        return {name: value.detach() for name, value in got.items()}
    layer.eigenvector = inputs["v0"]
    layer.update_step_size(x)
    layer.measure = False  # once, before the forward, as the authors do
    layer.penalty = kwargs.get("lmbd_at_test", layer.penalty)
    z = layer(x)
    residual, cost = layer.losses(x, z)
    step, penalty = layer.step_size, layer.effective_penalty(x)
    shrink = 1 / (1 + kwargs["mu"] * step)
    got = {
        "z": z,
        "xhat": layer.reconstruct(z, (x.shape[2], x.shape[3])),
        "r_loss": residual.sum(),
        "c_loss": cost.sum(),
        "step_size": step,
        "weight_after": layer.weight.detach().clone(),
        "lambda_max": 0.9 / step,
        "threshold": penalty * step,
        "scaling_mu": shrink,
        "lmbd_after": torch.tensor(penalty),
        "v_max_after": layer.eigenvector,
    }
    if "up" in inputs:
        got |= _two_training_steps(layer, x, z, inputs["up"])
    return {name: value.detach() for name, value in got.items()}


def _two_training_steps(layer: SparseCoding2d, x: Tensor, z: Tensor, up: Tensor) -> dict[str, Tensor]:
    names = ("grad_x", "grad_weight")
    got = dict(zip(names, torch.autograd.grad((z * up).sum(), (x, layer.weight), retain_graph=True), strict=True))
    residual, cost = layer.losses(x, z)
    gradients = torch.autograd.grad(residual.sum() + cost.sum(), (x, layer.weight))
    got |= {f"{name}_losses": gradient for name, gradient in zip(names, gradients, strict=True)}
    with torch.no_grad():
        layer.weight.sub_(0.1 * got["grad_weight"])
    got["weight_step1_before_norm"] = layer.weight.detach().clone()
    layer.measure = True
    got["z_step1"] = layer(x)  # measures the new dictionary from the last eigenvector, then normalises
    got["step_size_step1"], got["weight_step1_after_norm"] = layer.step_size, layer.weight
    return got


def _functional(options: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in options.items() if name not in ("normalise", "adaptive_penalty", "expansion")
    }


def _vectors(case: dict[str, Any]) -> dict[str, Tensor]:
    kwargs, inputs = case["kwargs"], case["inputs"]
    options = _options(kwargs)
    layer = SparseCoding1d(kwargs["n_channel"], kwargs["dict_size"], **options).train()
    with torch.no_grad():
        layer.weight.copy_(case["state"]["weight"])
    x = inputs["x"].requires_grad_()
    if "up" in inputs:
        layer.eigenvector = inputs["v0"]
        code, step = layer(x), layer.step_size
    else:  # the authors' evaluation: the dictionary and the step size exactly as they are stored
        step = case["state"]["step_size"]
        code = sparse_coding1d(x, layer.weight, step=step, **_functional(options))
        layer.normalise = False
    residual, cost = layer.losses(x, code)
    reconstruction = layer.reconstruct(code)
    got = {
        "c": code,
        "xhat": reconstruction,
        "r": (repeated(x, reconstruction.shape[-1], -1) - reconstruction).flatten(0, -2),
        "r_loss": residual.sum(),
        "c_loss": cost.sum(),
        "step_size": step,
        "weight_after": layer.weight,
    }
    if "up" in inputs:
        got["v_max_after"] = layer.eigenvector
        got["grad_x"], got["grad_weight"] = torch.autograd.grad((code * inputs["up"]).sum(), (x, layer.weight))
    return {name: value.detach() for name, value in got.items()}


def _build(case: dict[str, Any]) -> nn.Module:
    kwargs = case["kwargs"]
    name = case["model"].removesuffix(" generate_x")
    keys = {
        "shortcut": "SHORTCUT",
        "LAMBDA": "LAMBDA",
        "MU": "MU",
        "NUM_LAYERS": "NUM_LAYERS",
        "EXPANSION_FACTOR": "EXPANSION_FACTOR",
        "ADAPTIVELAMBDA": "ADAPTIVELAMBDA",
        "NONEGATIVE": "NONEGATIVE",
        "WNORM": "WNORM",
        "POOLING": "POOLING",
        "SQUARE_NOISE": "SQUARE_NOISE",
    }
    elsewhere = {"num_classes", "dataset", "hw", "stages"}
    if name.endswith("_all"):  # the authors' *_all networks never hand this one on to their layers
        elsewhere.add("SQUARE_NOISE")
    model = Model.model_validate({"NAME": name, **{keys[k]: v for k, v in kwargs.items() if k not in elsewhere}})
    # the authors' stem follows the name of the data set, whatever the size of the images
    image_size = 32 if "cifar" in kwargs["dataset"] else 224
    with parity.Undrawn():
        net = build(model, in_channels=3, num_classes=kwargs["num_classes"], image_size=image_size)
    net.load_state_dict(from_authors(case["state"], net))
    net.eval()
    vectors = [vector for name, vector in case["inputs"].items() if name.startswith("v0:")]
    for layer, vector in zip(sparse_layers(net).values(), vectors, strict=True):
        # the authors normalise at a first forward of zeros, and measure in evaluation as in training
        if layer.normalise:
            layer.normalise_()
        layer.eigenvector = vector
        layer.train()
    return net


def _network(case: dict[str, Any]) -> dict[str, Tensor]:
    if "loss" in case["outputs"]:
        return training(case, torch.float64)
    net, x = _build(case), case["inputs"]["x"]
    layers, got = sparse_layers(net), {}
    kept: dict[str, Tensor] = {}
    stages = {"layer0": net.stem or net.maxpool, **{name: net.get_submodule(name) for name in net.stages}}
    for name, module in stages.items():
        module.register_forward_hook(lambda _, __, out, name=name: kept.update({name: out}))
    first = next(iter(layers.values()), None)
    codes: list[Tensor] = []
    if first is not None:
        first.register_forward_hook(lambda _, __, out: codes.append(out))
    with torch.no_grad():
        got["logits"] = net(x)
        for layer in layers.values():
            layer.measure = False
        for name, out in kept.items():
            got[f"{name}_mean_std_absmax"] = _statistics(out)
        # of large networks the cases keep the first channels
        got["layer4"] = kept["layer4"][:, : case["outputs"]["layer4"].shape[1]]
        if first is not None:
            got["step_sizes"] = torch.stack([layer.step_size for layer in layers.values()])
            got["layer0_r_loss_c_loss"] = torch.stack([value.sum() for value in first.losses(x, codes[-1])])
        for name in case["outputs"]:
            if name.startswith("logits_lam"):
                first.penalty = float(name.removeprefix("logits_lam"))
                got[name] = net(x)
                losses = [value.sum() for value in first.losses(x, codes[-1])]
                got[name.replace("logits", "r_loss_c_loss")] = torch.stack(losses)
    return got


def _statistics(z: Tensor) -> Tensor:
    return torch.stack([z.mean(), z.std(), z.abs().max()])


def training(case: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """The loss of one step and its gradients, computed in `dtype`.

    A gradient jumps where the input of a ReLU crosses zero. Of the inputs of one that are as near to it as float32
    rounds, either side is right, and the processor's convolutions decide; float64 finds the exact one.
    test_sdnet_adapter.py holds the gradients of float32 to those of float64 on the same sides.
    """
    made = {
        part: {name: value.to(dtype) if value.is_floating_point() else value for name, value in case[part].items()}
        for part in ("state", "inputs")
    }
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return _training(_build({**case, **made}), made["inputs"]["x"].detach().clone(), case["kwargs"])
    finally:
        torch.set_default_dtype(before)


def _training(net: nn.Module, x: Tensor, kwargs: dict[str, Any]) -> dict[str, Tensor]:
    net.train()
    x.requires_grad_()
    first, norm = (net.conv1, net.bn1) if net.stem is None else (net.stem[0], net.stem[1])
    logits = net(x)
    loss = F.cross_entropy(logits, torch.arange(1, 2 * len(x), 2) % kwargs["num_classes"])
    wanted = {"grad_x": x, "grad_dn": first.weight, "grad_linear_bias": net.fc.bias, "grad_bn0_weight": norm.weight}
    got = dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))
    return {"logits": logits.detach(), "loss": loss.detach(), "bn0_running_mean": norm.running_mean, **got}


@torch.no_grad()
def _inverse(case: dict[str, Any]) -> dict[str, Tensor]:
    net, x = _build(case), case["inputs"]["x"]
    family = "imagenet" if "imagenet" in case["kwargs"]["dataset"] else "cifar"
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in STATISTICS[family])
    got = {}
    net(x)
    for layer in sparse_layers(net).values():
        layer.measure = False
    for stage, block in case["kwargs"]["stages"]:
        end = f"{stage}_{block}"
        code, _ = encode(layers_up_to(net, stage, block), x)
        picture = reconstruct(net, x, stage, block, authors=True)
        got[f"z_{end}"], got[f"z_stats_{end}"], got[f"inverse_{end}"] = code, _statistics(code), picture
        top, left = ((side - 32) // 2 for side in picture.shape[2:])
        got[f"inverse_crop_{end}"] = picture[:, :, top : top + 32, left : left + 32]
        got[f"x_norm_{end}"] = stretched(picture * std + mean)
        # Equalisation is a step function, in which 2.9999 and 3.0001 may be 74 levels apart: it is given the
        # reference's own argument, and that argument is compared by itself.
        got[f"x_hist_{end}"] = equalised(case["outputs"].get(f"x_norm_{end}", got[f"x_norm_{end}"]))
    return got
