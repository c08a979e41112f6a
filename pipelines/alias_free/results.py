"""The table: the paper's columns beside core's."""

from stillpoint.core.config.schema import RunConfig
from stillpoint.core.reporting.columns import Column, arranged
from stillpoint.pipelines.results import Shown

GRIDS = (
    Column("integer_grid_accuracy", "right under all whole-pixel shifts"),
    Column("half_grid_accuracy", "right under all half-pixel shifts"),
    Column("fraction_grid_accuracy", "right under all fractional shifts"),
    Column("crop_grid_accuracy", "right in all crops"),
    Column("translation_grid_accuracy", "right under all translations"),
)


def shown(config: RunConfig) -> Shown:
    return Shown(columns=arranged("accuracy", "circular_consistency", *GRIDS))
