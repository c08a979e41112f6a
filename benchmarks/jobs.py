"""The part of docs/performance.md on whole jobs (training, evaluation, loaders), from their JSON files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stillpoint.core.reporting.writing import bold, markdown_table

Rows = dict[str, dict[str, Any]]


def percent(ratio: float) -> str:
    """A ratio as its signed difference from 1, in percent."""
    return f"{100 * (ratio - 1):+.1f} %"


def milliseconds(entry: dict[str, float]) -> str:
    return f"{entry['median_ms']:.1f} ({entry['low_ms']:.1f} to {entry['high_ms']:.1f})"


def machines(rows: Rows) -> str:
    """The machines and their loads; rows measured alike share a line, since others may be of another day."""
    alike: dict[tuple[str, str], list[str]] = {}
    for name, row in rows.items():
        m = row["machine"]
        about = f"{m['device']}, {m['threads']} of {m['processors']} threads, PyTorch {m['torch']}, {m['clock']}"
        rounds = f"{m['rounds']} round{'s' * (m['rounds'] > 1)}"
        alike.setdefault((f"{about}, {rounds}", row["images"]), []).append(name)
    lines = []
    for (about, images), names in alike.items():
        first, last = (rows[names[end]]["machine"] for end in (0, -1))
        load = f"load {first['load_before'][0]} to {last['load_after'][0]}"
        who = ", ".join(names) if len(names) < 6 else f"{names[0]} to {names[-1]}"
        lines.append(f"- {who}: {about}, {load}; {images}.")
    return "\n".join(lines)


def networks(rows: Rows) -> list[str]:
    head = ["pass", "plain, ms", "with filters, ms", "filters over plain", "without its filters over plain"]
    head += ["filters alone", "timm's filters over timm's plain"]
    lines = [
        [
            name,
            *(milliseconds(row["contenders"][side]) for side in ("stillpoint plain", "stillpoint")),
            *(percent(row[key]) for key in ("ratio_to_plain", "without_filters_to_plain", "filters")),
            percent(row["timm_to_plain"]) if "timm_to_plain" in row else "",
        ]
        for name, row in rows.items()
    ]
    return [markdown_table(head, lines)]


def training(rows: Rows) -> list[str]:
    head = ["network", "stillpoint, ms", "network alone, ms", "torchvision, ms", "ours over the network"]
    head += ["torchvision over the network", "end of an epoch, ms"]
    lines = []
    for name, row in rows.items():
        ours, theirs = row["ratio_to_network"], row["torchvision_to_network"]
        lines.append(
            [
                name,
                *(milliseconds(row["contenders"][side]) for side in ("stillpoint", "network", "torchvision")),
                f"{percent(ours['median'])} ({percent(ours['low'])} to {percent(ours['high'])})",
                f"{percent(theirs['median'])} ({percent(theirs['low'])} to {percent(theirs['high'])})",
                f"{row['end_of_epoch_ms']:.0f}",
            ]
        )
    return [markdown_table(head, lines)]


def stepping(rows: Rows) -> list[str]:
    sides = ("stillpoint", "plain", "compile")
    head = ["network, pass, precision", "stillpoint, ms", "convolutions, ms", "their GFLOP/s", "goal"]
    head += [f"{side} over the convolutions" for side in sides] + ["stillpoint, images/s"]
    lines = []
    for name, row in rows.items():
        ratios = {side: entry["median"] for side, entry in row["ratio_to_convolutions"].items()}
        best = min(ratios[side] for side in sides if side in ratios)
        shown = [f"{ratios[side]:.2f}" if side in ratios else "" for side in sides]
        shown[0] = bold(shown[0]) if ratios["stillpoint"] > min(best, row["goal"]) else shown[0]
        times = [milliseconds(row["contenders"][side]) for side in ("stillpoint", "convolutions")]
        cells = [name, *times, f"{row['gflops_per_second']:.0f}", str(row["goal"]), *shown]
        lines.append([*cells, f"{row['images_per_second']['stillpoint']:.0f}"])
    return [markdown_table(head, lines), "Bold: slower than another contender, or above the goal."]


def evaluation(rows: Rows) -> list[str]:
    head = ["network", "views", "stillpoint, s", "a pass a shift, s", "ratio", "ours over its network"]
    head += ["a pass a shift over its network"]
    lines = [
        [
            name,
            str(row["network_images"]),
            *(f"{row['contenders'][side]['median_ms'] / 1e3:.2f}" for side in ("stillpoint", "torchvision")),
            f"{row['ratio_to_torchvision']:.2f}",
            *(percent(row["over_network"][side]) for side in ("stillpoint", "torchvision")),
        ]
        for name, row in rows.items()
    ]
    return [markdown_table(head, lines)]


def boarding(rows: Rows) -> list[str]:
    head = ["recipe", "views", "stillpoint, s", "forwards of as many, s", "ratio", "goal", "over its own forwards"]
    head.append("the whole protocol, minutes")
    lines = []
    for name, row in rows.items():
        ratio = row["ratio_to_forwards"]
        shown = f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
        seconds = [f"{row['contenders'][side]['median_ms'] / 1e3:.1f}" for side in ("stillpoint", "forwards")]
        over = bold(shown) if ratio["median"] > row["goal"] else shown
        cells = [name, str(row["network_images"]), *seconds, over, f"{row['goal']:.0f}", percent(row["over_network"])]
        lines.append([*cells, f"{row['minutes_of_all']:.1f}"])
    return [markdown_table(head, lines)]


def loading(rows: Rows) -> list[str]:
    head = ["job", "stillpoint, images/s", "torchvision, images/s", "time, ours to torchvision's"]
    lines = [
        [
            name,
            *(f"{row['contenders'][side]['images_per_second']:.0f}" for side in ("stillpoint", "torchvision")),
            bold(f"{row['ratio_to_torchvision']:.3f}")
            if row["ratio_to_torchvision"] > 1
            else f"{row['ratio_to_torchvision']:.3f}",
        ]
        for name, row in rows.items()
    ]
    return [markdown_table(head, lines)]


def corrupting(rows: Rows) -> list[str]:
    head = ["corruption", "stillpoint, ms an image", "imagecorruptions, ms an image", "ratio", "result"]
    head += ["ours at 32x32, images/s"]
    lines = []
    for name, row in rows.items():
        ours, theirs = row["contenders"]["stillpoint"], row["contenders"].get("imagecorruptions")
        ratio = row.get("ratio_to_imagecorruptions")
        share = row.get("differing")
        same = "other draws" if share is None else "the same bytes" if share == 0 else f"the same but for {share:.0e}"
        cells = [milliseconds(theirs), bold(f"{ratio:.2f}") if ratio > 1 else f"{ratio:.2f}"] if theirs else ["", ""]
        lines.append(
            [name, milliseconds(ours), *cells, same if theirs else "", f"{row['small_images_per_second']:.0f}"]
        )
    return [markdown_table(head, lines)]


def starting(rows: Rows) -> list[str]:
    head = ["command", "seconds", "of CPU time"]
    lines = [
        [name, *(f"{row['contenders'][clock]['median_ms'] / 1e3:.2f}" for clock in ("wall", "cpu"))]
        for name, row in rows.items()
    ]
    return [markdown_table(head, lines)]


def demonstrating(rows: Rows) -> list[str]:
    parts = ("wall", "cpu", "all jobs", "training", "evaluation")
    head = ["paper", "networks", "jobs", "seconds", "of CPU time", "all its jobs, s", "training, s", "evaluation, s"]
    head.append("beyond these two")
    lines = []
    for name, row in rows.items():
        times = {part: row["contenders"][part]["median_ms"] / 1e3 for part in parts}
        beyond = times["wall"] / (times["training"] + times["evaluation"]) - 1
        seconds = [f"{value:.1f}" for value in times.values()]
        lines.append([name, str(row["networks"]), str(row["jobs"]), *seconds, f"+{100 * beyond:.0f} %"])
    return [markdown_table(head, lines)]


#: file -> (heading, its table)
SUBJECTS: dict[str, tuple[str, Callable[[Rows], list[str]]]] = {
    "network": ("ResNet-50 with BlurPool of 3 taps", networks),
    "train": ("A step of training", training),
    "steps": ("Whole steps over their bare convolutions", stepping),
    "eval": ("All shift metrics of a network", evaluation),
    "board": ("All measures of the board on a twentieth of its images", boarding),
    "loader": ("Loaders", loading),
    "corruptions": ("Corruptions of an image of 224x224, severity 3", corrupting),
    "demo": ("The demonstration with one seed, one job at a time", demonstrating),
    "start": ("From the start of a command to its end", starting),
}


def sections(results: Path) -> list[str]:
    """The paragraphs on every file in `results`."""
    parts = []
    for subject, (heading, table) in SUBJECTS.items():
        for path in sorted(results.glob(f"{subject}-*.json")):
            device = path.stem.removeprefix(f"{subject}-")
            rows = json.loads(path.read_text())
            parts += [f"## {heading}: {device}", *table(rows), machines(rows)]
    return parts
