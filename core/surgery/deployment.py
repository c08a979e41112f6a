"""Re-parametrisation of treated networks: methods that rebuild a convolution keep its filter, or raise."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from stillpoint.core.surgery.filtered import Filtered, keep_from
from stillpoint.core.surgery.striding import CONVOLUTIONS

# timm's `reparameterize_model` calls the first of these that a module has
_METHODS = ("fuse", "reparameterize", "switch_to_deploy")


def protect(model: nn.Module, dense: Sequence[nn.Module]) -> None:
    """Stops re-parametrisation from dropping the filters around the layers that were made `dense`.

    A block whose branches are all dense, with the filter after their sum, merges them with stride 1 from now on. Any
    other block with treated layers raises ValueError when merged.
    """
    treated = set(map(id, dense))
    for module in list(model.modules()):
        methods = tuple(name for name in _METHODS if callable(getattr(type(module), name, None)))
        if not methods:
            continue
        own = list(_own(module))
        inside = [inner for inner in own if isinstance(inner, Filtered) and isinstance(inner, CONVOLUTIONS)]
        strided = [inner for inner in own if id(inner) in treated]
        if inside or (strided and not _merges_at_stride_one(module)):
            keep_from(module, methods)


def _own(module: nn.Module) -> Iterator[nn.Module]:
    """The modules inside, except those within a child that has its own re-parametrisation."""
    for child in module.children():
        yield child
        if not any(callable(getattr(type(child), name, None)) for name in _METHODS):
            yield from _own(child)


def _merges_at_stride_one(module: nn.Module) -> bool:
    """Sets the stride that a block stores for its merged convolution to 1, if nothing else reads it."""
    stride: Any = getattr(module, "stride", None)
    if stride is None:  # read from its convolutions
        return True
    if isinstance(stride, nn.Module):
        return False
    kind: Any = type(module)
    forward = getattr(kind, "own_forward", kind.forward)
    try:
        if "self.stride" in inspect.getsource(forward):
            return False
    except OSError:  # no source
        return False
    held: Any = module
    held.stride = 1 if isinstance(stride, int) else (1,) * len(stride)
    return True
