"""The paper's pages: every stored classifier, all scores over shifts, and the cost of the variants."""

from functools import cache
from pathlib import Path
from typing import Any

from stillpoint.core.base.documents import read_json
from stillpoint.core.reporting.columns import Column, show
from stillpoint.core.reporting.published import Published
from stillpoint.core.reporting.reading import read_metrics
from stillpoint.core.reporting.tables import over_seeds, show_cell
from stillpoint.core.reporting.writing import csv_text, escaped, markdown_page, markdown_table
from stillpoint.pipelines.results import Results
from stillpoint.pipelines.wavelet_twins.catalogue import CLASSIFIERS

#: milliseconds per image, measured on one machine by benchmarks/wavelet_twins.py
TIMES = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "wavelet_twins.json"
#: recipes of data sets with stored classifiers
STORED_RECIPES = ("cifar10*", "imagenet*")
WAYS = ("horizontal", "vertical", "diagonal")
STORED = (
    Column("accuracy", "one crop"),
    Column("accuracy_top5", "one crop, top 5"),
    Column("tencrops_accuracy", "ten crops"),
    *(Column(f"kl_{way}", f"divergence, {way}", "nats", "lower") for way in WAYS),
    *(Column(f"mfr_{way}", f"flip rate, {way}", "%", "lower") for way in WAYS),
)


def stored_scores(published: Published) -> dict[str, dict[str, float | None]]:
    """{short name: its stored scores, in the columns' units}."""
    return {
        row.models[0]: {column.key: row.number(column.key) for column in STORED}
        for entry in published.entries
        for row in entry.rows
    }


def classifiers(results: Results) -> str:
    """A page with the authors' scores of the 35 stored classifiers, each followed by ours if this recipe trained it."""
    stored = stored_scores(results.paper.published)
    ours = {row.model: row for row in results.table.rows}
    parts = [
        "Stored: one run each, test images, per cent; divergence in nats, mean over the shifts that are not zero; flip "
        "rate, mean over the steps; shifted images not normalised. Each cell is the stored score, and ours after the "
        "stroke where this recipe has it: mean ± standard deviation over n seeds."
    ]
    for title, ending in (("CIFAR-10", "C"), ("ImageNet", "I")):
        names = [name for name in CLASSIFIERS if name.split("_")[0].endswith(ending)]
        columns = [column for column in STORED if any(stored[name][column.key] is not None for name in names)]
        lines = []
        for name in names:
            row = ours.get(name)
            cells = row.cells.get("trained", {}) if row else {}
            line = [name, *CLASSIFIERS[name], str(len(row.seeds)) if row else ""]
            for column in columns:
                text = show(column, stored[name][column.key])
                line.append(f"{text} / {show_cell(column, cells[column.key])}" if column.key in cells else text)
            lines.append(line)
        head = ["name", "architecture", "configuration", "n", *(column.heading for column in columns)]
        parts += [f"## {title}", markdown_table(head, lines)]
    return markdown_page(f"The 35 stored classifiers, beside ours: {results.table.title}", *parts)


def shifts(results: Results) -> str:
    """A page with all scores over shifts, without and with normalisation, and their values at one pixel."""
    parts = [
        "The authors show shifted images without the normalisation that the network was trained with; that is the "
        "first table. Accuracy is that of the first, unshifted view: a network that gives all one class never flips."
    ]
    for prefix, heading in (("", "Not normalised (the authors')"), ("normalised_", "Normalised")):
        columns = [Column(f"{prefix}shifts_accuracy", "accuracy")]
        for way in WAYS:
            columns += [
                Column(f"{prefix}kl_{way}_pixel", f"divergence, {way}: 1 pixel", "nats"),
                Column(f"{prefix}kl_{way}", "mean", "nats"),
                Column(f"{prefix}mfr_{way}_step1", f"flip rate, {way}: step 1", "%"),
                Column(f"{prefix}mfr_{way}", "mean", "%"),
            ]
        lines, images = [], set()
        for model, runs in results.runs.items():
            found = [read_metrics(run)["trained"] for run in runs]
            images |= {one[key] for one in found if (key := f"{prefix}shifts_images") in one}
            lines.append([model, str(len(runs)), *(show_cell(column, over_seeds(column, found)) for column in columns)])
        seen = ", ".join(f"{count:.0f}" for count in sorted(images))
        head = ["network", "n", *(column.heading for column in columns)]
        parts += [f"## {heading}: {seen or 'no'} images", markdown_table(head, lines)]
    title = f"{results.table.title}: shifted images, without and with the normalisation of training"
    return markdown_page(title, *parts)


@cache
def costs() -> list[dict[str, Any]]:
    """A row per variant at ImageNet's size; milliseconds are "" if the benchmark was not run."""
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


def cost_csv(results: Results) -> str:
    return csv_text(list(costs()[0]), [list(row.values()) for row in costs()])


def cost_markdown(results: Results) -> str:
    """A page with the costs, and the device of the timings."""
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
    text = (
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
        text += f"Milliseconds: medians on {escaped(read_json(TIMES, of=dict)['device'])}."
    else:
        text += "Milliseconds: run benchmarks/wavelet_twins.py."
    return markdown_page("What a photograph of 224x224 pixels costs", markdown_table(head, lines), text)
