"""Renames the tensors of the authors' checkpoints to ours.

In their blocks a sampling layer and the convolution after it are one Sequential (``conv2.0``, ``conv2.1``); ours keep
torchvision's names, and the layer is the block's ``pool``. Their shortcuts hold an unused temperature.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from stillpoint.core.backbones.deeplab import DeepLabV3Plus
from stillpoint.core.base.errors import UserError
from stillpoint.core.layers.blur import BlurPool2d
from stillpoint.core.runs.foreign import fitted, tensors_of, translate

#: names within a sampling layer: theirs -> ours
_LAYER = (
    (r"component_selection\.gumbel_tau$", "tau"),
    (r"component_selection\.get_logits\.", "scorer."),
    (r"_antialias_layer\.filt$", "filter.kernel"),
    (r"_antialias_layer\.", "filter."),
    (r"scorer\.perceptron\.", "scorer.conv."),
    (r"scorer\.input_conv\.0\.", "scorer.conv1."),
    (r"scorer\.edge_network\.0\.", "scorer.edge.0."),
    (r"scorer\.edge_network\.2\.", "scorer.edge.1."),
    (r"scorer\.out_network\.0\.", "scorer.node.0."),
    (r"scorer\.out_network\.2\.", "scorer.node.1."),
    (r"scorer\._(phi|psi|beta)\.0\.", r"scorer.\1.conv1."),
    (r"scorer\._(phi|psi|beta)\.[12]\.", r"scorer.\1.bn."),
    (r"scorer\._(phi|psi|beta)\.3\.", r"scorer.\1.conv2."),
)
_PARTS = r"component_selection\.|_antialias_layer\."
#: the authors' position in the ImageNet stem -> ours, with a sampling layer before the max-pool (True) and without
_STEM = {True: {"0": "0", "3": "2"}, False: {"2": "1"}}


def layer_name(name: str) -> str:
    """Our name for a tensor of the authors' sampling layer; ``filter.kernel`` for a fixed filter."""
    for theirs, ours in _LAYER:
        name = re.sub(theirs, ours, name)
    return name


def network_name(name: str, given: Mapping[str, Any]) -> str:
    """Our name for a tensor of the authors' network; `given` has all the authors' names."""
    name = re.sub(r"^core\.", "", name)
    block = r"(layer\d\.\d+)\."
    if match := re.fullmatch(rf"{block}conv\d\.[01]\.((?:{_PARTS}).*)", name):
        return f"{match[1]}.pool.{layer_name(match[2])}"
    if match := re.fullmatch(rf"{block}downsample\.0\.((?:{_PARTS}).*)", name):
        return f"{match[1]}.downsample.pool.{layer_name(match[2])}"
    if match := re.fullmatch(rf"{block}(conv\d)\.[01]\.(weight|bias)", name):
        return f"{match[1]}.{match[2]}.{match[3]}"
    if match := re.fullmatch(rf"{block}downsample\.(\d)\.(\w+)", name):
        return f"{match[1]}.downsample.{_projection(match[1], match[2], given)}.{match[3]}"
    if match := re.fullmatch(rf"maxpool\.(\d)\.((?:{_PARTS}).*)", name):
        places = _STEM[any(".maxpool.0." in f".{key}" for key in given)]
        return f"maxpool.{places.get(match[1], match[1])}.{layer_name(match[2])}"
    return name


def segmenter_name(name: str, given: Mapping[str, Any]) -> str:
    """Our name for a tensor of the authors' DeepLabV3+; `given` has all the authors' names."""
    name = re.sub(r"^model\.", "", name)
    if match := re.fullmatch(r"backbone\.(.*)", name):
        return f"backbone.{network_name(match[1], given)}"
    if match := re.fullmatch(r"(classifier\.)?unpool\.(\d)\.(.*)", name):
        return f"{'ups' if match[1] else 'last_ups'}.{match[2]}.{layer_name(match[3])}"
    parts = {"project": "low", "aspp": "aspp", "classifier": "head"}
    if match := re.fullmatch(r"classifier\.(project|aspp|classifier)\.(.*)", name):
        # the pyramid's last branch begins with a mean, before its convolution
        rest = re.sub(r"^(convs\.4)\.([12])\.", lambda m: f"{m[1]}.{int(m[2]) - 1}.", match[2])
        return f"{parts[match[1]]}.{rest}"
    return name


def recognised(state_dict: Mapping[str, Any], net: nn.Module) -> dict[str, Tensor]:
    """Our or the authors' checkpoint under the names of `net`; `UserError` for any other."""
    names = net.state_dict().keys()
    return fitted(tensors_of(state_dict)[0], names, lambda g: g if g.keys() == names else _from_authors(g, net))


def from_authors(state_dict: Mapping[str, Any], net: nn.Module) -> dict[str, Tensor]:
    """The authors' tensors under the names of `net`, for ``net.load_state_dict``.

    Raises `UserError` for the checkpoint of another network: extra or missing tensors, other shapes, or filters that
    differ from those of `net`.
    """
    names = net.state_dict().keys()
    return fitted(tensors_of(state_dict)[0], names, lambda given: _from_authors(given, net))


def _from_authors(given: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    rename = segmenter_name if isinstance(net, DeepLabV3Plus) else network_name
    return renamed(given, {name: rename(name, given) for name in given}, net)


def renamed(given: Mapping[str, Tensor], ours: Mapping[str, str], net: nn.Module) -> dict[str, Tensor]:
    """`given` under the names of `ours` (theirs -> ours), which must be those of `net`, see `from_authors`."""
    wanted = net.state_dict()
    kernels = {f"{name}.kernel": m.kernel for name, m in net.named_modules() if isinstance(m, BlurPool2d)}
    stored = {name for theirs, name in ours.items() if theirs.endswith(".filt")}
    if bare := [name for name, kernel in kernels.items() if kernel.numel() > 1 and name not in stored]:
        raise UserError(f"the checkpoint is of another network: it has no filter for {bare[0].rpartition('.')[0]}")
    # a layer without a scorer does not use its temperature
    idle = {name for name in ours.values() if name.rpartition(".")[2] == "tau" and name not in wanted}
    theirs = {name: key for key, name in ours.items()}
    filters = {key: _gained(given[key], kernels[name]) for key, name in ours.items() if name in kernels}
    kept = {key: tensor for key, tensor in given.items() if ours[key] not in idle}
    found = translate(kept, {name: theirs.get(name, name) for name in wanted}, filters=filters)
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            shapes = f"{tuple(tensor.shape)}, the network's {tuple(wanted[name].shape)}"
            raise UserError(f"the checkpoint is of another network: {theirs.get(name, name)} has the shape {shapes}")
    return found


def _gained(theirs: Tensor, kernel: Tensor) -> Tensor:
    # an upsampling layer may store its filter multiplied by its gain
    return kernel * (theirs[0].sum() / kernel.sum()).round()


def _projection(block: str, place: str, given: Mapping[str, Any]) -> int:
    """0 for the convolution of a shortcut, 1 for its batch norm, which may follow a sampling layer in their network."""
    weight = next((v for name, v in given.items() if name.endswith(f"{block}.downsample.{place}.weight")), None)
    return 0 if weight is not None and weight.ndim == 4 else 1
