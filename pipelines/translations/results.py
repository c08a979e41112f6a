"""The lesson's results: its table and Pareto front, the notebook's test passes, and its figures.

Figures of one network show the first seed of TwoFullNet or, without it, of the table's first network.
"""

from pathlib import Path
from typing import Any

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.reporting.columns import Column, arranged
from stillpoint.core.reporting.reading import read_maps as stored_maps
from stillpoint.core.reporting.reading import read_metrics
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.results import Figure, Needs, Page, Results, Shown, consistency_accuracy
from stillpoint.pipelines.results import learning_curves as plain_curves
from stillpoint.pipelines.translations import pages
from stillpoint.pipelines.translations.passes import published_passes, run_passes

COLUMNS = arranged(
    "accuracy",
    Column("translated_consistency", "consistency under translation"),
    "circular_consistency",
    without=("circular_max_logit_change",),
)
AXES = ("accuracy", "translated_consistency")


def shown_run(results: Results, model: str = "TwoFullNet") -> Run:
    """The run for figures of one network: the first seed of `model` or, without it, of the table's first network."""
    own = results.runs.get(model) or next(iter(results.runs.values()))
    return own[0]


def read_maps(run: Run, names: tuple[str, ...], state: str = "trained") -> dict[str, Any]:
    """Arrays of a run's ``maps.safetensors``; `UserError` if their evaluation was not run."""
    found = stored_maps(run.maps)
    if absent := [name for name in names if f"{state}/{name}" not in found]:
        raise UserError(f"{run.maps} does not hold {absent[0]}: add {absent[0].split('_')[0]} to EVALUATE.METRICS")
    return {name: found[f"{state}/{name}"] for name in names}


def class_names(recipe: str) -> tuple[str, ...]:
    """Names of the classes: Fashion-MNIST's, or the digits."""
    if not recipe.startswith("fashion_mnist"):
        return tuple("0123456789")
    from stillpoint.core.data.sources.fashion_mnist import CLASSES

    return CLASSES


def samples(results: Results, path: Path) -> None:
    from stillpoint.pipelines.translations import figures

    grid = read_maps(shown_run(results), ("samples_grid",))["samples_grid"]
    figures.samples(grid, class_names(results.recipe), path, title=f"{results.table.title}")


def learning_curves(results: Results, path: Path) -> None:
    from stillpoint.pipelines.translations import figures

    curves = {model: [run_passes(run) for run in runs] for model, runs in results.runs.items()}
    known = {
        model: list(published_passes(results.paper.published, results.recipe, model).values()) for model in results.runs
    }
    figures.learning_curves(curves, {m: p for m, p in known.items() if p}, path, title=results.table.title)


def confusion(results: Results, path: Path) -> None:
    from stillpoint.pipelines.translations import figures

    run = shown_run(results)
    counts = read_maps(run, ("confusion_counts",))["confusion_counts"]
    figures.confusion(counts, class_names(results.recipe), path, title=f"{run.model}, seed {run.seed}: test images")


def class_images(results: Results, path: Path) -> None:
    from stillpoint.pipelines.translations import figures

    run = shown_run(results)
    names = tuple(f"maximisers_class_{what}" for what in ("images", "losses", "probabilities"))
    images, losses, chances = read_maps(run, names).values()
    title = f"{run.model}, seed {run.seed}: the image that maximises each class, from a zero image"
    figures.class_images(images, losses, chances, class_names(results.recipe), path, title=title)


def neurons(results: Results, path: Path) -> None:
    from stillpoint.pipelines.translations import figures

    run = shown_run(results)
    names = ("maximisers_neuron_images", "maximisers_neuron_shares")
    images, shares = read_maps(run, names).values()
    before = read_metrics(run).get("untrained", {}).get("maximisers_stripes")
    told = "" if before is None else f"; {before:.1%} before training"
    title = (
        f"{run.model}, seed {run.seed}: images that maximise each hidden neuron\nin its strongest pair of frequencies "
        f"an image has {shares.mean():.1%} of its energy{told}"
    )
    figures.neurons(images, shares, path, title=title)


def second_layer(results: Results, path: Path) -> None:
    from stillpoint.core.runs.checkpoint import read_tensors
    from stillpoint.pipelines.translations import figures

    run = shown_run(results)
    weights = read_tensors(run.weights)[0]["fc2.weight"].numpy()
    figures.second_layer(
        weights, class_names(results.recipe), path, title=f"{run.model}, seed {run.seed}: second layer"
    )


MAXIMISERS = Needs("maximisers")
FIGURES = {
    "consistency_accuracy": Figure(consistency_accuracy),
    "learning_curves": Figure(learning_curves),
    "samples": Figure(samples, Needs("samples"), kept=False),
    "confusion": Figure(confusion, Needs("confusion")),
    "class_images": Figure(class_images, MAXIMISERS),
    "neurons": Figure(neurons, MAXIMISERS, kept=False),
    "second_layer": Figure(second_layer, kept=False),
}
TRANSLATED = Needs("translated")
LESSON = {"lesson.csv": Page(pages.lesson_csv, TRANSLATED), "lesson.md": Page(pages.lesson_markdown, TRANSLATED)}
PASSES = {"passes.csv": Page(pages.passes_csv), "passes.md": Page(pages.passes_markdown)}


def shown(config: RunConfig) -> Shown:
    """Columns, axes, figures and pages, with those of the test passes only if the recipe tests after each epoch."""
    if config.train.test_each_epoch:
        return Shown(COLUMNS, AXES, FIGURES, {**PASSES, **LESSON})
    return Shown(COLUMNS, AXES, {**FIGURES, "learning_curves": Figure(plain_curves)}, LESSON)
