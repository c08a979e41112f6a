"""Renames the tensors of the authors' checkpoints to ours."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stillpoint.core.base.errors import UserError
from stillpoint.core.layers.sparse_coding import SparseCoding2d
from stillpoint.core.runs.foreign import fitted, tensors_of, translate
from stillpoint.pipelines.sdnet.models import sparse_layers


def names(net: nn.Module) -> dict[str, str]:
    """Our state_dict names -> the authors'.

    They call the stem ``layer0``, the last layer ``linear`` and a projection ``shortcut``; a sparse-coding layer has
    its dictionary in a submodule ``dn``, and blocks of such layers are one level deeper, in ``layers``.
    """
    coded = sparse_layers(net)
    deeper = "layers." if any(name.startswith("layer") for name in coded) else ""
    found = {}
    for ours in net.state_dict():
        module, _, leaf = ours.rpartition(".")
        theirs = module
        if module in coded:  # in a block, a layer before a max-pool is the first of a Sequential
            theirs = (module if module.startswith("stem") else module.removesuffix(".0")) + ".dn"
        head, _, rest = theirs.partition(".")
        if head == "fc":
            theirs = "linear"
        elif head in ("conv1", "bn1"):
            theirs = "layer0.0" if head == "conv1" else "layer0.1"
        elif head == "stem":
            theirs = f"layer0.{rest}"
        else:
            theirs = f"{head}.{deeper}{rest.replace('downsample', 'shortcut')}"
        found[ours] = f"{theirs}.{leaf}"
    return found


def from_authors(checkpoint: Mapping[str, Any], net: nn.Module) -> dict[str, Tensor]:
    """A state_dict for `net` from the authors' checkpoint of the same network.

    `UserError` for missing or unexpected tensors, a zero atom, and an invalid step size.
    """
    return fitted(tensors_of(checkpoint)[0], net.state_dict().keys(), lambda given: _from_authors(given, net))


def recognised(checkpoint: Mapping[str, Any], net: nn.Module) -> dict[str, Tensor]:
    """Our or the authors' checkpoint under our names; `UserError` for any other."""
    own = net.state_dict().keys()
    return fitted(
        tensors_of(checkpoint)[0], own, lambda given: given if given.keys() == own else _from_authors(given, net)
    )


def _from_authors(given: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    state = translate(given, names(net))
    for name, layer in sparse_layers(net).items():
        _check(name, layer, state)
    return state


def _check(name: str, layer: SparseCoding2d, state: Mapping[str, Tensor]) -> None:
    if layer.normalise and (state[f"{name}.weight"].flatten(1) == 0).all(dim=1).any():
        raise UserError(f"{name}.weight in the checkpoint has an atom of zeros, which cannot be normalised")
    step = state[f"{name}.step_size"]
    if not (torch.isfinite(step) and step > 0):
        raise UserError(f"{name}.step_size in the checkpoint must be a positive finite number, not {float(step)}")
