"""The evaluations by name, without torch: where each is, which settings it reads, and its columns in a table.

A new one is a file in `stillpoint.core.evaluation` and an entry here; with `everywhere`, it is in every paper's table.
A paper declares its additional evaluations in its configuration.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """How a number of ``metrics.json`` is shown: its heading, its unit, and whether higher or lower is better.

    For percent, files hold fractions. A number with another unit, such as nats, is shown as stored. One without a unit
    is a bound: the largest over seeds is shown.
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
    columns     of its table, in order
    of          what the networks that it measures predict: "classes" or "label_maps"
    everywhere  whether it is a default of EVALUATE.METRICS, and among those that ``...`` stands for
    views       (EVALUATE, images, side in pixels) -> most views that it shows the network, besides unchanged images
    """

    home: str
    reads: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    of: str = "classes"
    everywhere: bool = False
    views: Callable[[Any, int, int], int] = lambda evaluate, images, side: 0


def _pairs(evaluate: Any, images: int, side: int) -> int:
    return 2 * evaluate.repeats * images


def _altered(evaluate: Any, images: int, side: int) -> int:
    return (2 * evaluate.repeats + 1) * images


def _twice(evaluate: Any, images: int, side: int) -> int:
    return 2 * images


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
        views=_pairs,
    ),
    "windows": Entry(
        "windows:Windows",
        ("max_shift", "repeats", "margin"),
        (Column("windows_consistency", "window consistency"),),
        views=_pairs,
    ),
    "crop": Entry(
        "pairs:crop", ("max_shift", "repeats"), (Column("crop_consistency", "crop consistency"),), views=_pairs
    ),
    "fractional": Entry(
        "fractional:Fractional",
        ("fractions",),
        (Column("fractional_consistency", "sub-pixel consistency"),),
        views=lambda evaluate, images, side: evaluate.fractions * images,
    ),
    "flips": Entry(
        "pairs:flips",
        ("max_shift", "repeats"),
        (Column("flips_consistency", "consistency on images turned by 180 degrees"),),
        views=_altered,
    ),
    "erase": Entry(
        "erase:erase",
        ("max_shift", "repeats", "erase"),
        tuple(Column(f"erase{side}_consistency", f"consistency, {side}x{side} erased") for side in (3, 6, 9)),
        views=lambda evaluate, images, side: len(evaluate.erase) * _altered(evaluate, images, side),
    ),
    "all_shifts": Entry(
        "all_shifts:AllShifts",
        ("limit_all_shifts",),
        views=lambda evaluate, images, side: side * side * min(evaluate.limit_all_shifts, images),
    ),
    "worst_shift": Entry(
        "worst_shift:WorstShift",
        ("worst_shift", "limit_dear"),
        (Column("worst_shift_accuracy", "accuracy at the worst shift"),),
        views=lambda evaluate, images, side: (
            ((2 * evaluate.worst_shift + 1) ** 2 - 1) * min(evaluate.limit_dear, images)
        ),
    ),
    "subpixel": Entry(
        "subpixel:Subpixel",
        ("max_shift", "repeats", "limit_all_shifts"),
        tuple(
            Column(f"subpixel_{name}_consistency", f"consistency, {what}")
            for name, what in (("half", "half a pixel"), ("quarter", "a quarter"), ("random", "any fraction"))
        ),
        views=lambda evaluate, images, side: (
            (2 + evaluate.repeats) * images + 2 * min(evaluate.limit_all_shifts, images)
        ),
    ),
    "walk": Entry(
        "walk:Walk",
        ("max_shift",),
        (Column("walk_flip_rate", "mean flip rate", better="lower"), Column("walk_stability", "diagonal stability")),
        views=lambda evaluate, images, side: 2 * evaluate.max_shift * images,
    ),
    "rotation": Entry(
        "warps:rotation", columns=(Column("rotation_consistency", "consistency, rotated by 1 degree"),), views=_twice
    ),
    "scaling": Entry(
        "warps:scaling", columns=(Column("scaling_consistency", "consistency, scaled by 3 per cent"),), views=_twice
    ),
    "corruptions": Entry(
        "corrupted:Corruptions",
        ("limit_dear",),
        (Column("corruption_error", "corruption error", better="lower"),),
        views=lambda evaluate, images, side: 45 * min(evaluate.limit_dear, images),
    ),
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
    """Every column of the evaluations of `of`, "classes" or "label_maps"."""
    return tuple(column for entry in EVALUATIONS.values() if entry.of == of for column in entry.columns)


def reads(of: str = "classes") -> dict[str, tuple[str, ...]]:
    """Each evaluation of `of`, "classes" or "label_maps", with the settings that it reads."""
    return {name: entry.reads for name, entry in EVALUATIONS.items() if entry.of == of}


#: every column of the evaluations of classes
COLUMNS = columns()
#: the evaluations in every table
EVERYWHERE = tuple(name for name, entry in EVALUATIONS.items() if entry.everywhere)
#: the files of `stillpoint.core.evaluation` that define them
FILES = tuple(sorted({entry.home.partition(":")[0] for entry in EVALUATIONS.values()}))


def views(evaluate: Any, images: int, side: int) -> int:
    """Most views that core's evaluations in EVALUATE.METRICS show a network of `images` of `side` x `side` pixels."""
    own = [EVALUATIONS[name] for name in evaluate.metrics if name in EVALUATIONS]
    return images + sum(entry.views(evaluate, images, side) for entry in own)
