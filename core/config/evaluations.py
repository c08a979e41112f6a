"""The evaluations by name, without torch: where each lives, which settings it reads, and its columns in a table.

A new one is a file of `stillpoint.core.evaluation` and a line here; with `everywhere`, every paper's table has it from
then on. A paper's own are said by its configuration.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """How a number of ``metrics.json`` is shown: heading, unit (percent: files hold fractions), which way is better.

    A number that is not a percentage and has a unit, such as nats, is shown as it is stored. One without a unit is a
    bound: over seeds, the largest is what holds.
    """

    key: str
    title: str
    unit: str = "%"
    better: str = "higher"

    @property
    def heading(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def scale(self) -> float:
        """What a number in a file is multiplied by to be in the column's unit."""
        return 100.0 if self.unit == "%" else 1.0


@dataclass(frozen=True)
class Entry:
    """One evaluation.

    home        its factory as ``file:name``
    reads       the fields of the EVALUATE section that it reads
    columns     of a table, in order
    everywhere  whether it is measured where a recipe does not say, and stands for ``...`` in EVALUATE.METRICS
    """

    home: str
    reads: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    everywhere: bool = False


#: in the order of a table's columns
EVALUATIONS: dict[str, Entry] = {
    "accuracy": Entry(
        "accuracy:OnUnshifted",
        columns=(Column("accuracy", "accuracy"), Column("accuracy_top5", "accuracy, top 5")),
        everywhere=True,
    ),
    "circular": Entry(
        "pairs:ShiftPairs",
        ("max_shift", "repeats"),
        (
            Column("circular_consistency", "circular consistency"),
            Column("circular_max_logit_change", "largest relative logit change", unit="", better="lower"),
        ),
    ),
    "windows": Entry(
        "windows:Windows", ("max_shift", "repeats", "margin"), (Column("windows_consistency", "window consistency"),)
    ),
    "crop": Entry("pairs:crop", ("max_shift", "repeats"), (Column("crop_consistency", "crop consistency"),)),
    "fractional": Entry(
        "fractional:Fractional", ("fractions",), (Column("fractional_consistency", "sub-pixel consistency"),)
    ),
    "flips": Entry(
        "pairs:flips",
        ("max_shift", "repeats"),
        (Column("flips_consistency", "consistency on half-turned images"),),
    ),
    "erase": Entry(
        "erase:erase",
        ("max_shift", "repeats", "erase"),
        tuple(Column(f"erase{side}_consistency", f"consistency, {side}x{side} erased") for side in (3, 6, 9)),
    ),
    "all_shifts": Entry("all_shifts:AllShifts", ("limit_all_shifts",)),
    "worst_shift": Entry(
        "worst_shift:WorstShift",
        ("worst_shift", "limit_dear"),
        (Column("worst_shift_accuracy", "accuracy at the worst shift"),),
    ),
    "subpixel": Entry(
        "subpixel:Subpixel",
        ("max_shift", "repeats", "limit_all_shifts"),
        tuple(
            Column(f"subpixel_{name}_consistency", f"consistency, {what}")
            for name, what in (("half", "half a pixel"), ("quarter", "a quarter"), ("random", "any fraction"))
        ),
    ),
    "walk": Entry(
        "walk:Walk",
        ("max_shift",),
        (Column("walk_flip_rate", "mean flip rate", better="lower"), Column("walk_stability", "diagonal stability")),
    ),
    "rotation": Entry("warps:rotation", columns=(Column("rotation_consistency", "consistency, rotated by 1 degree"),)),
    "scaling": Entry("warps:scaling", columns=(Column("scaling_consistency", "consistency, scaled by 3 per cent"),)),
    "corruptions": Entry(
        "corrupted:Corruptions", ("limit_dear",), (Column("corruption_error", "corruption error", better="lower"),)
    ),
}
#: every column of these evaluations
COLUMNS = tuple(column for entry in EVALUATIONS.values() for column in entry.columns)
#: what every table has
EVERYWHERE = tuple(name for name, entry in EVALUATIONS.items() if entry.everywhere)
#: evaluation -> the settings that it reads
READS = {name: entry.reads for name, entry in EVALUATIONS.items()}
#: the files of `stillpoint.core.evaluation` that hold them
FILES = tuple(sorted({entry.home.partition(":")[0] for entry in EVALUATIONS.values()}))
