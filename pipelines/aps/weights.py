"""The authors' checkpoints -> ours."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.backbones.unet import UNet
from core.errors import UserError
from core.layers.blur import binomial_kernel

WRAPPERS = ("state_dict", "model", "net")
#: places of convolutions and norms in the authors' double convolution with explicit padding -> in ours
_PADDED = {"1": "0", "2": "1", "5": "3", "6": "4"}


def read_authors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file that the authors' code wrote, by their names, without wrappers and ``module.`` prefixes.

    Raises:
        UserError: no such file, one that is torn or not a checkpoint of tensors.
    """
    try:
        return unwrap(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except UserError:
        raise
    except Exception as error:
        # torch raises pickle, zip, runtime and key errors alike for a file that is not what it should be
        raise UserError(f"{path} cannot be read as a checkpoint: {str(error).splitlines()[0]}") from None


def unwrap(checkpoint: Any) -> dict[str, Tensor]:
    """The state_dict inside ``{"state_dict" | "model" | "net": ...}`` and DataParallel's ``module.`` prefixes."""
    while isinstance(checkpoint, Mapping):
        inner = next((checkpoint[key] for key in WRAPPERS if isinstance(checkpoint.get(key), Mapping)), None)
        if inner is None:
            break
        checkpoint = inner
    if not isinstance(checkpoint, Mapping) or not all(isinstance(value, Tensor) for value in checkpoint.values()):
        raise UserError("this is not a checkpoint: no state_dict of tensors is in it")
    return {re.sub(r"^(module\.)+", "", key): value for key, value in checkpoint.items()}


def from_authors(state_dict: Mapping[str, Any], net: nn.Module) -> dict[str, Tensor]:
    """The authors' tensors under the names of `net`, for ``net.load_state_dict``.

    Args:
        state_dict: of the authors' network, or the checkpoint that holds it.
        net: ours, of the same architecture.

    Returns:
        A state_dict with exactly the names and shapes of `net`.

    Raises:
        UserError: tensors that `net` has no place for or that it misses (all named), another shape, or stored filters
            that are not those of `net`.
    """
    given = unwrap(state_dict)
    names = authors_names(given, net)
    wanted, ours = net.state_dict(), {name: given[key] for key, name in names.items()}
    if missing := sorted(set(wanted) - set(ours)):
        raise UserError(f"the checkpoint lacks {', '.join(missing)}")
    if unexpected := sorted(key for key, name in names.items() if name not in wanted):
        raise UserError(f"the network has no place for {', '.join(unexpected)} of the checkpoint")
    for key, name in names.items():
        if given[key].shape != wanted[name].shape:
            raise UserError(f"{key} has shape {tuple(given[key].shape)}, the network's {tuple(wanted[name].shape)}")
    _check_filters({key: value for key, value in given.items() if key.endswith(".filt")}, net)
    return {name: ours[name] for name in wanted}


def authors_names(given: Mapping[str, Tensor], net: nn.Module) -> dict[str, str]:
    """Name in `given`, the authors' state_dict -> name in `net`, in the authors' order, without their fixed filters.

    Raises:
        UserError: two tensors of theirs that are one of ours.
    """
    rename = _unet_name if isinstance(net, UNet) else _resnet_name
    names: dict[str, str] = {}
    for key in given:
        if key.endswith(".filt"):
            continue
        name = rename(key, given)
        if name in names.values():
            raise UserError(f"{key} and another tensor of the checkpoint are both {name} here")
        names[key] = name
    return names


def _resnet_name(key: str, given: Mapping[str, Tensor]) -> str:
    # conv1.1.weight, layer2.0.conv2.1.1.weight: paddings and pools before a convolution are modules of theirs
    if match := re.fullmatch(r"((?:layer\d+\.\d+\.)?conv\d)(?:\.\d)*\.weight", key):
        return f"{match[1]}.weight"
    if match := re.fullmatch(r"(layer\d+\.\d+\.downsample)\.(\d)\.(\w+)", key):
        weight = given.get(f"{match[1]}.{match[2]}.weight")
        convolution = weight is not None and weight.ndim == 4
        return f"{match[1]}.{0 if convolution else 1}.{match[3]}"
    return key


def _unet_name(key: str, given: Mapping[str, Tensor]) -> str:
    # an explicit padding shifts the places; without it, place 0 is a convolution
    padded = "inc.double_conv.0.weight" not in given
    if match := re.fullmatch(r"(inc|down\d|up\d)(?:\.\w+)*?\.double_conv\.(\d)\.(\w+)", key):
        place = _PADDED.get(match[2], f"unknown {match[2]}") if padded else match[2]
        return f"{_part(match[1])}.{place}.{match[3]}"
    if match := re.fullmatch(r"up(\d)\.up(?:\.\d)?\.(weight|bias)", key):
        return f"ups.{int(match[1]) - 1}.up.{match[2]}"
    return re.sub(r"^outc\.conv\.", "last.", key)


def _part(part: str) -> str:
    if part == "inc":
        return "first"
    return f"{part[:-1]}s.{int(part[-1]) - 1}.conv"


def _check_filters(filters: Mapping[str, Tensor], net: nn.Module) -> None:
    sizes = {module.size for module in net.modules() if hasattr(module, "kernel") and hasattr(module, "size")}
    for key, value in filters.items():
        size = value.shape[-1]
        if sizes != {size}:
            raise UserError(
                f"{key} is a filter of size {size}, the network's is {', '.join(map(str, sizes)) or 'none'}"
            )
        wanted = binomial_kernel(size, 2, dtype=torch.float32).expand_as(value)
        if not torch.allclose(value.float().cpu(), wanted, rtol=1e-6, atol=0):
            raise UserError(f"{key} is not the binomial filter of size {size}")
