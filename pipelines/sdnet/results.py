"""What the paper shows: clean accuracy against robustness, lambda and noise, attacks, and pictures of what is kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillpoint.core.base.errors import UserError
from stillpoint.core.reporting.tables import Metric, read_maps
from stillpoint.pipelines.results import Form, Make, Needs, Results, consistency_accuracy, learning_curves
from stillpoint.pipelines.sdnet import pages

if TYPE_CHECKING:
    import numpy as np

METRICS = (
    Metric("accuracy", "accuracy"),
    Metric("robustness_noises_accuracy", "four noises"),
    Metric("robustness_line_noises_accuracy", "four noises, lambda by the line"),
    Metric("robustness_error", "mean corruption error, 15", better="lower"),
    Metric("robustness_line_error", "mean corruption error, 15, lambda by the line", better="lower"),
    Metric("robustness_error_19", "mean corruption error, 19", better="lower"),
    Metric("attack_linf_accuracy", "accuracy under PGD, largest pixel"),
    Metric("attack_l2_accuracy", "accuracy under PGD, Euclidean"),
)
#: what a grid of reconstructions shows
SHOWN = {
    "raw": "as they are, cut to [0, 1]",
    "normalised": "every channel of a picture stretched to [0, 1]",
    "equalised": "stretched, and with equalised histograms",
    "differences": "less the mean of the pictures in a row, then stretched",
}
AXES = ("accuracy", "robustness_noises_accuracy")


def _held(results: Results, name: str) -> "dict[str, list[dict[str, np.ndarray]]]":
    """Network -> the maps of its seeds, of those that hold one of this name; a `UserError` where none does."""
    found: dict[str, list[dict[str, np.ndarray]]] = {}
    for model, runs in results.runs.items():
        maps = [read_maps(run.maps) for run in runs]
        own = [{key.removeprefix("trained/"): value for key, value in one.items()} for one in maps]
        if own and all(name in one for one in own):
            found[model] = own
    if not found:
        raise UserError(
            f"no network holds {name}: add {name.split('_')[0]} to EVALUATE.METRICS, and its network to GRID"
        )
    return found


def corruptions(results: Results, path: Path) -> None:
    """Accuracy under each corruption, mean over severities and seeds."""
    from stillpoint.pipelines.sdnet import figures

    held = _held(results, "robustness_severities")
    figures.corruptions(held, path, title=f"{results.table.title}; {pages.origin(results)}")


def lambda_sweep(results: Results, path: Path) -> None:
    """Accuracy at every lambda, for each noise and level, of the images that lambda is chosen on."""
    from stillpoint.pipelines.sdnet import figures

    figures.lambda_sweep(_held(results, "robustness_sweep_accuracy"), path, title=results.table.title)


def lambda_line(results: Results, path: Path) -> None:
    """The best lambda against the reconstruction error, and the fitted lines."""
    from stillpoint.pipelines.sdnet import figures

    figures.lambda_line(_held(results, "robustness_sweep_lines"), path, title=results.table.title)


def attack(results: Results, path: Path) -> None:
    """Accuracy under attack at several lambdas: attacked at the same one, and with pictures made for another."""
    from stillpoint.pipelines.sdnet import figures

    figures.attack(_held(results, "attack_linf_curves"), list(results.runs), path, title=results.table.title)


def _pictures(results: Results, path: Path, kind: str) -> None:
    from stillpoint.pipelines.sdnet import figures

    model, maps = next(iter(_held(results, "reconstructions_pixels").items()))
    title = f"{model}, seed {results.runs[model][0].seed}: what each stage keeps; {SHOWN[kind]}"
    figures.reconstructions(maps[0]["reconstructions_pixels"], kind, path, title=title)


def reconstructions_raw(results: Results, path: Path) -> None:
    _pictures(results, path, "raw")


def reconstructions_normalised(results: Results, path: Path) -> None:
    _pictures(results, path, "normalised")


def reconstructions_equalised(results: Results, path: Path) -> None:
    _pictures(results, path, "equalised")


def reconstructions_differences(results: Results, path: Path) -> None:
    _pictures(results, path, "differences")


FIGURES: dict[str, Make] = {
    "robustness_accuracy": consistency_accuracy,
    "learning_curves": learning_curves,
    "corruptions": corruptions,
    "lambda_sweep": lambda_sweep,
    "lambda_line": lambda_line,
    "attack": attack,
    "reconstructions_raw": reconstructions_raw,
    "reconstructions_normalised": reconstructions_normalised,
    "reconstructions_equalised": reconstructions_equalised,
    "reconstructions_differences": reconstructions_differences,
}
NEEDS: Needs = {
    "robustness_accuracy": ("robustness", "*"),
    "corruptions": ("robustness", "*"),
    "lambda_sweep": ("robustness", "sdnet*"),
    "lambda_line": ("robustness", "sdnet*"),
    "attack": ("attack", "sdnet*"),
    **{f"reconstructions_{kind}": ("reconstructions", "*_noshortcut") for kind in SHOWN},
}


def NOTES(results: Results) -> list[str]:
    """Where the corrupted images are from, below every table that has a number of theirs."""
    said = pages.origin(results)
    shown = any(metric.key.startswith("robustness") for metric in results.table.metrics)
    return [said[0].upper() + said[1:]] if shown else []


PAGES: dict[str, Make] = {
    "pretrained.md": pages.pretrained,
    "corruptions.md": pages.corruptions,
    "corruptions.csv": pages.corruptions_csv,
    "noises.md": pages.noises,
    "speed.md": pages.speed,
}


def form(config: Any) -> Form:
    """How a recipe's results are shown: a network with a MODEL.DOWNSAMPLE cannot be inverted."""
    inverted = config.model.downsample == "none"
    figures = {name: make for name, make in FIGURES.items() if inverted or not name.startswith("reconstructions")}
    return Form(METRICS, AXES, figures, PAGES, NOTES)
