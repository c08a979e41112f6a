"""Renames the tensors of the authors' checkpoints to ours.

Their padding or blur is a module before the convolution, which lengthens its name (``conv2.1.1.weight``). Ours keep
torchvision's names, and in a U-Net the positions of a double convolution without explicit padding.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stillpoint.core.backbones.unet import UNet
from stillpoint.core.base.errors import UserError
from stillpoint.core.layers.downsample import Downsample
from stillpoint.core.runs.checkpoint import read_tensors
from stillpoint.core.runs.foreign import fitted, tensors_of, translate

#: position in the authors' double convolution with explicit padding -> ours
_PADDED = {"1": "0", "2": "1", "5": "3", "6": "4"}
#: position of a pool in the authors' ImageNet stem, [pool, pad, max, pool] or with pool_only [pad, max, pool] -> ours
_STEM = {"0": "0", "2": "1", "3": "2"}


def read_authors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file written by the authors' code, by their names, without the dictionaries around them.

    Nothing in the file is executed. Raises `UserError` for a file that is missing, damaged, or not a checkpoint of
    tensors.
    """
    tensors, _ = read_tensors(path)
    return tensors


def from_authors(state_dict: Mapping[str, Any], net: nn.Module) -> dict[str, Tensor]:
    """The authors' tensors under the names of `net`, for ``net.load_state_dict``.

    Args:
        state_dict: of the authors' network, or the checkpoint that holds it.
        net: ours, of the same architecture.

    Returns:
        A state_dict with exactly the names of `net`.

    Raises:
        UserError: unexpected or missing tensors, or filters that differ from those of `net`. Filters are checked
            because networks with and without them have weights of the same names.
    """
    return fitted(tensors_of(state_dict)[0], net.state_dict().keys(), lambda given: _from_authors(given, net))


def _from_authors(given: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    _check_filters(given, net)
    theirs = {ours: key for key, ours in authors_names(given, net).items()}
    # one of our names that they lack is reported as missing under our name
    names = {name: theirs.get(name, name) for name in net.state_dict()}
    filters = {
        key: kernel
        for key in given
        if key.endswith(".filt") and (kernel := _kernel(net, _place(key.removesuffix(".filt")))) is not None
    }
    return translate(given, names, filters=filters)


def _check_filters(given: Mapping[str, Tensor], net: nn.Module) -> None:
    stored = [key for key in given if key.endswith(".filt")]
    places = {_place(key.removesuffix(".filt")) for key in stored}
    modules = dict(net.named_modules())
    bare = [
        path
        for path, module in modules.items()
        if isinstance(getattr(module, "kernel", None), Tensor) and module.kernel.numel() > 1 and path not in places
    ]
    if bare:
        raise UserError(f"the checkpoint is of another network: it has no filter for {bare[0]}, this network has one")
    # only the ImageNet form distinguishes them: there a filter that is not adaptive precedes the convolution
    adaptive = any(isinstance(module, Downsample) and module.chooses for module in modules.values())
    before = any(re.search(r"\.conv\d\.0\.filt$", key) for key in stored)
    if any(".aps_down." in key for key in stored) and not adaptive:
        raise UserError("the checkpoint is of another network: it has APS, this network has BlurPool")
    if adaptive and before and any(key.startswith("maxpool.") for key in stored):
        raise UserError("the checkpoint is of another network: it has BlurPool, this network has APS")


def authors_names(given: Mapping[str, Tensor], net: nn.Module) -> dict[str, str]:
    """Name in `given`, the authors' state_dict -> name in `net`, in the authors' order, without their fixed filters."""
    rename = _unet_name if isinstance(net, UNet) else _resnet_name
    return {key: rename(key, given) for key in given if not key.endswith(".filt")}


def _resnet_name(key: str, given: Mapping[str, Tensor]) -> str:
    if match := re.fullmatch(r"((?:layer\d+\.\d+\.)?conv\d)(?:\.\d)*\.weight", key):
        return f"{match[1]}.weight"
    if match := re.fullmatch(r"(layer\d+\.\d+\.downsample)\.(\d)\.(\w+)", key):
        weight = given.get(f"{match[1]}.{match[2]}.weight")
        convolution = weight is not None and weight.ndim == 4
        return f"{match[1]}.{0 if convolution else 1}.{match[3]}"
    return key


def _unet_name(key: str, given: Mapping[str, Tensor]) -> str:
    if match := re.fullmatch(r"(inc|down\d|up\d)(?:\.\w+)*?\.double_conv\.(\d)\.(\w+)", key):
        padded = "inc.double_conv.0.weight" not in given
        place = _PADDED.get(match[2], f"none:{match[2]}") if padded else match[2]
        part = "first" if match[1] == "inc" else f"{_level(match[1])}.conv"
        return f"{part}.{place}.{match[3]}"
    if match := re.fullmatch(r"(up\d)\.up(?:\.\d)?\.(weight|bias)", key):
        return f"{_level(match[1])}.up.{match[2]}"
    return re.sub(r"^outc\.conv\.", "last.", key)


def _level(part: str) -> str:
    return f"{part[:-1]}s.{int(part[-1]) - 1}"


def _place(path: str) -> str:
    """Our path of the module whose filter the authors store at `path`, or "" if there is none."""
    if match := re.fullmatch(r"(layer\d+\.\d+)\.(?:conv\d\.0|aps_down)", path):
        return f"{match[1]}.pool"
    if match := re.fullmatch(r"(layer\d+\.\d+\.downsample)\.0", path):
        return f"{match[1]}.pool"
    if match := re.fullmatch(r"maxpool\.([023])", path):
        return f"maxpool.{_STEM[match[1]]}"
    if match := re.fullmatch(r"(down\d)\.maxpool(?:_conv)?\.\d", path):
        return f"{_level(match[1])}.pool"
    if match := re.fullmatch(r"(up\d)\.up\.([01])", path):
        return f"{_level(match[1])}.{'unpool' if match[2] == '0' else 'smooth'}"
    return ""


def _kernel(net: nn.Module, path: str) -> Tensor | None:
    module = dict(net.named_modules()).get(path) if path else None
    return getattr(module, "kernel", None)
