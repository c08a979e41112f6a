"""The paper's results: clean accuracy against robustness, lambda and noise, attacks, and reconstructions."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillpoint.core.base.errors import UserError
from stillpoint.core.reporting.columns import Column, arranged
from stillpoint.core.reporting.reading import read_maps
from stillpoint.pipelines.results import Figure, Needs, Page, Results, Shown, consistency_accuracy, learning_curves
from stillpoint.pipelines.sdnet import pages

if TYPE_CHECKING:
    import numpy as np

COLUMNS = arranged(
    "accuracy",
    Column("robustness_noises_accuracy", "four noises"),
    Column("robustness_line_noises_accuracy", "four noises, lambda by the line"),
    Column("robustness_error", "mean corruption error, 15", better="lower"),
    Column("robustness_line_error", "mean corruption error, 15, lambda by the line", better="lower"),
    Column("robustness_error_19", "mean corruption error, 19", better="lower"),
    Column("attack_linf_accuracy", "accuracy under PGD, largest pixel"),
    Column("attack_l2_accuracy", "accuracy under PGD, Euclidean"),
)
#: kind of a grid of reconstructions -> its description in the title
SHOWN = {
    "raw": "as they are, cut to [0, 1]",
    "normalised": "every channel of a picture stretched to [0, 1]",
    "equalised": "stretched, and with equalised histograms",
    "differences": "less the mean of the pictures in a row, then stretched",
}
AXES = ("accuracy", "robustness_noises_accuracy")


def _held(results: Results, name: str) -> "dict[str, list[dict[str, np.ndarray]]]":
    """Network -> the maps of its seeds, for networks with a map of this name; `UserError` if there is none."""
    found: dict[str, list[dict[str, np.ndarray]]] = {}
    for model, runs in results.runs.items():
        maps = [read_maps(run.maps) for run in runs]
        own = [{key.removeprefix("trained/"): value for key, value in one.items()} for one in maps]
        if own and all(name in one for one in own):
            found[model] = own
    if not found:
        raise UserError(
            f"no network has {name}: add {name.split('_')[0]} to EVALUATE.METRICS, and a network that has it to GRID"
        )
    return found


def corruptions(results: Results, path: Path) -> None:
    """Draws accuracy under each corruption, mean over severities and seeds."""
    from stillpoint.pipelines.sdnet import figures

    held = _held(results, "robustness_severities")
    figures.corruptions(held, path, title=f"{results.table.title}; {pages.origin(results)}")


def lambda_sweep(results: Results, path: Path) -> None:
    """Draws accuracy at every lambda, for each noise and level, on the images on which lambda is chosen."""
    from stillpoint.pipelines.sdnet import figures

    figures.lambda_sweep(_held(results, "robustness_sweep_accuracy"), path, title=results.table.title)


def lambda_line(results: Results, path: Path) -> None:
    """Draws the best lambda against the reconstruction error, and the fitted lines."""
    from stillpoint.pipelines.sdnet import figures

    figures.lambda_line(_held(results, "robustness_sweep_lines"), path, title=results.table.title)


def attack(results: Results, path: Path) -> None:
    """Draws accuracy at several lambdas under attacks made at the same lambda, and at that of training."""
    from stillpoint.pipelines.sdnet import figures

    figures.attack(_held(results, "attack_linf_curves"), list(results.runs), path, title=results.table.title)


def _pictures(results: Results, path: Path, kind: str) -> None:
    from stillpoint.pipelines.sdnet import figures

    model, maps = next(iter(_held(results, "reconstructions_pixels").items()))
    title = f"{model}, seed {results.runs[model][0].seed}: what each stage keeps; {SHOWN[kind]}"
    figures.reconstructions(maps[0]["reconstructions_pixels"], kind, path, title=title)


def notes(results: Results) -> list[str]:
    """The origin of the corrupted images, noted below every table with numbers on them."""
    said = pages.origin(results)
    held = any(column.key.startswith("robustness") for column in results.table.held)
    return [said[0].upper() + said[1:]] if held else []


ROBUSTNESS, CODED = Needs("robustness"), Needs("robustness", "sdnet*")
FIGURES = {
    "robustness_accuracy": Figure(consistency_accuracy, ROBUSTNESS),
    "learning_curves": Figure(learning_curves),
    "corruptions": Figure(corruptions, ROBUSTNESS),
    "lambda_sweep": Figure(lambda_sweep, CODED),
    "lambda_line": Figure(lambda_line, CODED),
    "attack": Figure(attack, Needs("attack", "sdnet*")),
}
PICTURES = {
    f"reconstructions_{kind}": Figure(partial(_pictures, kind=kind), Needs("reconstructions", "*_noshortcut"))
    for kind in SHOWN
}
PAGES = {
    "pretrained.md": Page(pages.pretrained, Needs(recipes=pages.EVERY_RECIPE), reads=pages.EVERY_RECIPE),
    "corruptions.md": Page(pages.corruptions, ROBUSTNESS),
    "corruptions.csv": Page(pages.corruptions_csv, ROBUSTNESS),
    "noises.md": Page(pages.noises, ROBUSTNESS),
    "speed.md": Page(pages.speed),
}


def shown(config: Any) -> Shown:
    """How a recipe's results are shown; a network with a MODEL.DOWNSAMPLE cannot be inverted."""
    pictures = PICTURES if config.model.downsample == "none" else {}
    return Shown(COLUMNS, AXES, {**FIGURES, **pictures}, PAGES, notes)
