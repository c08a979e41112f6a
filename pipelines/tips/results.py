"""The paper's table: accuracy, consistency and fidelity under standard and circular shifts, by our protocol."""

from typing import TYPE_CHECKING

from stillpoint.core.reporting.columns import Column, arranged
from stillpoint.pipelines.results import Figure, Shown, consistency_accuracy, learning_curves

if TYPE_CHECKING:
    from stillpoint.core.config.schema import RunConfig

COLUMNS = arranged(
    "accuracy",
    *(
        Column(f"{kind}_shift_{measure}", f"{title}, {kind} shifts")
        for kind in ("standard", "circular")
        for measure, title in (
            ("consistency", "consistency"),
            ("fidelity", "fidelity (accuracy x consistency)"),
            ("stability", "stability"),
        )
    ),
)
FIGURES = {"consistency_accuracy": Figure(consistency_accuracy), "learning_curves": Figure(learning_curves)}


def shown(config: "RunConfig") -> Shown:
    return Shown(COLUMNS, ("accuracy", "circular_shift_consistency"), FIGURES)
