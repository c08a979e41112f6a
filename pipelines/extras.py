"""Packages that the base installation lacks, and the extra that installs each."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

#: packages that only some calls need -> the extra that installs them
EXTRAS = {
    **dict.fromkeys(
        ("PIL", "dvc", "matplotlib", "scipy", "shtab", "sklearn", "snakemake", "torchvision", "yacs"), "pipelines"
    ),
    "timm": "interop",
}


def remedy(error: ModuleNotFoundError) -> str | None:
    """A sentence on an absent package with the command that installs it; None if no extra contains it."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return f"{package} is not installed: pip install 'stillpoint[{EXTRAS[package]}]'"


def require(package: str) -> None:
    """Raises `ModuleNotFoundError` for an absent package, before work that would then be lost."""
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)


@contextmanager
def naming_extras() -> Iterator[None]:
    """Adds the installing command to the `ModuleNotFoundError` for an absent package."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (told := remedy(error)) is None:
            raise
        raise ModuleNotFoundError(told, name=error.name, path=error.path) from None
