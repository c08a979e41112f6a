"""Renames the tensors of the authors' checkpoints to ours.

Their first layer is `conv1` (ResNet) or `features.0` (AlexNet), and the pooling after it `maxpool` or `features.1`;
ours is one module, `stem` or `features.0`. They number AlexNet's layers consecutively; ours keep torchvision's
positions.
"""

import re
from collections.abc import Mapping

import torch
from torch import nn

from stillpoint.core.backbones.alexnet import AlexNet
from stillpoint.core.backbones.resnet import BasicBlock, ResNet
from stillpoint.core.layers.blur import BlurPool2d
from stillpoint.core.layers.complex_modulus import ModulusBatchNorm2d, ModulusBias2d
from stillpoint.core.layers.wavelet_filters import qshift_filters
from stillpoint.core.layers.wavelet_twin import TwinStem, WaveletMixing2d, WaveletTwin2d
from stillpoint.core.runs.foreign import fitted, tensors_of, translate


def from_authors(state: Mapping, net: nn.Module) -> dict[str, torch.Tensor]:
    """The authors' state_dict under our names; `UserError` names missing and unexpected keys.

    `net` is the same network, or its `WaveletTwin2d` or `WaveletMixing2d` alone. `state` may be wrapped (``{"net":
    ...}``, ``module.`` prefixes). What they store and we do not (wavelet and blur filters, the weights of 1 beside a
    bias) is compared with ours and dropped; the running mean, which CMod's norm never uses, is dropped unread.
    """
    paths = authors_paths(net)
    names = {key: _renamed(key, paths) for key in net.state_dict()}
    return fitted(tensors_of(state)[0], names.values(), lambda given: _from_authors(given, net, paths, names))


def _from_authors(
    given: dict[str, torch.Tensor], net: nn.Module, paths: Mapping[str, str], names: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    given = dict(given)
    filters: dict[str, torch.Tensor] = {}
    for path, module in net.named_modules():
        theirs = f"{_renamed(path, paths)}." if path else ""
        if isinstance(module, BlurPool2d):
            filters[f"{theirs}filt"] = module.kernel
        elif isinstance(module, WaveletMixing2d):
            low, high = qshift_filters()
            filters |= {f"{theirs}wpt._hfilters": low, f"{theirs}wpt._gfilters": high}
        elif isinstance(module, ModulusBias2d):
            filters[f"{theirs}weight"] = torch.ones(1, 1, 1)
        elif isinstance(module, ModulusBatchNorm2d):
            given.pop(f"{theirs}running_mean", None)
    found = translate(given, names, filters=filters)
    return {key: _shaped(found[key], own, names[key]) for key, own in net.state_dict().items()}


def authors_paths(net: nn.Module) -> dict[str, str]:
    """Our path -> the authors' path, for every module or parameter whose path differs."""
    if isinstance(net, WaveletMixing2d):
        return _mixing(net, "", "")
    if isinstance(net, WaveletTwin2d):
        return _first(net, "", "")
    if isinstance(net, ResNet):
        return _resnet(net) | (_stem(net.stem, "stem.", "conv1", "maxpool") if isinstance(net.stem, TwinStem) else {})
    if isinstance(net, AlexNet):
        stem = net.features[0]
        twin = _stem(stem, "features.0.", "features.0", "features.1") if isinstance(stem, TwinStem) else {}
        return _alexnet(net) | twin
    raise ValueError(f"the authors' code has no {type(net).__name__}")


def _mixing(module: WaveletMixing2d, ours: str, theirs: str) -> dict[str, str]:
    found = {f"{ours}colour": f"{theirs}colormix.weight"}
    for i in range(len(module.mixing)):
        found[f"{ours}mixing.{i}"] = f"{theirs}featmapmix.{i}.weight"
        found[f"{ours}biases.{i}"] = f"{theirs}featmapmix.{i}.bias"
    return found


def _first(module: WaveletTwin2d, ours: str, theirs: str) -> dict[str, str]:
    found = {f"{ours}free": f"{theirs}freeconv", f"{ours}wavelet": f"{theirs}wptblock"}
    return found | _mixing(module.wavelet, f"{ours}wavelet.", f"{theirs}wptblock.")


def _stem(stem: TwinStem, ours: str, first: str, rest: str) -> dict[str, str]:
    found = _first(stem.first, f"{ours}first.", f"{first}.")
    found |= {f"{ours}joint": rest, f"{ours}low": f"{rest}.low", f"{ours}high": f"{rest}.high"}
    for path, module in stem.named_modules():
        if isinstance(module, ModulusBatchNorm2d | ModulusBias2d):
            # they subsample in a separate module before the modulus
            found[f"{ours}{path}"] = f"{rest}.high.2"
            found[f"{ours}{path}.running_energy"] = f"{rest}.high.2.running_var"
    return found


def _renamed(key: str, paths: Mapping[str, str]) -> str:
    """`key` with its longest known prefix replaced."""
    head = key
    while head:
        if head in paths:
            return paths[head] + key[len(head) :]
        head = head.rpartition(".")[0]
    return key


def _shaped(theirs: torch.Tensor, own: torch.Tensor, name: str) -> torch.Tensor:
    """`theirs` without the axes of length one that their 1x1 convolutions have and ours lack."""
    if theirs.shape == own.shape:
        return theirs
    if re.search(r"(^|\.)(featmapmix\.\d+|colormix)\.weight$", name) and theirs.numel() == own.numel():
        return theirs.reshape(own.shape)
    return theirs


def _resnet(net: ResNet) -> dict[str, str]:
    found: dict[str, str] = {}
    for path, module in net.named_modules():
        if getattr(module, "pool", None) is None:
            continue
        if path.endswith(".downsample"):
            found |= {f"{path}.pool": f"{path}.0", f"{path}.0": f"{path}.1", f"{path}.1": f"{path}.2"}
        else:
            last = "conv2" if isinstance(module, BasicBlock) else "conv3"
            found |= {f"{path}.pool": f"{path}.{last}.0", f"{path}.{last}": f"{path}.{last}.1"}
    return found


def _alexnet(net: AlexNet) -> dict[str, str]:
    """Our path -> theirs: their list is ours with groups at one position flattened; a twin stem takes two positions."""
    found: dict[str, str] = {}
    number = 0
    for position, module in enumerate(net.features):
        if isinstance(module, TwinStem):
            number = 2
        elif isinstance(module, nn.Sequential):
            for inner in range(len(module)):
                found[f"features.{position}.{inner}"] = f"features.{number}"
                number += 1
        elif not isinstance(module, nn.Identity):
            found[f"features.{position}"] = f"features.{number}"
            number += 1
    return found
