"""Networks from elsewhere: torchvision's, timm's, and a user's own."""

import sys
from collections.abc import Callable
from importlib import import_module, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillpoint.core.base.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import nn


def of_torchvision(name: str) -> "nn.Module":
    """A network of torchvision with random weights; `UserError` with the nearest names for an unknown one."""
    from inspect import signature

    from torchvision.models import get_model, get_model_builder, list_models

    if name not in list_models():
        raise UserError(f"torchvision has no network {name!r}{nearest(name, list_models())}")
    # a detector or segmenter would download its backbone's weights
    backbone = "weights_backbone" in signature(get_model_builder(name)).parameters
    return get_model(name, weights=None, **({"weights_backbone": None} if backbone else {}))


def of_timm(name: str) -> "nn.Module":
    """A network of timm with random weights; `UserError` for an unknown name, or without timm."""
    try:
        import timm
    except ImportError:
        raise UserError("--timm needs timm: pip install timm") from None
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise UserError(f"timm has no network {name!r}{nearest(name, known)}")
    return timm.create_model(name, pretrained=False)


def of_user(words: str) -> Any:
    """The network named by ``MODULE:FUNCTION`` or ``FILE.py:FUNCTION``, or returned by this function without arguments.

    Modules are searched for in the working directory first, then on Python's path. `UserError` if there is none, or it
    is not a network.
    """
    from torch import nn

    place, colon, name = words.rpartition(":")
    if not colon or not place or not name:
        raise UserError(
            f"your own network must be MODULE:FUNCTION or FILE.py:FUNCTION, such as mynets.small:build, not {words!r}"
        )
    here = str(Path.cwd())
    if sys.path[:1] != [here]:
        sys.path.insert(0, here)
    try:
        module = _file(Path(place)) if place.endswith(".py") else import_module(place)
        made = getattr(module, name)
    except (ImportError, AttributeError, SyntaxError, OSError) as error:
        raise UserError(f"{words}: {error}") from None
    if isinstance(made, nn.Module):
        return made
    if not callable(made):
        raise UserError(f"{words} is a {type(made).__name__}, not an nn.Module or a function that returns one")
    return _called(words, made)


def _file(path: Path) -> Any:
    """Imports a file as a module, which can import its neighbours."""
    spec = util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ImportError(f"there is no file {path}")
    sys.path.insert(0, str(path.resolve().parent))
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _called(words: str, make: Callable[[], Any]) -> Any:
    from torch import nn

    try:
        net = make()
    except Exception as error:
        raise UserError(f"{words} failed: {type(error).__name__}: {error}") from error
    if not isinstance(net, nn.Module):
        raise UserError(f"{words} returned a {type(net).__name__}, not an nn.Module")
    return net
