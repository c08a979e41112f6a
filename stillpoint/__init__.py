"""What an image classifier loses when the picture moves by a pixel, and how it gets that back.

    import stillpoint
    net = stillpoint.create("aps/resnet18_aps3", dataset="cifar10")   # names("aps/*") lists the networks
    stillpoint.antialias(my_network)                                  # filters wherever it strides
    stillpoint.measure(my_network, images)                            # what a shift changes
    stillpoint.explain(my_network, images)                            # the module that changes it

`layers` and `metrics` are for your own networks and loops. Everything is imported on first use.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stillpoint.core import layers, metrics
    from stillpoint.core.evaluation.explain import explain
    from stillpoint.core.evaluation.measure import measure
    from stillpoint.core.surgery.antialias import antialias
    from stillpoint.pipelines import create, load, names, pretrained

__all__ = ["antialias", "create", "explain", "layers", "load", "measure", "metrics", "names", "pretrained"]

_HOME = {
    "antialias": "stillpoint.core.surgery.antialias",
    "create": "stillpoint.pipelines",
    "explain": "stillpoint.core.evaluation.explain",
    "load": "stillpoint.pipelines",
    "measure": "stillpoint.core.evaluation.measure",
    "names": "stillpoint.pipelines",
    "pretrained": "stillpoint.pipelines",
}

# `core` and `pipelines` are symbolic links here. Some archives and file systems turn links into plain text files: then
# the two folders are found beside this package, where the links point.
_here = Path(__file__).parent
if not (_here / "core").is_dir():
    __path__.append(str(_here.resolve().parent))


def __getattr__(name: str) -> Any:
    if name in ("layers", "metrics"):
        return import_module(f"stillpoint.core.{name}")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("stillpoint")
    raise AttributeError(f"module 'stillpoint' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
