"""The evaluations by name, without torch: where each lives, which settings it reads, and its columns in a table.

A new one is a file in `stillpoint.core.evaluation` and a line here; with `everywhere`, it stands in every paper's
table. A paper declares its additional evaluations in its configuration.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """How a number of ``metrics.json`` is shown: heading, unit (for percent, files hold fractions), direction of
    better.

    A number with a unit other than percent, such as nats, is shown as stored. One without a unit is a bound, and over
    seeds the largest is shown.
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
        """The factor from a stored number to the column's unit."""
        return 100.0 if self.unit == "%" else 1.0


@dataclass(frozen=True)
class Entry:
    """One evaluation.

    home        its factory as ``file:name``
    reads       the fields of the EVALUATE section that it reads
    columns     of a table, in order
    of          what it measures: networks that give "classes" of images, or "label_maps"
    everywhere  whether it is measured where a recipe does not say, and stands for ``...`` in EVALUATE.METRICS
    """

    home: str
    reads: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    of: str = "classes"
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
    "crop": Entry("pairs:crop", ("max_shift", "repeats"), (Column("crop_consistency", "crop consistency"),)),
    "fractional": Entry(
        "fractional:Fractional", ("fractions",), (Column("fractional_consistency", "sub-pixel consistency"),)
    ),
    "flips": Entry(
        "pairs:flips",
        ("max_shift", "repeats"),
        (Column("flips_consistency", "consistency on images turned by 180 degrees"),),
    ),
    "erase": Entry(
        "erase:erase",
        ("max_shift", "repeats", "erase"),
        tuple(Column(f"erase{side}_consistency", f"consistency, {side}x{side} erased") for side in (3, 6, 9)),
    ),
    "all_shifts": Entry("all_shifts:AllShifts", ("limit_all_shifts",)),
    "segmentation": Entry(
        "segmentation:Segmentation",
        columns=(
            Column("segmentation_mean_iou", "mean IoU"),
            Column("segmentation_mean_accuracy", "mean class accuracy"),
            Column("segmentation_pixel_accuracy", "pixel accuracy"),
        ),
        of="label_maps",
    ),
    "circular_maps": Entry(
        "segmentation:CircularMaps",
        ("max_shift", "repeats"),
        (
            Column("circular_maps_agreement", "circular mASSC"),
            Column("circular_maps_iou", "mean IoU of moved with moving maps"),
        ),
        of="label_maps",
    ),
    "crop_maps": Entry(
        "segmentation:CropMaps",
        ("max_shift", "repeats"),
        (Column("crop_maps_agreement", "linear mASSC"),),
        of="label_maps",
    ),
}


def columns(of: str = "classes") -> tuple[Column, ...]:
    """Every column of the evaluations of that kind."""
    return tuple(column for entry in EVALUATIONS.values() if entry.of == of for column in entry.columns)


def reads(of: str = "classes") -> dict[str, tuple[str, ...]]:
    """Evaluation of that kind -> the settings that it reads."""
    return {name: entry.reads for name, entry in EVALUATIONS.items() if entry.of == of}


#: every column of the evaluations of classes
COLUMNS = columns()
#: what every table has
EVERYWHERE = tuple(name for name, entry in EVALUATIONS.items() if entry.everywhere)
#: the files of `stillpoint.core.evaluation` that hold them
FILES = tuple(sorted({entry.home.partition(":")[0] for entry in EVALUATIONS.values()}))
