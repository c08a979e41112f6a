"""Images, networks and shifts. Nothing here imports torch until it is used."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "antialias":
        from core.surgery import antialias

        return antialias
    raise AttributeError(f"module 'core' has no attribute {name!r}")
