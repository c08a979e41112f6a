"""Things of the house by name, and a user's own by MODULE:NAME; a table of names needs none of them imported."""

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from stillpoint.core.base.errors import nearest


def check_name(what: str, name: str, known: Mapping[str, Any]) -> str:
    """`name` where it is known or has the form MODULE:NAME; ValueError that proposes the nearest names otherwise."""
    if name not in known and not all(name.partition(":")):
        raise ValueError(f"{what} must be one of {', '.join(known)}, got {name!r}{nearest(name, list(known))}")
    return name


def find(what: str, name: str, known: Mapping[str, str]) -> Any:
    """What `known` says is at ``module:name``, or a user's own module of the folder that one is in.

    ValueError for an unknown name (with the nearest) and for a module of the user's that is not there.
    """
    check_name(what, name, known)
    module, _, attribute = known.get(name, name).partition(":")
    if name not in known and str(Path.cwd()) not in sys.path:
        # as `python -m` would see it, for a program that was installed
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if name in known or error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"{what} {name}: there is no module {error.name}") from None
    except AttributeError:
        raise ValueError(f"{what} {name}: the module {module} has no {attribute}") from None
