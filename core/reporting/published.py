"""What a paper states: the numbers, by network and recipe, that a table shows beside ours, and weights to fetch."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from stillpoint.core.base.documents import read_yaml
from stillpoint.core.base.errors import UserError


class PublishedRow(BaseModel):
    """Numbers of some networks, by the keys of our metrics and in the units of their columns."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, FiniteFloat] = Field(init=False)

    models: tuple[str, ...] = Field(description="names of networks, as shell patterns")
    state: Literal["trained", "untrained"] = "trained"
    method: str = Field("", description="what the source calls it")

    def number(self, key: str) -> float | None:
        return (self.__pydantic_extra__ or {}).get(key)


class PublishedEntry(BaseModel):
    """The rows of one source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="where the numbers stand: work, table, what it says of them")
    recipes: tuple[str, ...] = Field(description="our recipes that they may stand beside, as shell patterns")
    rows: tuple[PublishedRow, ...]


class PublishedWeights(BaseModel):
    """Checkpoints that can be fetched: ``<address>/<name>-<first digits of its SHA-256>.pth``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str
    files: dict[str, str] = Field(description="name -> first digits of its SHA-256")


class Published(BaseModel):
    """A paper's ``published.yaml``. Keys beside these are the paper's own, and its pages read them (`own`)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    entries: tuple[PublishedEntry, ...] = ()
    weights: PublishedWeights | None = None

    @property
    def own(self) -> dict[str, Any]:
        return self.__pydantic_extra__ or {}

    def cell(self, recipe: str, model: str, state: str, key: str) -> tuple[float, str] | None:
        """(number, source) that is stated for this cell, or None. The first row that matches wins."""
        for entry in self.entries:
            if not any(fnmatchcase(recipe, pattern) for pattern in entry.recipes):
                continue
            for row in entry.rows:
                named = any(fnmatchcase(model, pattern) for pattern in row.models)
                if named and row.state == state and (number := row.number(key)) is not None:
                    return number, entry.source
        return None


def read_published(path: Path) -> Published:
    """What a paper states; nothing where there is no such file, and a `UserError` for one of another form."""
    found = read_yaml(path) if path.is_file() else None
    try:
        return Published.model_validate(found or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {where}: {first['msg']}" if where else f"{path}: {first['msg']}") from None
