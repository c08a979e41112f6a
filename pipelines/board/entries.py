"""An entry of the board as a file: its schema, its checks, and the statistics over its seeds.

Results folders and submitted files are both read into `Entry`, the only input of a page.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from stillpoint.core.base.documents import read_json
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import digest_of, json_text
from stillpoint.pipelines.board.measures import BY_KEY, LAW, Measure

#: settings of EVALUATE that affect no result
_IDLE = ("BATCH_SIZE", "UNTRAINED", "METRICS")
#: two-sided 95 % quantiles: of the normal distribution, and of Student's t by degrees of freedom
_NORMAL = 1.96
_STUDENT = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Word = Annotated[str, Field(max_length=200)]


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Seed(_Form):
    """One training: digest of its weights, metrics, and history of epochs (number, loss, accuracy)."""

    seed: int = Field(ge=0)
    commit: Word | None = None
    clean: bool | None = None
    weights: Digest
    metrics: dict[Word, FiniteFloat]
    history: list[tuple[FiniteFloat, FiniteFloat | None, FiniteFloat | None]] = Field(default=[], max_length=2000)


class Example(_Form):
    """An image that is misclassified after a shift: its number, shift (rows, columns), class, and predicted class."""

    image: int = Field(ge=0)
    shift: tuple[int, int]
    label: int = Field(ge=0)
    given: int = Field(ge=0)
    #: PNG in base64
    picture: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$", max_length=200_000)]


class Entry(_Form):
    """A network measured by a protocol, with one seed or several."""

    format: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,59}$")]
    method: Word
    stem: Word = "plain"
    padding: Word = ""
    training: Word = ""
    promise: Literal["none", "whole", "any"] = "none"
    network: Word
    source: Word = ""
    dataset: Word
    images: Digest
    count: int = Field(ge=1)
    recipe: Word
    protocol: dict[Word, Any]
    settings: dict[Word, Any] = {}
    command: list[Word] = []
    cost: dict[Word, FiniteFloat] = {}
    seeds: list[Seed] = Field(min_length=1, max_length=100)
    #: fraction of images that keep their class at each circular shift (rows, columns)
    map: list[list[Share]] | None = Field(default=None, max_length=512)
    example: Example | None = None

    @model_validator(mode="after")
    def _whole(self) -> "Entry":
        if len({seed.seed for seed in self.seeds}) < len(self.seeds):
            raise ValueError("its seeds must differ from one another")
        for seed in self.seeds:
            for key, value in seed.metrics.items():
                measure = BY_KEY.get(key)
                if measure is not None and measure.unit == "%" and not 0 <= value <= 1:
                    raise ValueError(f"{key} must be between 0 and 1, got {value}")
        if self.map and len({len(row) for row in self.map}) > 1:
            raise ValueError("the rows of its map must have one length")
        return self

    def stored(self) -> dict[str, Any]:
        """The entry as it is written to a file, with a digest of its content."""
        content = self.model_dump(mode="json")
        return {**content, "digest": digest_of(content)}

    def values(self, key: str) -> list[float]:
        """The values of a measure, one for each seed; empty unless all seeds have it. A cost has one value."""
        if key in self.cost:
            return [self.cost[key]]
        found = [seed.metrics[key] for seed in self.seeds if key in seed.metrics]
        return found if len(found) == len(self.seeds) else []

    def law(self, promise: str) -> bool | None:
        """Whether no logit changes by more than 1e-5, relatively; None if that was not measured.

        `promise` is "whole" for whole circular shifts, "any" for fractions of a pixel as well.
        """
        keys = ["all_shifts_max_logit_change", *(["subpixel_law_max_logit_change"] if promise == "any" else [])]
        found = [self.values(key) for key in keys]
        return None if not all(found) else all(value <= LAW for values in found for value in values)


class Number(_Form):
    """A mean over seeds in the measure's unit, with half of its 95 % interval and the interval's two parts.

    of_seeds    standard error over seeds; None for a single seed
    of_images   standard error over images, the mean over seeds, which share the images
    """

    mean: float
    half: float | None
    of_seeds: float | None
    of_images: float | None
    n: int


def number(entry: Entry, measure: Measure) -> Number | None:
    """The value of a measure with its interval; None if it was not measured.

    Images and seeds are drawn independently, so their variances add: half an interval is the root of the sum of
    (t s / root n)^2 and (1.96 e)^2, t being Student's. A bound has no interval.
    """
    values = [value * measure.scale for value in entry.values(measure.key)]
    if not values:
        return None
    if measure.bound or measure.key in entry.cost:
        return Number(mean=max(values), half=None, of_seeds=None, of_images=None, n=len(values))
    # a mean of equal numbers is that number: 100 % must not become 99.99999999999999
    mean = values[0] if len(set(values)) == 1 else fmean(values)
    n = len(values)
    of_seeds = stdev(values) / math.sqrt(n) if n > 1 else None
    errors = [value * measure.scale for value in entry.values(measure.error)]
    of_images = fmean(errors) if errors else None
    if measure.unit == "%" and of_images == 0 and set(values) <= {0.0, 100.0}:
        # the rule of three: where none of N failed, the rate of failures is below 3 / N with 95 % confidence
        counts = entry.values(measure.counted) if measure.counted else [entry.count]
        of_images = 100 * 3 / (counts or [entry.count])[0] / _NORMAL
    parts = [(_STUDENT.get(n - 1, _NORMAL), of_seeds), (_NORMAL, of_images)]
    known = [(factor * error) ** 2 for factor, error in parts if error is not None]
    return Number(mean=mean, half=math.sqrt(sum(known)) if known else None, of_seeds=of_seeds, of_images=of_images, n=n)


def protocol_of(evaluate: dict[str, Any]) -> dict[str, Any]:
    """The settings of a dumped EVALUATE section that affect results."""
    return {key: value for key, value in evaluate.items() if key not in _IDLE}


def cost_of(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """The cost over seeds: the median of each number."""
    keys = [key for key in (found[0] if found else {}) if all(key in one for one in found)]
    return {key: median(one[key] for one in found) for key in keys}


def made(content: dict[str, Any], where: str) -> Entry:
    """The entry with these fields; a `UserError` if they are invalid."""
    try:
        return Entry.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "content"
        raise UserError(
            f"{where} is not an entry of the board: {place}: {first['msg'].removeprefix('Value error, ')}"
        ) from None


def parsed(content: Any, where: str) -> Entry:
    """The entry in a parsed JSON object; a `UserError` if it is invalid or was edited by hand."""
    if not isinstance(content, dict):
        raise UserError(f"{where} is not an entry of the board: it must be a JSON object")
    rest = {key: value for key, value in content.items() if key != "digest"}
    entry = made(rest, where)
    if content.get("digest") != entry.stored()["digest"]:
        raise UserError(f"{where} was changed by hand: its digest does not match its content")
    return entry


def read_entries(path: Path) -> list[Entry]:
    """The entries of a file that holds one entry or a whole board; a `UserError` if it holds neither."""
    found = read_json(path, remedy="it is not a file of the board", of=dict)
    if "entries" not in found:
        return [parsed(found, str(path))]
    if not isinstance(found["entries"], list):
        raise UserError(f"{path} is not a file of the board: its entries must be a list")
    entries = [parsed(one, f"entry {number} of {path}") for number, one in enumerate(found["entries"], 1)]
    return together(entries)


def together(entries: Iterable[Entry]) -> list[Entry]:
    """The entries as one board; a `UserError` if two share a name, or if images or protocols differ."""
    found: list[Entry] = []
    for entry in entries:
        if any(other.name == entry.name for other in found):
            raise UserError(f"two entries are called {entry.name!r}: give one of them another name (--name)")
        first = found[0] if found else entry
        if entry.images != first.images:
            # two data sets may have the same title
            own, other = (f"{one.dataset}, digest {one.images[:12]}" for one in (entry, first))
            raise UserError(f"{entry.name} was measured on other images ({own}) than {first.name} ({other})")
        if entry.protocol != first.protocol:
            keys = sorted({*entry.protocol, *first.protocol})
            key = next(k for k in keys if entry.protocol.get(k) != first.protocol.get(k))
            raise UserError(
                f"{entry.name} was measured by another protocol than {first.name}: EVALUATE.{key} is "
                f"{entry.protocol.get(key)}, not {first.protocol.get(key)}"
            )
        found.append(entry)
    return found


#: tolerance of a repeated measurement, perhaps on another machine: of a share, and relative of any other number
_SHARE, _RELATIVE = 0.002, 0.01


def disagreements(stated: dict[str, float], found: dict[str, float]) -> list[str]:
    """``["accuracy 0.81, not 0.95", ...]``: the numbers found that differ from those stated.

    A largest or mean change of logits below 1e-5 is rounding, and agrees with any other below that.
    """
    wrong = []
    for key, value in stated.items():
        other = found.get(key)
        if other is None:
            wrong.append(f"no {key}")
            continue
        share = 0 <= value <= 1 and not key.endswith("logit_change")
        allowed = _SHARE if share else max(LAW, _RELATIVE * abs(value))
        if abs(other - value) > allowed:
            wrong.append(f"{key} {other:.6g}, not {value:.6g}")
    return wrong


def board_text(entries: Sequence[Entry]) -> str:
    """The text of a board's file."""
    return json_text({"format": 1, "entries": [entry.stored() for entry in entries]})
