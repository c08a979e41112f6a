"""Renames the tensors of the authors' checkpoints to ours.

Their ``downsample`` is a main branch's sampling layer, and their ``shortcut`` is torchvision's ``downsample``.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from stillpoint.core.base.errors import UserError
from stillpoint.core.runs.foreign import fitted, tensors_of, translate


def layer_name(name: str) -> str:
    """Our name for a tensor of the authors' sampling layer."""
    return re.sub(r"(^|\.)conv2\.weight$", r"\1scale.weight", re.sub(r"(^|\.)conv1\.weight$", r"\1psi.weight", name))


def network_name(name: str) -> str:
    """Our name for a tensor of the authors' network."""
    if match := re.fullmatch(r"downsample\.(conv\d\.weight)", name):
        return f"maxpool.{layer_name(match[1])}"
    if match := re.fullmatch(r"(layer\d\.\d+)\.downsample\.(conv\d\.weight)", name):
        return f"{match[1]}.pool.{layer_name(match[2])}"
    if match := re.fullmatch(r"(layer\d\.\d+)\.shortcut\.0\.(conv\d\.weight)", name):
        return f"{match[1]}.downsample.pool.{layer_name(match[2])}"
    if match := re.fullmatch(r"(layer\d\.\d+)\.shortcut\.([12])\.(\w+)", name):
        return f"{match[1]}.downsample.{int(match[2]) - 1}.{match[3]}"
    return name


def recognised(state_dict: Mapping[str, Any], net: nn.Module) -> dict[str, Tensor]:
    """Our or the authors' checkpoint under the names of `net`; `UserError` for any other."""
    names = net.state_dict().keys()
    return fitted(tensors_of(state_dict)[0], names, lambda g: g if g.keys() == names else _from_authors(g, net))


def from_authors(state_dict: Mapping[str, Any], net: nn.Module) -> dict[str, Tensor]:
    """The authors' tensors under the names of `net`, for ``net.load_state_dict``.

    Raises `UserError` for the checkpoint of another network.
    """
    names = net.state_dict().keys()
    return fitted(tensors_of(state_dict)[0], names, lambda given: _from_authors(given, net))


def _from_authors(given: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    wanted = net.state_dict()
    theirs = {network_name(name): name for name in given if not name.endswith(".filt")}
    found = translate(
        {name: tensor for name, tensor in given.items() if not name.endswith(".filt")},
        {name: theirs.get(name, name) for name in wanted},
    )
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            shapes = f"{tuple(tensor.shape)}, the network's {tuple(wanted[name].shape)}"
            raise UserError(f"the checkpoint is of another network: {theirs[name]} has the shape {shapes}")
    return found
