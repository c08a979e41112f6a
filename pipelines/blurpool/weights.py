"""Renames the tensors of the authors' checkpoints to ours, which have torchvision's names.

Their networks insert a module wherever they blur, which shifts the numbers of its neighbours and adds a buffer `filt`.
Ours keep torchvision's positions, so a torchvision checkpoint needs no renaming.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from stillpoint.core.backbones.alexnet import AlexNet
from stillpoint.core.backbones.densenet import DenseNet
from stillpoint.core.backbones.mobilenet import MobileNetV2
from stillpoint.core.backbones.resnet import BasicBlock, ResNet
from stillpoint.core.backbones.vgg import VGG
from stillpoint.core.layers.adaptive_blur import AdaptiveBlur2d
from stillpoint.core.layers.blur import BlurPool2d
from stillpoint.core.runs.foreign import fitted, tensors_of, translate

FILLINGS = (BlurPool2d, AdaptiveBlur2d)
COUNTER = ".num_batches_tracked"


def from_authors(state: Mapping[str, Any], net: nn.Module) -> dict[str, torch.Tensor]:
    """The authors' state_dict of the same network under our names; `UserError` names missing and unexpected keys.

    `state` may be wrapped (``{"state_dict": ...}``, ``module.`` prefixes, old DenseNet names). Stored `filt` buffers
    are compared with our filters and dropped; they are optional.
    """
    return fitted(tensors_of(state)[0], net.state_dict().keys(), lambda given: _from_authors(_modern(given), net))


def recognised(state: Mapping[str, Any], net: nn.Module) -> dict[str, torch.Tensor]:
    """torchvision's, our or the authors' checkpoint under our names; `UserError` for any other.

    Checkpoints from before torch 0.4 lack the counters of the batch norms, which then start at 0.
    """
    return fitted(tensors_of(state)[0], net.state_dict().keys(), lambda given: _recognised(_modern(given), net))


def _from_authors(given: dict[str, torch.Tensor], net: nn.Module) -> dict[str, torch.Tensor]:
    paths = dict(authors_paths(net))
    names = {key: _renamed(key, paths) for key in net.state_dict()}
    filters = {
        f"{paths[path]}.filt": module.kernel for path, module in net.named_modules() if isinstance(module, BlurPool2d)
    }
    return translate(given, names, filters=filters)


def _recognised(given: dict[str, torch.Tensor], net: nn.Module) -> dict[str, torch.Tensor]:
    own = net.state_dict()
    if not any(name.endswith(COUNTER) for name in given):
        counters = {name: torch.zeros_like(tensor) for name, tensor in own.items() if name.endswith(COUNTER)}
        if given.keys() == own.keys() - counters.keys():
            return given | counters
    return given if given.keys() == own.keys() else _from_authors(given, net)


def authors_paths(net: nn.Module) -> Iterator[tuple[str, str]]:
    """(our path, the authors' path) of every module whose path differs, and of every filling of the slot."""
    if isinstance(net, ResNet):
        yield from _resnet(net)
    elif isinstance(net, AlexNet | VGG):
        yield from _flattened("features", net.features)
    elif isinstance(net, DenseNet):
        yield from _densenet(net)
    elif isinstance(net, MobileNetV2):
        yield from _mobilenet(net)
    else:
        raise ValueError(f"the authors' code has no {type(net).__name__}")


def _modern(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # DenseNets saved before torchvision 0.2 have norm.1 for today's norm1
    old = r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\."
    return {re.sub(old, r"\1\2.", name): tensor for name, tensor in state.items()}


def _renamed(key: str, paths: dict[str, str]) -> str:
    module = key
    while module:
        module = module.rpartition(".")[0]
        if module in paths:
            return paths[module] + key[len(module) :]
    return key


def _resnet(net: ResNet) -> Iterator[tuple[str, str]]:
    for path, module in net.named_modules():
        if path.startswith("maxpool.") and isinstance(module, FILLINGS):
            yield path, path
        if getattr(module, "pool", None) is None:
            continue
        if path.endswith(".downsample"):
            yield f"{path}.pool", f"{path}.0"
            yield f"{path}.0", f"{path}.1"
            yield f"{path}.1", f"{path}.2"
        else:
            last = "conv2" if isinstance(module, BasicBlock) else "conv3"
            yield f"{path}.pool", f"{path}.{last}.0"
            yield f"{path}.{last}", f"{path}.{last}.1"


def _flattened(prefix: str, features: nn.Module) -> Iterator[tuple[str, str]]:
    """Yields (our path, theirs): their list is ours with the groups at one position flattened."""
    leaves = [
        path
        for path, module in features.named_modules()
        if isinstance(module, FILLINGS)
        or (not isinstance(module, nn.Sequential | nn.Identity) and not _inside_filling(path, features))
    ]
    for number, path in enumerate(leaves):
        yield f"{prefix}.{path}", f"{prefix}.{number}"


def _inside_filling(path: str, features: nn.Module) -> bool:
    parents = path.split(".")[:-1]
    return any(isinstance(features.get_submodule(".".join(parents[: i + 1])), FILLINGS) for i in range(len(parents)))


def _densenet(net: DenseNet) -> Iterator[tuple[str, str]]:
    # the stem for small images has no pool
    stem = getattr(net.features, "pool0", None)
    children = stem.named_children() if stem is not None else ()
    fillings = [path for path, module in children if isinstance(module, FILLINGS)]
    for path, theirs in zip(reversed(fillings), ("features.pool0", "features.ds0"), strict=False):
        yield f"features.pool0.{path}", theirs
    for path, module in net.named_modules():
        if path.endswith(".pool") and isinstance(module, FILLINGS):
            yield path, path


def _mobilenet(net: MobileNetV2) -> Iterator[tuple[str, str]]:
    for path, _ in net.named_modules():
        if path.endswith(".pool"):
            block, _, inner = path.removesuffix(".pool").rpartition(".")
            position = int(inner)
            yield path, f"{block}.{position + 1}"
            yield f"{block}.{position + 1}", f"{block}.{position + 2}"
            yield f"{block}.{position + 2}", f"{block}.{position + 3}"
    # they have no dropout before the classifier
    yield "classifier.1", "classifier.0"
