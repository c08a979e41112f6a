"""Wavelet twins of Leterme et al.: transform, first layer, networks, pooling, training, evaluation; on their names."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from stillpoint.core.backbones.alexnet import AlexNet
from stillpoint.core.backbones.resnet import ResNet
from stillpoint.core.data.shifted_crops import one_crop, shifted_crops, ten_crops
from stillpoint.core.layers.adaptive_blur import AdaptiveBlur2d
from stillpoint.core.layers.blur import BlurPool2d
from stillpoint.core.layers.complex_modulus import ModulusBatchNorm2d
from stillpoint.core.layers.wavelet_filters import qshift_filters
from stillpoint.core.layers.wavelet_packets import wavelet_packets2d
from stillpoint.core.layers.wavelet_twin import TwinStem, WaveletTwin2d
from stillpoint.core.metrics.accuracy import topk_accuracy
from stillpoint.core.metrics.divergence import shift_divergence
from stillpoint.core.metrics.flip_rate import flip_rates
from stillpoint.pipelines.wavelet_twins.catalogue import ARCHITECTURES
from stillpoint.pipelines.wavelet_twins.models import (
    first_layer,
    mixing_weights,
    modulus_activation,
    network,
    normalised_pool,
    rectified_pool,
    twin,
)
from stillpoint.pipelines.wavelet_twins.penalty import concentration, penalty, row_gradients
from stillpoint.pipelines.wavelet_twins.weights import from_authors
from tests.parity import parity

Case = dict[str, Any]
Outputs = dict[str, Tensor]

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
#: what ten crops are cut from, by their size (authors' code)
TEN_CROPS_RESIZE = {224: 256, 32: 36}


def is_network(case: Case) -> bool:
    return case["model"] in ARCHITECTURES


def tolerance(case: Case, name: str) -> float | None:
    if name == "sum" and case["model"] == "WptBlock.resulting_kernel":
        # the kernels are band-pass, so these sums are nothing but the rounding of K * K numbers in float32: what counts
        # is their size beside the sum of magnitudes, which sqrt(K * K * energy) bounds
        side, want = case["outputs"]["kernel_ch0"].shape[-1], case["outputs"]
        return 1e-5 * float(side * want["energy"].max().sqrt() / want["sum"].abs().max())
    return None


def run(case: Case) -> Outputs:
    if is_network(case):
        return train_step(case) if "loss" in case["outputs"] else classifier(case)
    return KINDS[case["model"]](case)


def built(case: Case) -> nn.Module:
    kwargs = case["kwargs"]
    # every case of theirs is in colour
    with parity.Undrawn():
        net = network(case["model"], kwargs["config"] or "", num_classes=kwargs["num_classes"])
    net.load_state_dict(from_authors(case["state"], net))
    return net.eval()


def stem_parts(net: nn.Module) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The first layer at full stride, as theirs gives it, and the whole stem."""
    if isinstance(net, ResNet):
        if isinstance(net.stem, TwinStem):
            return net.stem.first, net.stem
        return net.conv1, nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    assert isinstance(net, AlexNet)
    features = net.features
    first = features[0].first if isinstance(features[0], TwinStem) else features[0]
    return first, features[:3]


@torch.no_grad()
def classifier(case: Case) -> Outputs:
    net, x = built(case), case["inputs"]["x"]
    outputs = {"logits": net(x)}
    for name, layer in zip(("conv1", "stem"), stem_parts(net), strict=True):
        y = layer(x)
        outputs |= {f"{name}_mean": y.mean((2, 3)), f"{name}_corner": y[:1, :, :2, :2]}
    return outputs


def train_step(case: Case) -> Outputs:
    kwargs, x = case["kwargs"], case["inputs"]["x"]
    dtype = getattr(torch, kwargs["dtype"])
    net = built(case).to(dtype).train()
    weights = mixing_weights(net)
    loss = F.cross_entropy(net(x.to(dtype)), torch.arange(len(x)) % kwargs["num_classes"])
    if kwargs["lambda_params"] is not None:
        loss = loss + penalty(weights, kwargs["lambda_params"])
    loss.backward()
    first = twin(net)
    assert first is not None and first.wavelet.colour.grad is not None
    outputs = {"loss": loss.detach()}
    outputs |= {f"grad_linf{i}": rows for i, rows in enumerate(row_gradients(weights))}
    colour = first.wavelet.colour.grad
    outputs["grad_colormix"] = colour.view(1, -1, 1, 1) if colour.ndim == 1 else colour[:, :, None, None]
    last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    for name, parameter in last.named_parameters():
        assert parameter.grad is not None
        outputs[f"grad_fc_{name}"] = parameter.grad
    for module in net.modules():
        if isinstance(module, ModulusBatchNorm2d):
            outputs["new_high_running_var"] = module.running_energy
    return outputs


def given_first_layer(case: Case) -> WaveletTwin2d:
    layer = first_layer(case["kwargs"]["arch"], case["kwargs"]["config"])
    layer.load_state_dict(from_authors(case["state"], layer))
    return layer


@torch.no_grad()
def hybrid(case: Case) -> Outputs:
    layer, x = given_first_layer(case), case["inputs"]["x"]
    return {"y": layer(x), "wptblock": layer.wavelet(x).flatten(1, 2), "freeconv": layer.free(x)}


@torch.no_grad()
def wavelet_block(case: Case) -> Outputs:
    block = first_layer(case["kwargs"]["arch"], case["kwargs"]["config"]).wavelet
    block.load_state_dict(from_authors(case["state"], block))
    block.scramble_nonsquare = True
    return {"y": block(case["inputs"]["x"]).flatten(1, 2)}


@torch.no_grad()
def kernels(case: Case) -> Outputs:
    kernel = given_first_layer(case).wavelet.kernel().flatten(0, 1)
    channels = case["outputs"]["channels"]  # which ones were kept, so part of the question
    return {
        "kernel_ch0": kernel[channels, 0],
        "channels": channels,
        "sum": kernel.sum((2, 3)),
        "energy": kernel.square().sum((2, 3)),
    }


def transform(case: Case) -> Outputs:
    kwargs, x = case["kwargs"], case["inputs"]["x"]
    low, high = qshift_filters()
    for name, ours in (("_hfilters", low), ("_gfilters", high)):
        assert torch.allclose(case["state"][name].double(), ours, atol=1e-7)
    padding = "zeros" if kwargs.get("padding_mode", "zeros") == "zeros" else "valid"
    analytic = kwargs.get("make_analytic", True)
    y = wavelet_packets2d(x, depth=kwargs["depth"], stride=kwargs["stride"], analytic=analytic, padding=padding)
    return {"y": y}


def loaded(module: nn.Module, case: Case, names: dict[str, str] | None = None) -> nn.Module:
    """`module` with the case's state, beginnings of names replaced; filters that we do not store are checked."""
    state = {}
    for name, tensor in case["state"].items():
        ours = next((new + name[len(old) :] for old, new in (names or {}).items() if name.startswith(old)), name)
        if name.endswith("filt"):
            blur = module.get_submodule(name.removesuffix(".filt"))
            assert isinstance(blur, BlurPool2d) and torch.allclose(tensor, blur.kernel.expand_as(tensor))
        elif name == "2.weight" and tensor.ndim == 4:
            assert (tensor == 1).all()  # the frozen weight beside the bias of an AlexNet's modulus
        elif not (names and name.endswith("2.running_mean")):  # there, but never used
            state[ours] = tensor
    module.load_state_dict(state)
    return module.eval()


@torch.no_grad()
def alexnet_pool(case: Case) -> Outputs:
    kwargs = case["kwargs"]
    blurred = kwargs.get("has_blurpool", False)
    module = rectified_pool(kwargs["n_channels"], "blur" if blurred else "none", kwargs.get("blurfilt_size") or 4)
    return {"y": loaded(module, case)(case["inputs"]["x"])}


def complex_maps(x: Tensor, stride: int) -> Tensor:
    return x[..., ::stride, ::stride].unflatten(1, (-1, 2))


MODULUS = {"2.running_var": "1.running_energy", "2.": "1."}


@torch.no_grad()
def alexnet_modulus(case: Case) -> Outputs:
    module = loaded(modulus_activation(case["kwargs"]["n_channels"], norm=False), case, MODULUS)
    return {"y": module(complex_maps(case["inputs"]["x"], case["kwargs"]["stride"]))}


@torch.no_grad()
def resnet_pool(case: Case) -> Outputs:
    kwargs, x = case["kwargs"], case["inputs"]["x"]
    if kwargs["which"] == "mod":
        module = loaded(modulus_activation(kwargs["n_channels"], norm=True), case, MODULUS)
        return {"y": module(complex_maps(x, 2))}
    kind = {("max", False): "none", ("maxblur", False): "blur", ("maxblur", True): "adaptive_blur"}
    pooling = kind[kwargs["which"], kwargs.get("use_adaptive_blurpool", False)]
    module = normalised_pool(kwargs["n_channels"], pooling, kwargs.get("blurfilt_size") or 3)  # type: ignore[arg-type]
    return {"y": loaded(module, case)(x)}


@torch.no_grad()
def adaptive_blur(case: Case) -> Outputs:
    kwargs = case["kwargs"]
    module = AdaptiveBlur2d(
        kwargs["in_channels"], kwargs["stride"], size=kwargs["kernel_size"], groups=kwargs["group"], normalise="joint"
    )
    return {"y": loaded(module, case)(case["inputs"]["x"])}


def modulus_norm(case: Case) -> Outputs:
    training = case["kwargs"].get("mode", "eval") == "train"
    module = ModulusBatchNorm2d(case["kwargs"]["num_features"])
    state = {name: tensor for name, tensor in case["state"].items() if name != "running_mean"}
    module.load_state_dict({"running_energy" if n == "running_var" else n: t for n, t in state.items()})
    module.train(training)
    x = case["inputs"]["x"].requires_grad_()
    y = module(x)
    outputs = {"y": y.detach(), "new_running_var": module.running_energy}
    outputs["new_running_mean"] = case["state"]["running_mean"]  # theirs never moves, ours does not exist
    if "g" in case["inputs"]:
        (y * case["inputs"]["g"]).sum().backward()
        outputs |= {"grad_x": x.grad, "grad_weight": module.weight.grad, "grad_bias": module.bias.grad}
    return outputs


def penalised_loss(case: Case) -> Outputs:
    weights = [nn.Parameter(weight.flatten(1)) for weight in case["state"].values()]
    term = penalty(weights, case["kwargs"]["lambda_params"])
    term.backward()
    entropy = F.cross_entropy(case["inputs"]["logits"], case["inputs"]["target"])
    outputs = {"total": (entropy + term).detach(), "ce": entropy, "penalty": term.detach()}
    for i, (weight, shape) in enumerate(zip(weights, case["state_shapes"].values(), strict=True)):
        assert weight.grad is not None
        outputs |= {f"term{i}": concentration(weight).detach(), f"grad{i}": weight.grad.reshape(shape)}
    return outputs


def divergence(case: Case) -> Outputs:
    values = shift_divergence(2 * case["inputs"]["z"])
    return {"kldiv": values, "score": values.mean(0)}


def flip_rate(case: Case) -> Outputs:
    predicted = case["inputs"]["z"].cumsum(1).argmax(-1)
    rates = {f"mfr_max{n}": flip_rates(predicted, n) for n in case["kwargs"]["max_step_size"]}
    return {"ypred": predicted, **rates}


def ten_crop_accuracy(case: Case) -> Outputs:
    probabilities = case["inputs"]["z"].softmax(-1).mean(1)
    return {"prob": probabilities, "acc": topk_accuracy(probabilities, case["inputs"]["y"], case["kwargs"]["tops"])}


def picture(case: Case) -> Image.Image:
    return Image.fromarray((255 * case["inputs"]["img"].numpy()).astype("uint8"))


def normalised(views: Tensor) -> Tensor:
    return (views.float() / 255 - MEAN[:, None, None]) / STD[:, None, None]


def sampled(views: Tensor) -> Outputs:
    """What a case keeps of large images."""
    return {
        "shape": torch.tensor(views.shape),
        "corner": views[..., :4, :4],
        "grid": views[..., ::16, ::16],
        "mean": views.mean((-2, -1)),
    }


def prepared(views: Tensor, case: Case) -> Tensor:
    return normalised(views) if case["kwargs"].get("normalize", True) else views.float() / 255


def centre_view(case: Case) -> Outputs:
    return sampled(prepared(one_crop(picture(case), case["kwargs"]["size"]), case)[0])


def ten_views(case: Case) -> Outputs:
    size = case["kwargs"]["size"]
    return sampled(prepared(ten_crops(picture(case), size, resize=TEN_CROPS_RESIZE[size]), case))


def shifted_views(case: Case) -> Outputs:
    kwargs = case["kwargs"]
    views = shifted_crops(
        picture(case),
        kwargs["size"],
        max_shift=kwargs["max_shift"],
        divide=kwargs["pixel_divide"],
        direction=kwargs["shift_direction"] or "all",
    )
    return {
        "shape": torch.tensor(views.shape),
        "patches_uint8": views,
        "corner_uint8": views[..., :6, :6],
        "grid_uint8": views[..., ::32, ::32],
        "mean": (views.float() / 255).mean((-2, -1)),
    }


KINDS: dict[str, Callable[[Case], Outputs]] = {
    "DtCwpt2d": transform,
    "HybridConv2dWpt": hybrid,
    "WptBlock": wavelet_block,
    "WptBlock.resulting_kernel": kernels,
    "alexnet _get_maxpool": alexnet_pool,
    "alexnet _get_modulus": alexnet_modulus,
    "activation_pooling": resnet_pool,
    "Downsample_PASA_group_softmax": adaptive_blur,
    "BatchNormOnGaborModulus2d": modulus_norm,
    "_L1RegCrossEntropyLoss": penalised_loss,
    "kldiv": divergence,
    "mean_flip_rate": flip_rate,
    "tencrops+top_N": ten_crop_accuracy,
    "get_transform(onecrop)": centre_view,
    "get_transform(tencrops)": ten_views,
    "get_transform(shifts)": shifted_views,
}
