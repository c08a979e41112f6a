"""Looks up objects by registered name, or a user's own by MODULE:NAME, and imports them only then."""

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from stillpoint.core.base.errors import nearest


def check_name(what: str, name: str, known: Mapping[str, Any]) -> str:
    """`name` if it is known or of the form MODULE:NAME; otherwise a ValueError that proposes the nearest names."""
    if name not in known and not all(name.partition(":")):
        raise ValueError(f"{what} must be one of {', '.join(known)}, got {name!r}{nearest(name, list(known))}")
    return name


def find(what: str, name: str, known: Mapping[str, str]) -> Any:
    """The object at `known[name]`, a ``module:name``, or at `name` itself, in a module that may be in the working
    directory.

    ValueError for an unknown name (with the nearest), and for a user's module or name that does not exist.
    """
    check_name(what, name, known)
    module, _, attribute = known.get(name, name).partition(":")
    if name not in known and str(Path.cwd()) not in sys.path:
        # as `python -m` does; installed programs do not search the working directory
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if name in known or error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"{what} {name}: there is no module {error.name}") from None
    except AttributeError:
        raise ValueError(f"{what} {name}: the module {module} has no {attribute}") from None
