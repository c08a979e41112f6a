"""Reads YAML, JSON and CSV within bounds, so that a damaged or hostile file ends in an error message.

A file that is too large, nested too deep, self-referential or invalid is refused early, by a `UserError` that names it.
"""

import csv
import io
import json
import math
import stat
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from stillpoint.core.base.errors import UserError

#: nested lists and mappings; our own files have six levels
DEPTH = 50
#: bytes of a YAML file, and its values once every alias is expanded
YAML_BYTES, YAML_VALUES = 4 << 20, 200_000
#: characters of an unquoted YAML value: base-60 numbers of a million take minutes, and Python prints no integer of more
#: than 4,300 digits, 3,570 in base 16
PLAIN = 3_000
JSON_BYTES = 256 << 20
CSV_BYTES = 256 << 20
#: lists, objects and separators of a JSON text, cells of a CSV file: each takes 100 to 200 bytes of memory, and a text
#: of 256 MiB can hold a hundred million
JSON_VALUES, CSV_CELLS = 10_000_000, 5_000_000


@cache
def _loader() -> type:
    """PyYAML's safe loader that also refuses duplicate keys, of which PyYAML silently keeps the last."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                    continue
                if (key.tag, key.value) in seen:
                    said = f"the key {key.value} occurs twice"
                    raise yaml.MarkedYAMLError(problem=said, problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
            return super().construct_mapping(node, deep)

    return Loader


def parse_yaml(text: str, what: str) -> Any:
    """The value of a YAML text of plain data; `what` names the text in the `UserError` for an invalid one."""
    import yaml  # imported here: most commands read no YAML

    try:
        _within_bounds(text)
        return yaml.load(text, _loader())
    # PyYAML raises various errors for a value that does not fit its tag
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UserError(f"{what} is not valid YAML: {_problem(error)}") from None


def read_yaml(path: Path) -> Any:
    """The value of a YAML file (see `parse_yaml`); None if it is empty."""
    return parse_yaml(_text(path, YAML_BYTES), str(path))


def _within_bounds(text: str) -> None:
    """ValueError for a YAML text out of bounds, found from the parser's events in time linear in the text."""
    import yaml

    open_nodes: list[tuple[str | None, int]] = []  # of each open collection: its anchor, and the count before
    sizes: dict[str, int] = {}
    values = 0
    for event in yaml.parse(text, _loader()):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_nodes):
                raise ValueError(f"the alias *{event.anchor} contains itself")
            values += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, values))
            values += 1
            if len(open_nodes) > DEPTH:
                raise ValueError(f"it is nested more than {DEPTH} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = values - before
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            is_text = not event.implicit[0] and event.tag in (None, "tag:yaml.org,2002:str")
            if not is_text and len(event.value) > PLAIN:
                raise ValueError(f"an unquoted value of {len(event.value)} characters is too long")
        if values > YAML_VALUES:
            raise ValueError(f"it has more than {YAML_VALUES} values once aliases are expanded")


def _problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    mark = getattr(error, "problem_mark", None)
    said = getattr(error, "problem", None) or (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{said} (line {mark.line + 1})" if mark is not None else said


def parse_json(text: str | bytes, what: str, *, remedy: str = "", of: type = object) -> Any:
    """The value of a JSON text; `UserError` for an invalid one, NaN and infinities included, which JSON lacks.

    `what` begins the error message and `remedy` ends it; `of` is the type that the value must have.
    """
    after = f": {remedy}" if remedy else ""
    try:
        marks = (b"[", b"{", b",") if isinstance(text, bytes) else ("[", "{", ",")
        if sum(map(text.count, marks)) > JSON_VALUES:  # type: ignore[arg-type]
            raise ValueError(f"it has more than {JSON_VALUES:,} values")
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite, parse_int=_whole)
        _shallow(value)
    except (ValueError, RecursionError) as error:
        said = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{what} cannot be read ({said}){after}") from None
    if not isinstance(value, of):
        raise UserError(f"{what} cannot be read (it holds {_kind(value)}, not {_kind(of())}){after}")
    return value


def read_json(path: Path, *, remedy: str = "", of: type = object) -> Any:
    """The value of a JSON file (see `parse_json`)."""
    return parse_json(_text(path, JSON_BYTES, remedy), str(path), remedy=remedy, of=of)


def read_rows(path: Path, *, remedy: str = "", delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a CSV file as mappings from the names in its first line to cells; `UserError` unless every row has a
    cell for each name."""
    try:
        text = _text(path, CSV_BYTES, remedy)
        if text.count(delimiter) + text.count("\n") + text.count("\r") > CSV_CELLS:
            raise ValueError(f"it has more than {CSV_CELLS:,} cells")
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
        head = lines[0] if lines else []
        if len(set(head)) < len(head):
            raise ValueError("a column occurs twice")
        for number, line in enumerate(lines[1:], 2):
            if len(line) != len(head):
                raise ValueError(f"line {number} has {len(line)} cells, the first has {len(head)}")
    except (csv.Error, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}){f': {remedy}' if remedy else ''}") from None
    return [dict(zip(head, line, strict=True)) for line in lines[1:]]


def read_numbers(path: Path, columns: Sequence[str], *, remedy: str = "") -> list[dict[str, Any]]:
    """The rows of a CSV file of finite numbers; `columns` must have no empty cells, which elsewhere are None."""
    rows = read_rows(path, remedy=remedy)
    after = f": {remedy}" if remedy else ""
    if rows and (absent := [name for name in columns if name not in rows[0]]):
        raise UserError(f"{path} cannot be read (it has no column {absent[0]}){after}")
    try:
        return [
            {name: _finite(cell) if cell or name in columns else None for name, cell in row.items()} for row in rows
        ]
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}){after}") from None


def _text(path: Path, limit: int, remedy: str = "") -> str:
    """The text of a UTF-8 file, with or without a byte-order mark."""
    after = f": {remedy}" if remedy else ""
    try:
        # checked before opening: opening a named pipe waits for a writer
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} cannot be read (it is not a regular file){after}")
        with path.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise UserError(f"{path} cannot be read (it is larger than {limit >> 20} MiB){after}")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}){after}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} cannot be read (it is not UTF-8 text){after}") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def _whole(text: str) -> int:
    _finite(text)  # an integer beyond the range of floats would become infinite in arithmetic
    return int(text)


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is not a JSON number")


def _shallow(value: Any) -> None:
    level: Iterable[Any] = [value]
    for _ in range(DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEPTH} levels deep")


def _kind(value: Any) -> str:
    kinds = {dict: "names with values", list: "a list", str: "text", bool: "a truth value", type(None): "nothing"}
    return kinds.get(type(value), "a number")
