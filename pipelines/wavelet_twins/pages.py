"""Pages beside the table: every stored classifier, all scores over shifts, and what the variants cost."""

import csv
import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillpoint.core.base.documents import read_json, read_yaml
from stillpoint.core.base.files import write_atomic
from stillpoint.core.reporting.tables import Cell, Metric, read_metrics, show, show_cell
from stillpoint.pipelines.wavelet_twins.catalogue import CLASSIFIERS

if TYPE_CHECKING:
    from torch import nn

    from stillpoint.core.runs.layout import Run
    from stillpoint.pipelines.results import Results

HERE = Path(__file__).resolve().parent
#: milliseconds per image, measured on one machine: see benchmarks/wavelet_twins.py
TIMES = HERE.parents[1] / "benchmarks" / "results" / "wavelet_twins.json"
WAYS = ("horizontal", "vertical", "diagonal")
STORED = (
    Metric("accuracy", "one crop"),
    Metric("accuracy_top5", "one crop, top 5"),
    Metric("tencrops_accuracy", "ten crops"),
    *(Metric(f"kl_{way}", f"divergence, {way}", "nats", "lower") for way in WAYS),
    *(Metric(f"mfr_{way}", f"flip rate, {way}", "%", "lower") for way in WAYS),
)


def trained(run: "Run") -> "nn.Module":
    """The trained network of a run, in evaluation mode."""
    from stillpoint import pipelines
    from stillpoint.core.config.merge import merge, read_recipe
    from stillpoint.core.runs.checkpoint import load_weights

    schema = pipelines.schema(run.pipeline)
    net = pipelines.build(merge(schema, [read_recipe(run.config, schema)]))
    load_weights(net, run.weights, model=f"{run.pipeline}/{run.model}")
    return net.eval()


def published() -> dict[str, dict[str, Any]]:
    """{short name: its stored scores, in the table's units}."""
    entries = read_yaml(HERE / "published.yaml")["entries"]
    return {row["models"][0]: row for entry in entries for row in entry["rows"]}


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """A table, its first column to the left."""
    ruled = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled) + "\n"


def classifiers(results: "Results", path: Path) -> None:
    """Each of the 35 stored classifiers: the authors' score, and ours behind it where this recipe trained it."""
    stored = published()
    ours = {row.model: row for row in results.table.rows if results.recipe.startswith(("cifar10", "imagenet"))}
    parts = [f"# The 35 stored classifiers, beside ours: {results.table.title}\n"]
    if not ours:
        parts.append(
            "The networks of this recipe saw other images than the stored ones: their table is `table.md`, and no "
            "number of theirs stands here.\n"
        )
    parts.append(
        "Stored: one run each, test images, per cent; divergence in nats, mean over the shifts that are not zero; flip "
        "rate, mean over the steps; shifted images not normalised. Each cell is the stored score, and ours after the "
        "stroke where this recipe has it: mean ± standard deviation over n seeds.\n"
    )
    for title, ending in (("CIFAR-10", "C"), ("ImageNet", "I")):
        names = [name for name in CLASSIFIERS if name.split("_")[0].endswith(ending)]
        columns = [metric for metric in STORED if any(metric.key in stored[name] for name in names)]
        units = [f"{metric.title}{f' ({metric.unit})'}" for metric in columns]
        lines = []
        for name in names:
            row = ours.get(name)
            cells = row.cells.get("trained", {}) if row else {}
            shown = []
            for metric in columns:
                text = show(metric, stored[name].get(metric.key))
                shown.append(f"{text} / {show_cell(metric, cells[metric.key])}" if metric.key in cells else text)
            lines.append([name, *CLASSIFIERS[name], str(len(row.seeds)) if row else "", *shown])
        parts.append(f"## {title}\n\n{markdown(['name', 'architecture', 'configuration', 'n', *units], lines)}")
    write_atomic(path, "\n".join(parts))


def shifts(results: "Results", path: Path) -> None:
    """All scores over shifts, without and with normalisation, with their values at one pixel."""
    title = results.table.title
    parts = [f"# {title}: shifted images, without and with the normalisation of training\n"]
    parts.append(
        "The authors show shifted images without the normalisation that the network was trained with; that is the "
        "first table. Accuracy is that of the first, unshifted view: a network that gives all one class never flips.\n"
    )
    for prefix, heading in (("", "Not normalised (the authors')"), ("normalised_", "Normalised")):
        metrics = [Metric(f"{prefix}shifts_accuracy", "accuracy")]
        for way in WAYS:
            metrics += [
                Metric(f"{prefix}kl_{way}_pixel", f"divergence, {way}: 1 pixel", "nats"),
                Metric(f"{prefix}kl_{way}", "mean", "nats"),
                Metric(f"{prefix}mfr_{way}_step1", f"flip rate, {way}: step 1", "%"),
                Metric(f"{prefix}mfr_{way}", "mean", "%"),
            ]
        lines, images = [], set()
        for model, runs in results.runs.items():
            found = [read_metrics(run)["trained"] for run in runs]
            images |= {held.get(f"{prefix}shifts_images") for held in found}
            shown = [show_cell(metric, _cell(metric, found)) for metric in metrics]
            lines.append([model, str(len(runs)), *shown])
        seen = ", ".join(f"{count:.0f}" for count in sorted(images - {None}))  # type: ignore[type-var]
        head = ["network", "n", *(f"{metric.title} ({metric.unit})" for metric in metrics)]
        parts.append(f"## {heading}: {seen or 'no'} images\n\n{markdown(head, lines)}")
    write_atomic(path, "\n".join(parts))


def _cell(metric: Metric, found: list[dict[str, Any]]) -> Cell | None:
    import statistics

    values = [held[metric.key] * (100 if metric.unit == "%" else 1) for held in found if metric.key in held]
    if not values or len(values) < len(found):
        return None
    return Cell(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@cache
def costs() -> list[dict[str, Any]]:
    """A row for each variant at ImageNet's size; milliseconds are empty where the benchmark has not been run."""
    from stillpoint.pipelines.wavelet_twins.cost import VARIANTS, cost

    times = read_json(TIMES, of=dict)["milliseconds"] if TIMES.is_file() else {}
    rows = []
    for name in VARIANTS:
        found = cost(*CLASSIFIERS[name])
        rows.append(
            {
                "network": name,
                "stem_mmac": found.stem_macs / 1e6,
                "stem_by_stages_mmac": "" if found.stem_by_stages is None else found.stem_by_stages / 1e6,
                "network_mmac": found.macs / 1e6,
                "parameters": found.parameters,
                "stem_saved_million": found.stem_saved / 1e6,
                "inference_ms": times.get(name, {}).get("inference", {}).get("median", ""),
                "training_ms": times.get(name, {}).get("training", {}).get("median", ""),
            }
        )
    return rows


def cost_csv(results: "Results", path: Path) -> None:
    rows, text = costs(), io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())


def cost_markdown(results: "Results", path: Path) -> None:
    """The cost table, with the device that the milliseconds were measured on."""
    head = [
        "network",
        "stem MMAC",
        "stem MMAC, packets stage by stage",
        "whole MMAC",
        "parameters",
        "stem keeps in training (million numbers)",
    ]
    head += ["inference (ms)", "training (ms)"]
    lines = [
        [
            row["network"],
            f"{row['stem_mmac']:.1f}",
            f"{row['stem_by_stages_mmac']:.1f}" if row["stem_by_stages_mmac"] != "" else "",
            f"{row['network_mmac']:.0f}",
            f"{row['parameters']:,}",
            f"{row['stem_saved_million']:.2f}",
            *(f"{row[key]:.1f}" if row[key] != "" else "" for key in ("inference_ms", "training_ms")),
        ]
        for row in costs()
    ]
    text = f"# What a photograph of 224x224 pixels costs\n\n{markdown(head, lines)}\n"
    text += (
        "Multiply-accumulates of convolutions, linear layers and blurs, counted as they are computed here: the modulus "
    )
    text += "at its own stride, predicted filters only where they are used. "
    text += (
        "Stage by stage is the authors' way: filters of 12, 10 and 10 taps in four banks, whose first stages all "
        "packets share, both parts at the full stride. Here a packet is one vertical and one horizontal filter of the "
        "whole support, 30 taps for ResNet and 66 for AlexNet, and the two maps of a packet are combined from their "
        "half sum and half difference, for each of which one horizontal filter is enough: two or three convolutions "
        "for each group of packets, and of them only the packets, the part and the places that are used. That takes "
        "fewer multiplications than stage by stage, but for the real parts at AlexNet's depth of 3. "
    )
    if TIMES.is_file():
        text += f"Milliseconds: medians on {read_json(TIMES, of=dict)['device']}.\n"
    else:
        text += "Milliseconds: run benchmarks/wavelet_twins.py.\n"
    write_atomic(path, text)
