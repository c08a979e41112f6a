"""What the lesson shows: its table and Pareto front, the notebook's test passes, and the notebook's pictures.

Pictures of one network show the seed 0 of the grid's first network, or of the network that their name says.
"""

import csv
import io
import statistics
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from stillpoint.core.base.documents import read_numbers, read_yaml
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import write_atomic
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.reporting import tables
from stillpoint.core.reporting.tables import Metric, percent, read_metrics
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.results import Form, Make, Needs, Results, consistency_accuracy
from stillpoint.pipelines.results import learning_curves as plain_curves

HERE = Path(__file__).resolve().parent

METRICS = (
    Metric("accuracy", "accuracy"),
    Metric("translated_consistency", "consistency under translation"),
    Metric("circular_consistency", "circular consistency"),
)
AXES = ("accuracy", "translated_consistency")


@dataclass(frozen=True)
class Pass:
    """One test pass: after how many epochs, seconds since training began, mean loss, hits and images."""

    epoch: int
    elapsed: float
    loss: float
    correct: float
    images: int

    @property
    def percent(self) -> float:
        return 100 * self.correct / self.images


def run_passes(run: Run) -> list[Pass]:
    """The test passes of a run; a `UserError` where it made none."""
    if not (run.test_history.is_file() and run.test_timing.is_file() and run.timing.is_file()):
        raise UserError(f"{run.folder} has no test passes: train it with TRAIN.TEST_EACH_EPOCH True")
    trained = {int(row["epoch"]): float(row["seconds"]) for row in _rows(run.timing)}
    tested = {int(row["epoch"]): float(row["seconds"]) for row in _rows(run.test_timing)}
    elapsed, found = 0.0, []
    for row in _rows(run.test_history):
        epoch = int(row["epoch"])
        elapsed += trained.get(epoch, 0.0) + tested[epoch]
        found.append(Pass(epoch, elapsed, float(row["test_loss"]), float(row["correct"]), int(row["images"])))
    return found


def mean_passes(runs: list[Run]) -> list[Pass]:
    """Pass by pass the means over seeds."""
    by_epoch = zip(*(run_passes(run) for run in runs), strict=True)
    means = []
    for same in by_epoch:
        elapsed, loss, correct = (
            statistics.fmean(getattr(one, name) for one in same) for name in ("elapsed", "loss", "correct")
        )
        means.append(Pass(same[0].epoch, elapsed, loss, correct, same[0].images))
    return means


def published_passes(recipe: str, model: str, path: Path = HERE / "published.yaml") -> dict[int, Pass]:
    """The notebook's test passes by epoch, where it printed any for this network and recipe."""
    for entry in read_yaml(path)["passes"]:
        named = any(fnmatchcase(model, pattern) for pattern in entry["models"])
        if named and any(fnmatchcase(recipe, pattern) for pattern in entry["recipes"]):
            images = entry["images"]
            return {row[0]: Pass(row[0], row[1], row[2], row[3], images) for row in entry["rows"]}
    return {}


def seconds_per_epoch(runs: list[Run]) -> float | None:
    """Of training alone, the median over epochs and its mean over `runs`; None where one of them has no epochs."""
    seconds = [[float(row["seconds"]) for row in _rows(run.timing)] for run in runs]
    return statistics.fmean(map(statistics.median, seconds)) if all(seconds) else None


def passes_csv(results: Results, path: Path) -> None:
    """Every test pass of every run, a line each; the notebook's numbers behind it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["network", "seed", "epoch", "elapsed_seconds", "test_loss", "correct", "images", "percent"]
    writer.writerow([*head, "notebook_seconds", "notebook_loss", "notebook_correct", "notebook_percent"])
    for model, runs in results.runs.items():
        known = published_passes(results.recipe, model)
        for run in runs:
            for one in run_passes(run):
                start = [model, run.seed, one.epoch, f"{one.elapsed:.3f}", repr(one.loss), int(one.correct), one.images]
                there = known.get(one.epoch)
                own = [there.elapsed, there.loss, int(there.correct), f"{there.percent:.2f}"] if there else [""] * 4
                writer.writerow([*start, f"{one.percent:.2f}", *own])
    write_atomic(path, text.getvalue())


def passes_markdown(results: Results, path: Path) -> None:
    """The test passes, mean over seeds, a table for each network, with the notebook's columns where it has them."""
    parts = [f"# {results.table.title}: test passes\n"]
    for model, runs in results.runs.items():
        known, means = published_passes(results.recipe, model), mean_passes(runs)
        head = ["epoch", "elapsed (s)", "test loss", f"correct of {means[0].images}", "%"]
        if known:
            head += ["notebook: elapsed (s)", "test loss", "correct", "%", "ours - notebook (points)"]
        lines = []
        for one in means:
            line = _pass_cells(one)
            if known:
                there = known.get(one.epoch)
                line += [*_pass_cells(there)[1:], f"{one.percent - there.percent:+.2f}"] if there else [""] * 5
            lines.append(line)
        parts.append(f"## {model}, mean of n = {len(runs)}\n\n{_markdown(head, lines)}")
    write_atomic(path, "\n".join(parts))


def _pass_cells(one: Pass) -> list[str]:
    return [str(one.epoch), f"{one.elapsed:.2f}", f"{one.loss:.4f}", f"{one.correct:.0f}", f"{one.percent:.2f}"]


def lesson_rows(results: Results) -> list[dict[str, Any]]:
    """A row for each network: n, accuracy and consistency with spreads (percent), parameters, seconds an epoch."""
    rows = []
    for row in results.table.rows:
        runs, cells = results.runs[row.model], row.cells["trained"]
        own: dict[str, Any] = {"network": row.model, "n": len(runs)}
        for key in AXES:
            cell = cells.get(key)
            if cell is None:
                raise UserError(f"the lesson's table needs the metric {key}: see EVALUATE.METRICS")
            own[key], own[f"{key}_spread"] = cell.mean, cell.spread
        own["parameters"] = read_metrics(runs[0])["parameters"]
        own["seconds_per_epoch"] = seconds_per_epoch(runs)
        own["pareto"] = int(row.pareto)
        rows.append(own)
    return rows


def lesson_csv(results: Results, path: Path) -> None:
    rows, text = lesson_rows(results), io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())


def lesson_markdown(results: Results, path: Path) -> None:
    head = ["network", "n", "accuracy (%)", "consistency under translation (%)", "parameters", "seconds an epoch"]

    def shown(row: dict[str, Any], key: str) -> str:
        spread = row[f"{key}_spread"]
        return percent(row[key]) + ("" if spread is None else f" ± {spread:.2f}")

    lines = [
        [
            row["network"] + (" *" if row["pareto"] else ""),
            str(row["n"]),
            *(shown(row, key) for key in AXES),
            f"{row['parameters']:,}",
            "" if row["seconds_per_epoch"] is None else f"{row['seconds_per_epoch']:.2f}",
        ]
        for row in lesson_rows(results)
    ]
    text = f"# {results.table.title}: which architectures get it back?\n\n{_markdown(head, lines)}\n"
    text += "Mean ± standard deviation over n seeds; * on the Pareto front of accuracy and consistency.\n"
    write_atomic(path, text)


def _markdown(head: list[str], lines: list[list[str]]) -> str:
    ruled = [head, ["---"] + ["---:"] * (len(head) - 1), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled) + "\n"


def _rows(path: Path) -> list[dict[str, Any]]:
    columns = ("epoch", "seconds") if "timing" in path.name else ("epoch", "test_loss", "correct", "images")
    return read_numbers(path, columns, remedy="train the run again")


def shown_run(results: Results, model: str = "TwoFullNet") -> Run:
    """The run that pictures of one network show: its first seed; of the table's first network if it is not there."""
    own = results.runs.get(model) or next(iter(results.runs.values()))
    return own[0]


def read_maps(run: Run, names: tuple[str, ...], state: str = "trained") -> dict[str, Any]:
    """Arrays of a run's ``maps.safetensors``; a `UserError` where an evaluation that makes them was not run."""
    found = tables.read_maps(run.maps)
    if absent := [name for name in names if f"{state}/{name}" not in found]:
        raise UserError(f"{run.maps} does not hold {absent[0]}: add {absent[0].split('_')[0]} to EVALUATE.METRICS")
    return {name: found[f"{state}/{name}"] for name in names}


def class_names(recipe: str) -> tuple[str, ...]:
    """Names of the classes, where the data set has better ones than numbers."""
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
    known = {model: list(published_passes(results.recipe, model).values()) for model in results.runs}
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


FIGURES: dict[str, Make] = {
    "consistency_accuracy": consistency_accuracy,
    "learning_curves": learning_curves,
    "samples": samples,
    "confusion": confusion,
    "class_images": class_images,
    "neurons": neurons,
    "second_layer": second_layer,
}
PAGES: dict[str, Make] = {
    "passes.csv": passes_csv,
    "passes.md": passes_markdown,
    "lesson.csv": lesson_csv,
    "lesson.md": lesson_markdown,
}
NEEDS: Needs = {
    "samples": ("samples", "*"),
    "confusion": ("confusion", "*"),
    "class_images": ("maximisers", "*"),
    "neurons": ("maximisers", "*"),
}


def form(config: RunConfig) -> Form:
    """What a recipe measures is shown: no test passes where there are none."""
    made, pages = dict(FIGURES), dict(PAGES)
    if not config.train.test_each_epoch:
        made["learning_curves"] = plain_curves
        pages = {name: make for name, make in pages.items() if not name.startswith("passes")}
    return Form(metrics=METRICS, axes=AXES, figures=made, pages=pages)
