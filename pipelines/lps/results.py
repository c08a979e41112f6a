"""The paper's table: accuracy, consistency, and the largest change of a logit under circular shifts."""

from typing import TYPE_CHECKING

from stillpoint.core.config.catalogue import info
from stillpoint.core.config.evaluations import columns
from stillpoint.core.reporting.columns import Column, arranged
from stillpoint.pipelines.results import Figure, Shown, consistency_accuracy, learning_curves

if TYPE_CHECKING:
    from stillpoint.core.config.schema import RunConfig

COLUMNS = arranged(
    "accuracy",
    "circular_consistency",
    "circular_max_logit_change",
    "crop_consistency",
    Column("standard_consistency", "consistency of windows"),
    Column("rolled_consistency", "consistency of rolls, authors' protocol"),
)
FIGURES = {"consistency_accuracy": Figure(consistency_accuracy), "learning_curves": Figure(learning_curves)}


def shown(config: "RunConfig") -> Shown:
    """Depends on what the recipe's networks predict: a class for each image, or for each pixel."""
    if info(config.data.name).label_maps:
        return Shown(columns("label_maps"), ("segmentation_mean_iou", "circular_maps_agreement"), FIGURES)
    return Shown(COLUMNS, ("accuracy", "circular_consistency"), FIGURES)
