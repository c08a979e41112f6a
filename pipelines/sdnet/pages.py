"""Pages beside the common table: pretrained networks, each corruption, the noises, speed and memory; ours and theirs.

Cells without our run or the authors' number stay blank.
"""

import statistics
from collections.abc import Sequence
from typing import Any

from stillpoint.core.base.documents import read_numbers
from stillpoint.core.config.merge import read_settings
from stillpoint.core.reporting.columns import Column, show
from stillpoint.core.reporting.reading import found_runs, read_maps, read_metrics, read_training
from stillpoint.core.reporting.tables import over_seeds, show_cell
from stillpoint.core.reporting.writing import bold, csv_text, escaped, markdown_page, markdown_table
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.results import Results

#: the paper's name -> ours, in the order of the authors' README
PRETRAINED = {
    "SDNet-18": "sdnet18",
    "SDNet-18-all, with shortcuts": "sdnet18_all",
    "SDNet-18-all, without shortcuts": "sdnet18_all_noshortcut",
}
RECIPES = {"CIFAR-10": ("cifar10_authors", "cifar10"), "CIFAR-100": ("cifar100",), "ImageNet": ("imagenet",)}
#: recipes whose runs the page of pretrained networks shows
EVERY_RECIPE = tuple(recipe for own in RECIPES.values() for recipe in own)
NOISES = ("gaussian", "shot", "speckle", "impulse")
COMPUTED = "a computed texture"
#: origin of the numbers under robustness_line_* in `published.yaml`
TUNED = "a merged row labelled per-sample lambda tuning, and how lambda was chosen is not known"
#: choice of lambda -> prefixes of its metrics, under our noises and in the corruptions
WAYS = {
    "of training": ("levels", "robustness"),
    "chosen for each level": ("levels_chosen", None),
    "by the line, without labels": ("levels_line", "robustness_line"),
}


def theirs(results: Results, recipe: str, model: str, key: str) -> float | None:
    found = results.paper.published.cell(recipe, model, "trained", key)
    return None if found is None else found[0]


def trained(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [read_metrics(run).get("trained") or {} for run in runs]


def cell(values: Sequence[dict[str, Any]], key: str) -> str:
    """Mean and spread over seeds of a fraction, in percent; "" if a seed lacks it."""
    column = Column(key, key)
    return show_cell(column, over_seeds(column, values))


def number(value: float | None, spec: str = ".2f") -> str:
    return "" if value is None else format(value, spec)


def origin(results: Results) -> str:
    """The note on the origin of the corrupted images, which accompanies every number on them."""
    values = [one for runs in results.runs.values() for one in trained(runs) if "robustness_images" in one]
    if not values:
        return "no corrupted images were measured"
    counts = " or ".join(map(str, sorted({round(one["robustness_images"]) for one in values})))
    shares = {one.get("robustness_published", 0.0) for one in values}
    if shares == {1.0}:
        return f"CIFAR-10-C as its authors published it, {counts} test images"
    note = f"corrupted images made by our generator, seed 0, of {counts} test images"
    if shares != {0.0}:
        note = f"corrupted images of {counts} test images, some as published and some made by our generator, seed 0"
    if all(one.get("robustness_photographs") for one in values):
        return note
    return f"{note}; frost is {COMPUTED}, not the published photographs"


def pretrained(results: Results) -> str:
    """A page with the authors' table of nine checkpoints, ours beside theirs."""
    lines, accuracy = [], Column("accuracy", "accuracy")
    for data, recipes in RECIPES.items():
        for title, model in PRETRAINED.items():
            paper = theirs(results, recipes[0], model, "accuracy")
            own, recipe = None, ""
            for recipe in recipes:
                runs = [run for run in found_runs("sdnet", recipe, results.root) if run.model == model]
                if own := over_seeds(accuracy, trained(runs)):
                    break
            difference = show(accuracy, None if own is None or paper is None else own.mean - paper, signed=True)
            name = f"{data}, {title}"
            lines.append([name, number(paper), show_cell(accuracy, own), difference, recipe if own else ""])
    head = ["network", "theirs (%)", "ours (%)", "ours - theirs", "our recipe"]
    return markdown_page(
        "Pretrained networks",
        markdown_table(head, lines),
        "Theirs: best test accuracy of the released checkpoints (their README), the epoch chosen on the test set. "
        "Their yaml files say SHORTCUT False, so the command in their README builds networks without shortcuts. Blank: "
        "there is no run of ours.",
    )


def corruptions(results: Results) -> str:
    """A page with accuracy under each corruption, at the lambda of training and the line's, and the mean errors."""
    from stillpoint.core.data.corruptions import BENCHMARK, NAMES

    columns, head = [], ["corruption"]
    for model, runs in results.runs.items():
        values = trained(runs)
        for start, said in (("robustness", ""), ("robustness_line", ", lambda by the line")):
            if values and all(f"{start}_error" in one for one in values):
                head.append(model + said)
                columns.append((values, start))

    def line(name: str, key: str) -> list[str]:
        return [name, *(cell(values, f"{start}_{key}") for values, start in columns)]

    lines = [line(bold("clean, all test images"), "clean_accuracy")]
    for name in NAMES:
        lines.append(line(name.replace("_", " ") + ("" if name in BENCHMARK else " (validation)"), f"{name}_accuracy"))
    for key, shown in (
        ("noises_accuracy", "four noises of the paper"),
        ("error", "mean error, 15"),
        ("error_19", "mean error, 19"),
    ):
        lines.append(line(bold(shown), key))
    if results.recipe.startswith("imagenet"):
        unit = results.paper.published.own["alexnet_error"]
        lines.append([bold("mCE, AlexNet = 100, 15"), *(_normalised(values, start, unit) for values, start in columns)])
    return markdown_page(
        f"{results.table.title}: each corruption",
        markdown_table(head, lines),
        f"Accuracy in percent, mean over five severities, ± over seeds; {escaped(origin(results))}. "
        "The mean errors are not normalised.",
    )


def _normalised(values: Sequence[dict[str, Any]], start: str, unit: dict[str, float]) -> str:
    """Mean corruption error relative to AlexNet's, averaged over seeds, in percent."""
    from stillpoint.core.data.corruptions import BENCHMARK
    from stillpoint.core.metrics.corruption import mean_corruption_error

    # means over severities suffice: their ratio is that of the sums
    own = [mean_corruption_error({n: [1 - one[f"{start}_{n}_accuracy"]] for n in BENCHMARK}, unit) for one in values]
    return f"{100 * statistics.fmean(own):.2f}"


def corruptions_csv(results: Results) -> str:
    """A csv with a line per network, seed, corruption, severity and way to set lambda."""
    from stillpoint.core.data.corruptions import NAMES, SEVERITIES

    lines: list[list[object]] = []
    for model, runs in results.runs.items():
        for run, found in zip(runs, trained(runs), strict=True):
            images, ice = round(found.get("robustness_images", 0)), found.get("robustness_photographs")
            share = found.get("robustness_published", 0.0)
            source = {0.0: "our generator", 1.0: "published"}.get(share, "published or our generator")
            maps = read_maps(run.maps)
            for said, key in (("training", "robustness_severities"), ("line", "robustness_line_severities")):
                if (table := maps.get(f"trained/{key}")) is None:
                    continue
                for name, row in zip(NAMES, table, strict=True):
                    own = f"{source}, {COMPUTED}" if name == "frost" and not ice else source
                    for severity, accuracy in zip(SEVERITIES, row, strict=True):
                        lines.append([model, run.seed, said, name, severity, f"{accuracy:.6f}", images, own])
    return csv_text(["network", "seed", "lambda", "corruption", "severity", "accuracy", "images", "source"], lines)


def noises(results: Results) -> str:
    """A page on the four noises: at the authors' levels, and at CIFAR-10-C's severities beside published numbers."""
    own_levels, severities, line_rows, tuned = [], [], [], False
    for model, runs in results.runs.items():
        values = trained(runs)
        for way, (levels, start) in WAYS.items():
            found = [cell(values, f"robustness_{levels}_{noise}_accuracy") for noise in NOISES]
            if all(found):
                own_levels.append([model, way, *found])
            if start is None:
                continue
            keys = [f"{start}_{noise}_noise_accuracy" for noise in NOISES]
            paper = [theirs(results, results.recipe, model, key) for key in keys]
            found = [cell(values, key) for key in keys]
            if all(found):
                tuned |= start == "robustness_line" and any(paper)
                both = zip(found, map(number, paper), strict=True)
                severities.append([model, way, *(shown for pair in both for shown in pair)])
        if values and all("robustness_line_slope" in one for one in values):
            fits = [[one[f"robustness_line_{part}"] for part in ("slope", "intercept", "r2")] for one in values]
            line_rows.append([model, "; ".join(f"{a:.3g} e {b:+.3g} (explains {r2:.0%})" for a, b, r2 in fits)])
    start_of = ["network", "lambda of the first layer"]
    return markdown_page(
        f"{results.table.title}: robust inference",
        "## Noise at the authors' levels",
        markdown_table([*start_of, *NOISES], own_levels),
        "## Noise in five severities",
        f"Of {escaped(origin(results))}.",
        markdown_table([*start_of, *(c for noise in NOISES for c in (noise, f"{noise}, theirs"))], severities),
        f"Theirs beside the line: {TUNED}; ours knows no label." if tuned else "",
        "## The fitted lines",
        "Lambda as a function of the reconstruction error e, a line for each seed.",
        markdown_table(["network", "lambda"], line_rows),
        f"Accuracy in percent, mean over levels, ± over seeds. Lambda is chosen {_chosen_on(results)}. The line is "
        "fitted there, through all noises and levels and the clean images, and gives every condition its lambda from "
        "the mean reconstruction error, at the lambda of training, of at most EVALUATE.LIMIT_SWEEP of its unseen "
        "images, without labels and without the name of the noise.",
    )


def _chosen_on(results: Results) -> str:
    said = {
        "validation": "on images held out of training",
        "train": "on training images, which the network has learnt (DATA.VALIDATION 0)",
        "test": "on the labels of the very test images (EVALUATE.PROTOCOL authors), so its numbers flatter",
    }
    parts = {_part(results, run) for runs in results.runs.values() for run in runs}
    return " or ".join(sentence for part, sentence in said.items() if part in parts)


def _part(results: Results, run: Run) -> str:
    """`robust.part_of` for a run's settings."""
    if read_metrics(run).get("evaluate", {}).get("PROTOCOL") == "authors":
        return "test"
    held_out = (
        read_settings(run.config)["DATA"]["VALIDATION"] if run.config.is_file() else results.config.data.validation
    )
    return "validation" if held_out else "train"


def speed(results: Results) -> str:
    """A page with training speed and peak memory beside the published ones, and ratios to ResNet-18's speed."""
    rows: dict[str, tuple[float, float]] = {}
    for model, runs in results.runs.items():
        rates, peaks = [], []
        for run in runs:
            if run.timing.is_file() and run.training.is_file():
                timed = read_numbers(run.timing, ("images_per_second",), remedy="train the run again")
                own = [row["images_per_second"] for row in timed]
                if not own:  # weights that are only measured
                    continue
                rates.append(statistics.median(own))
                peaks.append(read_training(run)["peak_memory_bytes"] / 2**30)
        if rates:
            rows[model] = statistics.median(rates), max(peaks)
    base = rows.get("resnet18")
    lines = []
    for model, (rate, peak) in rows.items():
        note = [theirs(results, results.recipe, model, key) for key in ("images_per_second", "memory_gb")]
        against = "" if base is None else f"{rate / base[0]:.2f}"
        lines.append([model, f"{rate:.0f}", against, f"{peak:.2f}", number(note[0], ".0f"), number(note[1], ".1f")])
    head = ["network", "images/s", "of resnet18's", "peak memory (GiB)", "theirs: images/s", "theirs: memory (GB)"]
    every = [run for own in results.runs.values() for run in own]
    device = sorted({read_training(run)["device"] for run in every if run.training.is_file()})
    return markdown_page(
        f"{results.table.title}: speed and memory of training",
        markdown_table(head, lines),
        f"Ours: median over epochs and seeds, on {escaped(', '.join(device))}; runs that share a machine slow one "
        "another. On a CPU the memory is that of the whole process, libraries included (`python -m benchmarks.sdnet` "
        "measures the networks alone); on a GPU that of its tensors. Theirs were quoted by others, on a GPU, with a "
        "program of their own.",
    )
