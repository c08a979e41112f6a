"""The paper's results: accuracy on one crop and ten, divergence and flip rates over shifts, kernels, cost."""

from pathlib import Path
from typing import TYPE_CHECKING

from stillpoint.core.reporting.columns import Column, arranged
from stillpoint.core.reporting.reading import read_maps, read_metrics
from stillpoint.pipelines.results import Figure, Needs, Page, Results, Shown, learning_curves
from stillpoint.pipelines.wavelet_twins import pages

if TYPE_CHECKING:
    import numpy as np

    from stillpoint.core.config.schema import RunConfig

DIRECTIONS = ("horizontal", "vertical", "diagonal")
#: perturbations of ImageNet-P whose rates the authors stored
VIDEOS = ("brightness", "motion_blur", "rotate", "scale", "snow", "tilt", "translate", "zoom_blur")
COLUMNS = arranged(
    Column("accuracy", "accuracy, one crop"),
    Column("tencrops_accuracy", "accuracy, ten crops"),
    Column("shifts_accuracy", "accuracy, not normalised"),
    *(Column(f"kl_{way}", f"divergence, {way} shifts, not normalised", "nats", "lower") for way in DIRECTIONS),
    *(Column(f"mfr_{way}", f"flip rate, {way} shifts, not normalised", "%", "lower") for way in DIRECTIONS),
    Column("kl_all", "divergence, all pairs of shifts, not normalised", "nats", "lower"),
    Column("mfr_all", "flip rate, all pairs of shifts, not normalised", "%", "lower"),
    Column("normalised_kl_diagonal", "divergence, diagonal shifts, normalised", "nats", "lower"),
    Column("normalised_mfr_diagonal", "flip rate, diagonal shifts, normalised", "%", "lower"),
    *(Column(f"perturbations_{kind}", f"flip rate, videos: {kind.replace('_', ' ')}", "%", "lower") for kind in VIDEOS),
    # for other perturbations
    Column("perturbations", "flip rate on perturbed videos", "%", "lower"),
)
#: with normalisation: without it a network may predict one class for all images, and never flip
AXES = ("accuracy", "normalised_mfr_diagonal")
#: infix of a short name -> the paper's names: without wavelets, with, with modulus
NAMES = {
    "": ("CNN", "WCNN", "CWCNN"),
    "zh3": ("BlurCNN", "BlurWCNN", "CBlurWCNN"),
    "zo3": ("ABlurCNN", "ABlurWCNN", "CABlurWCNN"),
}


def title(model: str) -> str:
    """A short name with the paper's name of its kind: ``R18zh3wyC_mod`` -> ``R18zh3wyC_mod (CBlurWCNN)``."""
    infix = next((name for name in ("zh3", "zo3") if name in model), "")
    kind = 0 if "wy" not in model else 2 if model.endswith("_mod") else 1
    abl = ", ablated" if model.endswith("_abl") else ""
    return f"{model} ({NAMES[infix][kind]}{abl})"


def _curves(results: Results, name: str) -> "dict[str, list[np.ndarray]]":
    """The curves of each network's seeds, for networks with any."""
    found = {}
    for model, runs in results.runs.items():
        maps = [read_maps(run.maps) for run in runs]
        own = [held[f"trained/{name}_curve"] for held in maps if f"trained/{name}_curve" in held]
        if own:
            found[model] = own
    return found


def _panels(results: Results, kind: str) -> "dict[tuple[str, str], dict[str, list[np.ndarray]]]":
    """{(row, column): curves} for shifted images without and with normalisation (rows) and directions (columns)."""
    rows = {"": "not normalised (the authors')", "normalised_": "normalised"}
    held = {
        (shown, way): _curves(results, f"{prefix}{kind}_{way}") for prefix, shown in rows.items() for way in DIRECTIONS
    }
    return {place: curves for place, curves in held.items() if curves}


def divergence(results: Results, path: Path) -> None:
    """Draws divergence over the shift."""
    from stillpoint.pipelines.wavelet_twins import figures

    first = next(iter(results.runs.values()))[0]
    divide = read_metrics(first)["evaluate"]["KL_DIVIDE"]
    figures.curves(
        _panels(results, "kl"),
        path,
        title=f"{results.table.title}: divergence from the unshifted image",
        across="shift (pixels)",
        up="KL divergence (nats)",
        step=1 / divide,
        name=title,
    )


def flip_rate(results: Results, path: Path) -> None:
    """Draws flip rate over the step."""
    from stillpoint.pipelines.wavelet_twins import figures

    figures.curves(
        _panels(results, "mfr"),
        path,
        title=f"{results.table.title}: how often the class changes from one shift to another",
        across="step (pixels)",
        up="flip rate (%)",
        scale=100,
        start=1,
        name=title,
    )


def accuracy_flips(results: Results, path: Path) -> None:
    """Draws flip rate against accuracy, with the stored classifiers if they were measured on the same images."""
    from stillpoint.pipelines.wavelet_twins import figures

    figures.accuracy_flips(results.table, path, name=title)


def kernels(results: Results, path: Path) -> None:
    """Draws the trained first layers of the first network with wavelets and the first with modulus, first seeds."""
    from stillpoint.pipelines.wavelet_twins import figures
    from stillpoint.pipelines.wavelet_twins.models import twin

    chosen = {}
    for ending in (False, True):
        own = [model for model in results.runs if "wy" in model and model.endswith("_mod") == ending]
        if own:
            chosen[own[0]] = results.runs[own[0]][0]
    sheets = {}
    for model, run in chosen.items():
        first = twin(results.paper.trained(run))
        assert first is not None, f"{model} has wavelets"
        sheets[f"{title(model)}, seed {run.seed}"] = figures.kernel_sheet(first, 224).numpy()
    figures.kernels(sheets, path, title=results.table.title)


SHIFTS = Needs("shifts")
FIGURES = {
    "accuracy_flips": Figure(accuracy_flips, SHIFTS),
    "divergence": Figure(divergence, SHIFTS),
    "flip_rate": Figure(flip_rate, SHIFTS),
    "kernels": Figure(kernels, Needs(networks="*wy*"), kept=False),
    "learning_curves": Figure(learning_curves),
}
PAGES = {
    "classifiers.md": Page(pages.classifiers, Needs(recipes=pages.STORED_RECIPES)),
    "shifts.md": Page(pages.shifts, SHIFTS),
    "cost.md": Page(pages.cost_markdown, files=(pages.TIMES,)),
    "cost.csv": Page(pages.cost_csv, files=(pages.TIMES,)),
}


def shown(config: "RunConfig") -> Shown:
    return Shown(COLUMNS, AXES, FIGURES, PAGES)
