"""A paper's published numbers by network and recipe, shown beside ours, and its published weights."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from stillpoint.core.base.documents import read_yaml
from stillpoint.core.base.errors import UserError


class PublishedRow(BaseModel):
    """Numbers of some networks, keyed by our metrics, in the units of their columns."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, FiniteFloat] = Field(init=False)

    models: tuple[str, ...] = Field(description="names of networks, as shell patterns")
    state: Literal["trained", "untrained"] = "trained"
    method: str = Field("", description="the source's name for it")

    def number(self, key: str) -> float | None:
        return (self.__pydantic_extra__ or {}).get(key)


class PublishedEntry(BaseModel):
    """The rows of one source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="where the numbers are stated: work, table, remarks")
    recipes: tuple[str, ...] = Field(description="our recipes with which they can be compared, as shell patterns")
    rows: tuple[PublishedRow, ...]


class PublishedWeights(BaseModel):
    """Checkpoints to download from ``<address>/<name>-<first digits of its SHA-256>.pth``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str
    files: dict[str, str] = Field(description="name -> first digits of its SHA-256")


class Published(BaseModel):
    """A paper's ``published.yaml``; keys beyond these are the paper's own, read by its pages (`own`)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    entries: tuple[PublishedEntry, ...] = ()
    weights: PublishedWeights | None = None

    @property
    def own(self) -> dict[str, Any]:
        return self.__pydantic_extra__ or {}

    def cell(self, recipe: str, model: str, state: str, key: str) -> tuple[float, str] | None:
        """(number, source) stated for this cell, or None. The first matching row wins."""
        for entry in self.entries:
            if not any(fnmatchcase(recipe, pattern) for pattern in entry.recipes):
                continue
            for row in entry.rows:
                named = any(fnmatchcase(model, pattern) for pattern in row.models)
                if named and row.state == state and (number := row.number(key)) is not None:
                    return number, entry.source
        return None


def read_published(path: Path) -> Published:
    """Reads a ``published.yaml``; empty if there is no such file, a `UserError` for an invalid one."""
    found = read_yaml(path) if path.is_file() else None
    try:
        return Published.model_validate(found or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {where}: {first['msg']}" if where else f"{path}: {first['msg']}") from None
