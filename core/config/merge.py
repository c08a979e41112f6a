"""Merges a configuration: schema defaults <- a recipe's yaml <- the model's entry <- `KEY VALUE` pairs.

yacs merges, by `merge_from_other_cfg` and `merge_from_list`; pydantic validates afterwards (see `core.config.schema`).
Files are read by `core.base.documents`, not by yacs's `merge_from_file`, which executes files ending in .py and reads
YAML of any size and depth.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from yacs.config import CfgNode

from stillpoint.core.base.documents import parse_yaml, read_yaml
from stillpoint.core.base.errors import UserError, nearest, shortened
from stillpoint.core.config.former import modern
from stillpoint.core.config.schema import RunConfig, validate

Config = TypeVar("Config", bound=RunConfig)

#: most characters of a value on the command line
VALUE = 100_000
#: what yacs raises; its literal parser raises the last two for deeply nested brackets
_YACS = (AssertionError, KeyError, TypeError, ValueError, RecursionError, MemoryError)


def merge(schema: type[Config], layers: list[dict[str, Any]], pairs: list[str] | None = None) -> Config:
    """The defaults of `schema`, overlaid by `layers` and `pairs`, validated.

    `layers` are nested mappings with keys in capitals, `pairs` are ``["TRAIN.LR", "0.05", ...]``.

    `UserError` for an unknown key (with the nearest known ones), a value of the wrong type or range, a contradictory
    combination, and a pair without effect.
    """
    node = CfgNode(schema().dump())
    pairs = pairs or []
    for key in [*(key for layer in layers for key in _keys(layer)), *pairs[0::2]]:
        if key in schema.REFUSED:
            raise UserError(f"there is no {key}: {schema.REFUSED[key]}")
    for layer in layers:
        _overlay(node, layer)
    if len(pairs) % 2:
        raise UserError(f"settings come as KEY VALUE pairs; {pairs[-1]!r} has no value")
    for key, text in zip(pairs[0::2], pairs[1::2], strict=True):
        _set(node, key, text)
    config = validate(schema, _plain(node))
    config.check_effect(pairs[0::2])
    return config


def read_recipe(path: Path, schema: type[RunConfig]) -> dict[str, Any]:
    """A recipe's settings, which overlay those of the yaml that it names as BASE.

    ``BASE: other.yaml`` is looked up in the recipe's folder, then in the folder `configs` that all papers share (for
    ``<papers>/<paper>/configs/own.yaml``, ``<papers>/configs``). `UserError` for a file that is missing, damaged or
    without settings, and for a recipe based on itself.
    """
    chain = _based(path, ())
    if len(chain) == 1:
        return modern(chain[0])
    node = CfgNode(schema().dump())
    for settings in chain:
        _overlay(node, settings)
    return _plain(node)


def _based(path: Path, above: tuple[str, ...]) -> list[dict[str, Any]]:
    """The settings of a recipe preceded by those of its bases, the lowest first."""
    settings = read_yaml(path)
    settings = {} if settings is None else settings
    if not isinstance(settings, dict):
        raise UserError(f"{path} must hold KEY: value settings")
    base = settings.pop("BASE", None)
    if base is None:
        return [settings]
    if not isinstance(base, str) or Path(base).name != base:
        raise UserError(f"{path}: BASE must be the name of a yaml in the same or the shared folder, not {base!r}")
    if base in above:
        raise UserError(f"{path} is based on itself: {' on '.join((*above, path.name, base))}")
    shared = path.parent.parent.with_name("configs") / base
    found = shared if shared.is_file() and not path.with_name(base).is_file() else path.with_name(base)
    return [*_based(found, (*above, path.name)), settings]


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a run's ``config.yaml``, in the current spelling; `UserError` if the file is damaged."""
    try:
        settings = read_yaml(path)
    except UserError as error:
        settings, reason = None, f" ({error})"
    else:
        reason = ""
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds no settings{reason}: if it is damaged, remove the run's folder and train again")
    return modern(settings)


def _plain(node: Any) -> Any:
    return {k: _plain(v) for k, v in node.items()} if isinstance(node, dict) else node


def _keys(layer: dict[Any, Any], prefix: str = "") -> Iterator[str]:
    """All keys of a layer and of its sections, dotted."""
    for key, value in layer.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")


def _overlay(node: CfgNode, layer: dict[str, Any]) -> None:
    _forget(node, layer)
    try:
        node.merge_from_other_cfg(CfgNode(_quoted(layer)))
    except _YACS as error:
        said = str(error).partition(";")[0]
        raise UserError(_fault(node, layer) or f"the settings cannot be merged: {said}") from None


def _set(node: CfgNode, key: str, text: str) -> None:
    """Sets `key` to the user's text; words in a list need no quotes, as in a recipe: ``[accuracy, flips]``."""
    if len(text) > VALUE:
        raise UserError(f"{key}: a value of {len(text)} characters is too long")
    layer: Any = None
    for part in reversed(key.split(".")):
        layer = {part: layer}
    value: Any = text
    for _ in range(2):
        _forget(node, layer)
        try:
            node.merge_from_list([key, value])
        except _YACS:
            raise UserError(_fault(node, layer) or f"{key} cannot be set to {shortened(text)}") from None
        if not text.startswith("[") or _at(node, key) != text:
            return
        with suppress(UserError):  # otherwise kept as text, which the schema accepts or refuses
            value = parse_yaml(text, key)


def _at(node: CfgNode, dotted: str) -> Any:
    for part in dotted.split("."):
        node = node[part]
    return node


def _quoted(value: Any) -> Any:
    """A layer with its texts in quotes, so that yacs, which parses texts as literals, leaves them unchanged."""
    if isinstance(value, dict):
        return {key: _quoted(inner) for key, inner in value.items()}
    return repr(value) if isinstance(value, str) else value


def _forget(node: CfgNode, layer: dict[Any, Any]) -> None:
    """Sets the values that `layer` replaces to None, since yacs would otherwise refuse another type: a 1 for a 0.5."""
    for key, value in layer.items():
        if isinstance(node.get(key), CfgNode):
            if isinstance(value, dict):
                _forget(node[key], value)
        elif key in node:
            node[key] = None


def _fault(node: CfgNode, layer: dict[Any, Any], prefix: str = "", top: CfgNode | None = None) -> str | None:
    """Why yacs refused `layer`, in our words; None if no key is at fault."""
    top = node if top is None else top
    for key, value in layer.items():
        dotted = f"{prefix}{key}"
        if key not in node:
            if not prefix and isinstance(key, str) and "." in key:
                return f"in a file, {shortened(key)[1:-1]} is written in its section: {{{key.partition('.')[0]}: ...}}"
            while isinstance(value, dict) and len(value) == 1:
                inner, value = next(iter(value.items()))
                dotted = f"{dotted}.{inner}"
            known = [one for one in _keys(top) if not isinstance(_at(top, one), CfgNode)]
            return f"unknown configuration key {shortened(dotted)[1:-1]}{nearest(dotted[:60], known)}"
        section = isinstance(node[key], CfgNode)
        if section and not isinstance(value, dict):
            return f"{dotted} is a section: set one of {', '.join(f'{dotted}.{inner}' for inner in node[key])}"
        if isinstance(value, dict):
            if not section:
                return f"{dotted} is one setting, not a section"
            if deeper := _fault(node[key], value, f"{dotted}.", top):
                return deeper
    return None
