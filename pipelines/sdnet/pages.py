"""Tables beside the common one: pretrained networks, each corruption, the noises, speed and memory; ours and theirs.

A cell without a run of ours or a number of theirs behind it stays blank.
"""

import csv
import io
import statistics
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from stillpoint.core.base.documents import read_numbers, read_yaml
from stillpoint.core.base.files import write_atomic
from stillpoint.core.config.merge import read_settings
from stillpoint.core.reporting.tables import found_runs, percent, published_cell, read_maps, read_metrics, read_training
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.results import Results

HERE = Path(__file__).resolve().parent
#: the paper's name -> ours, in the order of the authors' README
PRETRAINED = {
    "SDNet-18": "sdnet18",
    "SDNet-18-all, with shortcuts": "sdnet18_all",
    "SDNet-18-all, without shortcuts": "sdnet18_all_noshortcut",
}
RECIPES = {"CIFAR-10": ("cifar10_authors", "cifar10"), "CIFAR-100": ("cifar100",), "ImageNet": ("imagenet",)}
NOISES = ("gaussian", "shot", "speckle", "impulse")
COMPUTED = "a computed texture"
#: how the numbers that `published.yaml` has under robustness_line_* came about
TUNED = "a merged row labelled per-sample lambda tuning, and how lambda was chosen is not known"
#: whose lambda: ours by name, the start of the metric under our noises, and in the corruptions
WAYS = {
    "of training": ("levels", "robustness"),
    "chosen for each level": ("levels_chosen", None),
    "by the line, without labels": ("levels_line", "robustness_line"),
}


@cache
def published() -> dict[str, Any]:
    return read_yaml(HERE / "published.yaml")


def theirs(recipe: str, model: str, key: str) -> float | None:
    found = published_cell(published(), recipe, model, "trained", key)
    return None if found is None else found[0]


def trained(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [read_metrics(run).get("trained") or {} for run in runs]


def mean(values: Sequence[dict[str, Any]], key: str) -> tuple[float, float | None] | None:
    """(mean, standard deviation) over seeds, in percent; None where one of them lacks the metric."""
    numbers = [100 * value[key] for value in values if key in value]
    if not numbers or len(numbers) < len(values):
        return None
    return statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None


def cell(found: tuple[float, float | None] | None) -> str:
    if found is None:
        return ""
    return percent(found[0]) + ("" if found[1] is None else f" ± {found[1]:.2f}")


def number(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else format(value, form)


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    ruled = [list(head), ["---"] + ["---:"] * (len(head) - 1), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled)


def origin(results: Results) -> str:
    """What must be said of the corrupted images wherever a number of theirs is shown."""
    values = [one for runs in results.runs.values() for one in trained(runs) if "robustness_images" in one]
    if not values:
        return "no corrupted images were measured"
    counts = " or ".join(map(str, sorted({round(one["robustness_images"]) for one in values})))
    shares = {one.get("robustness_published", 0.0) for one in values}
    if shares == {1.0}:
        return f"CIFAR-10-C as its authors published it, {counts} test images"
    told = f"corrupted images made by our generator, seed 0, of {counts} test images"
    if shares != {0.0}:
        told = f"corrupted images of {counts} test images, some as published and some made by our generator, seed 0"
    if all(one.get("robustness_photographs") for one in values):
        return told
    return f"{told}; frost is {COMPUTED}, not the published photographs"


def pretrained(results: Results, path: Path) -> None:
    """The authors' table of nine checkpoints, ours beside theirs."""
    lines = []
    for data, recipes in RECIPES.items():
        for title, model in PRETRAINED.items():
            paper = theirs(recipes[0], model, "accuracy")
            own, recipe = None, ""
            for recipe in recipes:
                runs = [run for run in found_runs("sdnet", recipe, results.root) if run.model == model]
                if runs and (own := mean(trained(runs), "accuracy")):
                    break
            difference = number(None if own is None or paper is None else own[0] - paper, "+.2f")
            lines.append([f"{data}, {title}", number(paper), cell(own), difference, recipe if own else ""])
    head = ["network", "theirs (%)", "ours (%)", "ours - theirs", "our recipe"]
    text = f"# Pretrained networks\n\n{markdown(head, lines)}\n\n"
    text += (
        "Theirs: best test accuracy of the released checkpoints (their README), the epoch chosen on the test set. "
        "Their yaml files say SHORTCUT False, so the command in their README builds networks without shortcuts. Blank: "
        "there is no run of ours.\n"
    )
    write_atomic(path, text)


def corruptions(results: Results, path: Path) -> None:
    """Accuracy under each corruption at the lambda of training and at that of the line, and the mean errors."""
    from stillpoint.core.data.corruptions import BENCHMARK, NAMES

    columns, head = [], ["corruption"]
    for model, runs in results.runs.items():
        values = trained(runs)
        for start, said in (("robustness", ""), ("robustness_line", ", lambda by the line")):
            if values and all(f"{start}_error" in one for one in values):
                head.append(model + said)
                columns.append((values, start))
    lines = []
    for name in NAMES:
        shown = name.replace("_", " ") + ("" if name in BENCHMARK else " (validation)")
        lines.append([shown, *(cell(mean(values, f"{start}_{name}_accuracy")) for values, start in columns)])
    for key, shown in (
        ("noises_accuracy", "four noises of the paper"),
        ("error", "mean error, 15"),
        ("error_19", "mean error, 19"),
    ):
        lines.append([f"**{shown}**", *(cell(mean(values, f"{start}_{key}")) for values, start in columns)])
    clean = [cell(mean(values, f"{start}_clean_accuracy")) for values, start in columns]
    lines.insert(0, ["**clean**, all test images", *clean])
    if results.recipe.startswith("imagenet"):
        lines.append(["**mCE, AlexNet = 100, 15**", *(_normalised(values, start) for values, start in columns)])
    text = f"# {results.table.title}: each corruption\n\n{markdown(head, lines)}\n\n"
    text += f"Accuracy in percent, mean over five severities, ± over seeds; {origin(results)}. "
    text += "The mean errors are not normalised.\n"
    write_atomic(path, text)


def _normalised(values: Sequence[dict[str, Any]], start: str) -> str:
    """Mean corruption error with AlexNet's errors as the unit, mean over seeds, in percent."""
    from stillpoint.core.data.corruptions import BENCHMARK
    from stillpoint.core.metrics.corruption import mean_corruption_error

    # a mean over severities stands for each of them: their sums have the same ratio
    own = [
        mean_corruption_error({n: [1 - one[f"{start}_{n}_accuracy"]] for n in BENCHMARK}, published()["alexnet_error"])
        for one in values
    ]
    return f"{100 * statistics.fmean(own):.2f}"


def corruptions_csv(results: Results, path: Path) -> None:
    """A line for each network, seed, corruption, severity and way to set lambda."""
    from stillpoint.core.data.corruptions import NAMES, SEVERITIES

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["network", "seed", "lambda", "corruption", "severity", "accuracy", "images", "source"])
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
                        writer.writerow([model, run.seed, said, name, severity, f"{accuracy:.6f}", images, own])
    write_atomic(path, text.getvalue())


def noises(results: Results, path: Path) -> None:
    """The four noises: at the authors' levels, and in the severities of CIFAR-10-C beside the published numbers."""
    own_levels, severities, lines_told, tuned = [], [], [], False
    for model, runs in results.runs.items():
        values = trained(runs)
        for way, (levels, start) in WAYS.items():
            found = [mean(values, f"robustness_{levels}_{noise}_accuracy") for noise in NOISES]
            if all(found):
                own_levels.append([model, way, *map(cell, found)])
            if start is None:
                continue
            paper = [theirs(results.recipe, model, f"{start}_{noise}_noise_accuracy") for noise in NOISES]
            found = [mean(values, f"{start}_{noise}_noise_accuracy") for noise in NOISES]
            if all(found):
                tuned |= start == "robustness_line" and any(paper)
                severities.append(
                    [model, way, *(c for pair in zip(map(cell, found), map(number, paper), strict=True) for c in pair)]
                )
        if values and all("robustness_line_slope" in one for one in values):
            told = [
                (one["robustness_line_slope"], one["robustness_line_intercept"], one["robustness_line_r2"])
                for one in values
            ]
            shown = "; ".join(f"{a:.3g} e {b:+.3g} (explains {r2:.0%})" for a, b, r2 in told)
            lines_told.append([model, shown])
    parts = [f"# {results.table.title}: robust inference"]
    parts += [
        "## Noise at the authors' levels",
        markdown(["network", "lambda of the first layer", *NOISES], own_levels),
    ]
    head = ["network", "lambda of the first layer", *(c for noise in NOISES for c in (noise, f"{noise}, theirs"))]
    parts += ["## Noise in five severities", f"Of {origin(results)}.", markdown(head, severities)]
    parts += [
        *([f"Theirs beside the line: {TUNED}; ours knows no label."] if tuned else []),
        "## The fitted lines",
        "Lambda as a function of the reconstruction error e, a line for each seed.",
        markdown(["network", "lambda"], lines_told),
    ]
    parts.append(
        f"Accuracy in percent, mean over levels, ± over seeds. Lambda is chosen {_chosen_on(results)}. The line is "
        "fitted there, through all noises and levels and the clean images, and gives every condition its lambda from "
        "the mean reconstruction error, at the lambda of training, of at most EVALUATE.LIMIT_SWEEP of its unseen "
        "images, without labels and without the name of the noise."
    )
    write_atomic(path, "\n\n".join(parts) + "\n")


def _chosen_on(results: Results) -> str:
    said = {
        "validation": "on images held out of training",
        "train": "on training images, which the network has learnt (DATA.VALIDATION 0)",
        "test": "on the labels of the very test images (EVALUATE.PROTOCOL authors), so its numbers flatter",
    }
    parts = {_part(results, run) for runs in results.runs.values() for run in runs}
    return " or ".join(sentence for part, sentence in said.items() if part in parts)


def _part(results: Results, run: Run) -> str:
    """What `robust.part_of` says of a run's own settings."""
    if read_metrics(run).get("evaluate", {}).get("PROTOCOL") == "authors":
        return "test"
    held_out = (
        read_settings(run.config)["DATA"]["VALIDATION"] if run.config.is_file() else results.config.data.validation
    )
    return "validation" if held_out else "train"


def speed(results: Results, path: Path) -> None:
    """Training speed and peak memory of the runs, beside the published ones; ratios to ResNet-18 in the same recipe."""
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
        told = [theirs(results.recipe, model, key) for key in ("images_per_second", "memory_gb")]
        against = "" if base is None else f"{rate / base[0]:.2f}"
        lines.append([model, f"{rate:.0f}", against, f"{peak:.2f}", number(told[0], ".0f"), number(told[1], ".1f")])
    head = ["network", "images/s", "of resnet18's", "peak memory (GiB)", "theirs: images/s", "theirs: memory (GB)"]
    every = [run for own in results.runs.values() for run in own]
    device = sorted({read_training(run)["device"] for run in every if run.training.is_file()})
    text = f"# {results.table.title}: speed and memory of training\n\n{markdown(head, lines)}\n\n"
    text += (
        f"Ours: median over epochs and seeds, on {', '.join(device)}; runs that share a machine slow one another. On a "
        "CPU the memory is that of the whole process, libraries included (`python -m benchmarks.sdnet` measures the "
        "networks alone); on a GPU that of its tensors. Theirs were quoted by others, on a GPU, with a program of "
        "their own.\n"
    )
    write_atomic(path, text)
