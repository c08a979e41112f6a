"""Renames and reshapes the tensors of the authors' checkpoints to ours.

Theirs wrap padded or filtered modules, so that the convolution of ``dwconv`` is ``dwconv.1``, and put a block's two
linear maps and its activation into ``mlp``; their 1x1 convolutions are linear maps (out, in), their coefficients
(C, 3, 1, 1).
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from stillpoint.core.base.errors import UserError

#: fixed filters and masks, which their code registers as buffers at the first image
_FIXED = re.compile(r"(^|\.)(filt|rect)$")


def from_authors(state_dict: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """The authors' tensors under the names and shapes of `net`, for ``net.load_state_dict``.

    Raises `UserError` for unexpected, missing or differently shaped tensors.
    """
    wanted = net.state_dict()
    found: dict[str, Tensor] = {}
    for key, ours in authors_names(state_dict).items():
        tensor = state_dict[key]
        if ours not in wanted:
            raise UserError(f"the checkpoint is of another network: it has no place for {key}")
        if tensor.numel() != wanted[ours].numel() or tensor.shape[0] != wanted[ours].shape[0]:
            shapes = f"{tuple(tensor.shape)}, the network's {tuple(wanted[ours].shape)}"
            raise UserError(f"the checkpoint is of another network: {key} has the shape {shapes}")
        found[ours] = tensor.reshape(wanted[ours].shape)
    if missing := wanted.keys() - found.keys():
        raise UserError(f"the checkpoint is of another network: it has no {min(missing)}")
    return found


def authors_names(state_dict: Mapping[str, Tensor]) -> dict[str, str]:
    """Name in the authors' state_dict -> ours, in their order, without their fixed filters."""
    return {key: _ours(key, state_dict) for key in state_dict if not _FIXED.search(key)}


def _ours(key: str, given: Mapping[str, Tensor]) -> str:
    if match := re.fullmatch(r"downsample_layers\.(\d)\.(.+)\.(\w+)", key):
        layer, path, leaf = match.groups()
        return f"downsample_layers.{layer}.{_reduction(int(layer), path, leaf, given)}"
    key = re.sub(r"\.dwconv\.1\.", ".dwconv.", key)
    key = re.sub(r"\.mlp\.", ".", key)
    key = re.sub(r"\.act\.(?:pact\.)?coef$", ".act.coefficients", key)
    key = re.sub(r"\.act\.pact\.", ".act.", key)
    return re.sub(r"^head\.", "fc.", key)


def _reduction(layer: int, path: str, leaf: str, given: Mapping[str, Tensor]) -> str:
    if leaf == "gamma":
        return "activation.gain"
    if leaf in ("coef", "in_scale", "out_scale"):
        inner = "activation.branch" if f"downsample_layers.{layer}.1.gamma" in given else "activation"
        return f"{inner}.{'coefficients' if leaf == 'coef' else leaf}"
    weight = given[f"downsample_layers.{layer}.{path}.weight"]
    convolution = weight.ndim == 4
    return f"{int(convolution != (layer == 0))}.{leaf}"
