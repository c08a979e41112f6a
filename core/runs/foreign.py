"""Checkpoints that other people's code wrote: their wrappers, their names, their fixed filters."""

from collections.abc import Mapping
from typing import Any

import torch

from stillpoint.core.base.errors import UserError

WRAPPERS = ("state_dict", "model", "net", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.")


def unwrapped(state: Any) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, without the dictionary around them and the prefixes that wrappers add.

    Knows ``{"state_dict" | "model" | "net" | "model_state_dict": ...}`` and ``module.`` of DataParallel, also when
    only a part of the network was wrapped. A `UserError` when there are no named tensors inside.
    """
    while isinstance(state, Mapping):
        inner = next((key for key in WRAPPERS if isinstance(state.get(key), Mapping)), None)
        if inner is None:
            break
        state = state[inner]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError("the file holds no named tensors: it is not the checkpoint of a network")
    return {_plain(name): tensor for name, tensor in state.items()}


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if f"{part}." not in PREFIXES)


def translate(
    state: Mapping[str, torch.Tensor], names: Mapping[str, str], *, filters: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """`state` under our names, where `names` says what each of our names is called there.

    `filters` are fixed tensors that they store and we do not: checked when present (each of their channels must hold
    the same filter as ours), never needed. `UserError` naming the keys that are missing, unexpected, or hold another
    filter.
    """
    filters = filters or {}
    missing = [theirs for theirs in names.values() if theirs not in state]
    known = {*names.values(), *filters}
    unexpected = [name for name in state if name not in known]
    if missing or unexpected:
        raise UserError(
            "the checkpoint is of another network: "
            + "; ".join(
                f"{what} {', '.join(keys[:5])}{f' and {len(keys) - 5} more' if len(keys) > 5 else ''}"
                for what, keys in (("missing", missing), ("unexpected", unexpected))
                if keys
            )
        )
    for name, ours in filters.items():
        if name in state and not _same_filter(state[name], ours):
            raise UserError(f"the checkpoint is of another network: {name} holds another filter than ours")
    return {ours: state[theirs] for ours, theirs in names.items()}


def _same_filter(theirs: torch.Tensor, ours: torch.Tensor) -> bool:
    if theirs.shape[-ours.ndim :] != ours.shape:
        return False
    return torch.allclose(theirs.float(), ours.float().expand_as(theirs), atol=1e-6)
