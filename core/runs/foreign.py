"""Reads checkpoints of other people's code: their wrappers, names and fixed filters.

A checkpoint is read in three steps, none of which executes anything in it: `INERT` replaces plain classes of training
scripts by placeholders, `tensors_of` finds the named tensors, and `fitted` tries their names unchanged, then without
prefixes.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from stillpoint.core.base.errors import UserError, listed, shortened

Found = TypeVar("Found")

#: keys of averaged weights (EMA), which are preferred because scripts measure and publish them
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "params_ema")
WRAPPERS = (
    *("state_dict", "model", "model_state_dict", "net", "network"),
    *("module", "state", "weights", "params", "model_state"),
)
#: largest depth of nested wrappers, such as {"state": {"model": ...}}
DEPTH = 4
#: prefixes that wrappers add to every name
PREFIXES = (
    *("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.", "encoder_q."),
    *("_forward_module.", "_fsdp_wrapped_module."),
)
#: entries that training stores beside the prefixed network: counters of averages, MoCo's queue, losses, metrics
BESIDE = ("n_averaged", "encoder_k.", "queue", "queue_ptr", "criterion.", "loss.", "loss_fn.")
_BESIDE = tuple(name for name in BESIDE if name.endswith("."))


class _Blank:
    """A placeholder for an object that is not built; it ignores the file's content."""

    def __new__(cls, *_: Any) -> "_Blank":
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


class _Dictionary:
    """A placeholder for dictionary classes: torch only fills plain ones."""

    def __new__(cls, *_: Any) -> dict[Any, Any]:  # type: ignore[misc]
        return {}


class _List:
    """A placeholder for list classes: torch only fills plain ones."""

    def __new__(cls, *_: Any) -> list[Any]:  # type: ignore[misc]
        return []


def _each(modules: str, names: str) -> list[str]:
    return [f"{module}.{name}" for module in modules.split() for name in names.split()]


_STANDS: dict[Any, list[str]] = {
    _Dictionary: [
        *_each("collections", "defaultdict"),
        *_each("lightning.fabric.utilities.data lightning_fabric.utilities.data", "AttributeDict"),
        *_each("lightning.pytorch.utilities.parsing pytorch_lightning.utilities.parsing", "AttributeDict"),
        *("builtins.dict", "yacs.config.CfgNode", "addict.addict.Dict", "easydict.EasyDict"),
        *("mmengine.config.config.ConfigDict", "mmcv.utils.config.ConfigDict"),
    ],
    _List: ["builtins.list", "collections.deque"],
    _Blank: [
        *("argparse.Namespace", "types.SimpleNamespace", "uuid.UUID", "decimal.Decimal", "fractions.Fraction"),
        *_each("datetime", "datetime date time timedelta timezone"),
        *_each("builtins", "int float str bool bytes tuple frozenset range slice"),
        *_each("pathlib pathlib._local", "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"),
        *_each("numpy.core.multiarray numpy._core.multiarray", "scalar _reconstruct"),
        *("numpy.dtype", "numpy.ndarray", "torch.torch_version.TorchVersion"),
    ],
}
#: (placeholder, name) of the plain classes that training scripts leave in torch files, for torch's `safe_globals`: the
#: name is allowed, but the class is neither imported nor built
INERT: list[Any] = [(stand, name) for stand, names in _STANDS.items() for name in names]


def tensors_of(content: Any, part: str | None = None) -> tuple[dict[str, Tensor], str | None]:
    """(tensors of a checkpoint by name, their path in it if there were others to choose from, else None).

    Recognises the dictionaries of `WRAPPERS` around a network, also nested, and prefers averaged weights to those they
    average. `part` is the key of another choice. `UserError` if there are no named tensors, or several networks and no
    `part`.
    """
    if part is not None:
        if not isinstance(content, Mapping) or not isinstance(content.get(part), Mapping):
            raise UserError(f"the file has no part {part!r}: {_description(content)}")
        content = content[part]
    found = {id(state): (path, state) for path, state in _states(content, (), (id(content),))}
    averaged = [one for one in found.values() if set(one[0]) & set(AVERAGED)]
    choice = averaged if len(averaged) == 1 else list(found.values())
    if not choice:
        raise UserError(f"the file holds no named tensors of a network: {_description(content)}")
    if len(choice) > 1:
        raise UserError(f"the file holds several networks ({listed('.'.join(path) for path, _ in choice)}): choose one")
    path, state = choice[0]
    return dict(state), ".".join(path) if len(found) > 1 else None


def _states(
    content: Any, path: tuple[str, ...], above: tuple[int, ...]
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Tensor]]]:
    if not isinstance(content, Mapping) or not content:
        return
    if all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        yield path, content
        return
    for key in (*AVERAGED, *WRAPPERS):
        inner = content.get(key)
        if id(inner) in above:
            raise UserError(f"the file contains itself, under {'.'.join((*path, key))}")
        if isinstance(inner, Mapping) and len(path) < DEPTH:
            yield from _states(inner, (*path, key), (*above, id(inner)))


def _description(content: Any) -> str:
    """Describes, as a clause, the content of a file without a network's tensors."""
    if isinstance(content, _Blank) or not isinstance(content, Mapping):
        return f"it is {_kind(content)}, not a dictionary of tensors"
    if not content:
        return "it is empty"
    for key in (*AVERAGED, *WRAPPERS):
        if isinstance(content.get(key), Mapping):
            return f"under {key}, {_description(content[key])}"
    if any(isinstance(value, Tensor) for value in content.values()):
        for name, value in content.items():
            if not isinstance(name, str):
                return f"the name {name!r} is a {type(name).__name__}, not text"
            if not isinstance(value, Tensor):
                return f"{shortened(name)} is {_kind(value)}, not a tensor"
    return f"its keys are {listed(map(str, content))}"


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__.strip('_').lower()}"


def readings(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yields `state` under its own names, then with the prefixes of wrappers removed one by one.

    A prefix is removed from all names at once, or within one separately wrapped part (``features.module.0.weight``), so
    that two names never become one.
    """
    current: dict[str, Tensor] | None = dict(state)
    for _ in range(2 * DEPTH):
        if current is None:
            return
        yield current
        current = _without_prefix(current) or _without_inner(current)


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    for prefix in PREFIXES:
        inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        rest = [name for name in state if not name.startswith(prefix)]
        if inside and all(name in BESIDE or name.startswith(_BESIDE) for name in rest) and not inside.keys() & rest:
            return inside
    return None


def _without_inner(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    for part in dict.fromkeys(name.partition(".")[0] for name in state):
        inner = f"{part}.module."
        own = [name for name in state if name.startswith(f"{part}.")]
        if own and all(name.startswith(inner) for name in own):
            return {f"{part}.{n.removeprefix(inner)}" if n.startswith(inner) else n: v for n, v in state.items()}
    return None


def fitted(state: Mapping[str, Tensor], names: Collection[str], fit: Callable[[dict[str, Tensor]], Found]) -> Found:
    """The result of `fit` for the first reading of `state` that it accepts (see `readings`).

    `fit` rejects a reading by `UserError`. If it rejects all, raises the error of the reading with most of the expected
    `names`.
    """
    refusals = []
    for reading in readings(state):
        try:
            return fit(reading)
        except UserError as error:
            refusals.append((len(reading.keys() & set(names)), error))
    raise max(refusals, key=lambda refusal: refusal[0])[1]


def translate(
    state: Mapping[str, Tensor], names: Mapping[str, str], *, filters: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """`state` under our names; `names` maps each of our names to theirs.

    `filters` are fixed tensors that they store and we do not: optional, and checked if present (each channel must equal
    our filter). `UserError` with the keys that are missing, unexpected, or hold another filter.
    """
    filters = filters or {}
    missing = [theirs for theirs in names.values() if theirs not in state]
    known = {*names.values(), *filters}
    unexpected = [name for name in state if name not in known]
    if missing or unexpected:
        raise UserError(
            "the checkpoint is of another network: "
            + "; ".join(
                f"{what} {listed(keys)}" for what, keys in (("missing", missing), ("unexpected", unexpected)) if keys
            )
        )
    for name, ours in filters.items():
        if name in state and not _same_filter(state[name], ours):
            raise UserError(f"the checkpoint is of another network: {name} holds another filter than ours")
    return {ours: state[theirs] for ours, theirs in names.items()}


def _same_filter(theirs: Tensor, ours: Tensor) -> bool:
    if theirs.shape[-ours.ndim :] != ours.shape:
        return False
    return torch.allclose(theirs.float(), ours.float().expand_as(theirs), atol=1e-6)
