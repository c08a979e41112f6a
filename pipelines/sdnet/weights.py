"""The authors' checkpoints -> the parameters of our networks, strictly."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError

WRAPPERS = ("state_dict", "model", "net")


def unwrapped(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state_dict inside a checkpoint, without the prefix that DataParallel adds."""
    for key in WRAPPERS:
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    return {name.removeprefix("module."): value for name, value in checkpoint.items()}


def our_name(name: str, pooled: frozenset[str] = frozenset()) -> str:
    """Our name of the authors' state_dict entry `name`; `pooled` are our layers that a max-pool follows."""
    name = re.sub(r"^layer0\.(\d+)\.(?:dn\.)?", r"stem.\1.", name)
    name = re.sub(r"^(layer\d)\.layers\.", r"\1.", name)
    name = name.replace(".dn.", ".").replace(".shortcut.", ".downsample.")
    name = re.sub(r"^linear\.", "fc.", name)
    layer, _, leaf = name.rpartition(".")
    return f"{layer}.0.{leaf}" if layer in pooled else name


def from_authors(checkpoint: Mapping[str, Any], net: nn.Module) -> dict[str, Tensor]:
    """A state_dict for `net` from a checkpoint of the authors' network of the same kind.

    UserError that names them: entries that `net` has and the checkpoint lacks, or the reverse, a shape that differs,
    an atom that is zero.
    """
    wanted = net.state_dict()
    pooled = frozenset(
        name for name, m in net.named_modules() if isinstance(m, nn.Sequential) and ".conv" in f".{name}"
    )
    baseline = "stem.0.weight" not in wanted
    found: dict[str, Tensor] = {}
    for name, value in unwrapped(checkpoint).items():
        ours = our_name(name, pooled)
        if baseline:
            ours = re.sub(r"^stem\.0\.", "conv1.", re.sub(r"^stem\.1\.", "bn1.", ours))
        found[ours] = value
    missing, unexpected = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or unexpected:
        said = [f"it lacks {_few(missing)}"] * bool(missing) + [f"the network has no {_few(unexpected)}"] * bool(
            unexpected
        )
        raise UserError(f"this checkpoint is another network's: {', and '.join(said)}")
    for name, value in found.items():
        if value.shape != wanted[name].shape:
            raise UserError(
                f"{name} has shape {tuple(value.shape)} in the checkpoint, {tuple(wanted[name].shape)} in the network"
            )
        if name.endswith(".step_size") and not (torch.isfinite(value) and value > 0):
            raise UserError(f"{name} is {float(value)} in the checkpoint; a step size is a positive number")
        atoms = found[name].flatten(1) if name.replace("weight", "step_size") in wanted and value.ndim > 1 else None
        if atoms is not None and (atoms == 0).all(dim=1).any():
            raise UserError(
                f"{name} has an atom of zeros in the checkpoint; every atom of a dictionary needs a direction"
            )
    return found


def _few(names: list[str], shown: int = 5) -> str:
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
