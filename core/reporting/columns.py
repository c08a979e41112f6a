"""The columns of a table, and the formatting of their numbers.

Core's columns are those of its evaluations (`stillpoint.core.config.evaluations`). A paper adds or reorders columns
with `arranged`.
"""

from collections.abc import Iterable

from stillpoint.core.config.evaluations import COLUMNS, Column

#: The two axes of the Pareto front.
AXES = ("accuracy", "circular_consistency")


def arranged(*own: Column | str, without: Iterable[str] = ()) -> tuple[Column, ...]:
    """Core's columns with a paper's: first those named here, in this order, then the rest of core's.

    `own` are columns, or keys of core's columns to move here; a column with a key of core's replaces it. `without` are
    keys of core's columns that the paper does not show. Raises ValueError for a key that core does not have.
    """
    core, left_out = {column.key: column for column in COLUMNS}, set(without)
    if unknown := {key for key in (*own, *left_out) if isinstance(key, str)} - set(core):
        raise ValueError(f"core has no column {min(unknown)!r}: choose from {', '.join(core)}")
    first = [core[column] if isinstance(column, str) else column for column in own]
    placed = left_out | {column.key for column in first}
    return (*first, *(column for column in COLUMNS if column.key not in placed))


def described(key: str, columns: Iterable[Column] = COLUMNS) -> Column | None:
    """The column that formats a number of ``metrics.json``; None for a plain number (count, slope, largest change).

    It is the number's own, or the one with the longest key in its name (``accuracy_standard_error``,
    ``normalised_kl_vertical_pixel``); other consistencies are percentages too.
    """
    units = {column.key: column for column in columns}
    if key in units:
        return units[key]
    near = [column for column in units.values() if f"_{column.key}_" in f"_{key}_"]
    if near:
        closest = max(near, key=lambda column: len(column.key))
        return Column(key, key.replace("_", " "), closest.unit, closest.better)
    share = bool({"consistency", "consistent"} & set(key.split("_")))
    return Column(key, key.replace("_", " ")) if share else None


def show_plain(value: float) -> str:
    """A number without a column: a count in full, any other with four digits."""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def show(column: Column, value: float | None, spread: float | None = None, *, signed: bool = False) -> str:
    """A number in the column's unit as a table shows it, ``95.31 ± 0.42`` with its spread; "" for none.

    A percentage has two decimals, but is never rounded up to 100: exactly 100 is written ``100``, and 99.998 gets as
    many decimals as distinguish it from 100. A bound is written ``3.1e-07`` and has no spread, and a number in another
    unit (nats) has four decimals.
    """
    if value is None:
        return ""
    if column.unit == "":
        return "0" if value == 0 else f"{value:.1e}"
    digits = 2 if column.unit == "%" else 4
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if column.unit == "%" and not signed:
        text = percent(value)
    return text if spread is None else f"{text} ± {spread:.{digits}f}"


def percent(value: float) -> str:
    """A percentage with two decimals, or with as many as distinguish it from 100; exactly 100 is ``100``."""
    if value == 100:
        return "100"
    digits = 2
    while digits < 12 and round(value, digits) >= 100:
        digits += 1
    return f"{value:.{digits}f}"
