"""The part of docs/performance.md on whole jobs: training, evaluation, loaders, from the JSON that they wrote."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Rows = dict[str, dict[str, Any]]


def grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def percent(ratio: float) -> str:
    """How much longer than 1."""
    return f"{100 * (ratio - 1):+.1f} %"


def milliseconds(entry: dict[str, float]) -> str:
    return f"{entry['median_ms']:.1f} ({entry['low_ms']:.1f} to {entry['high_ms']:.1f})"


def machines(rows: Rows) -> str:
    """Where and how busy: the load of each row, since the rows may have been measured on different days."""
    lines = []
    for name, row in rows.items():
        m = row["machine"]
        lines.append(
            f"{name}: {m['device']}, {m['threads']} thread(s) of {m['processors']}, PyTorch {m['torch']}, clock: "
            f"{m['clock']}, {m['rounds']} rounds, load of the machine {m['load_before'][0]} before and "
            f"{m['load_after'][0]} after; {row['images']}."
        )
    return "\n".join(f"- {text}" for text in lines)


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
    return [grid(head, lines)]


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
    return [grid(head, lines)]


def loading(rows: Rows) -> list[str]:
    head = ["job", "stillpoint, images/s", "torchvision, images/s", "time, ours to torchvision's"]
    lines = [
        [
            name,
            *(f"{row['contenders'][side]['images_per_second']:.0f}" for side in ("stillpoint", "torchvision")),
            f"**{row['ratio_to_torchvision']:.3f}**"
            if row["ratio_to_torchvision"] > 1
            else f"{row['ratio_to_torchvision']:.3f}",
        ]
        for name, row in rows.items()
    ]
    return [grid(head, lines)]


def starting(rows: Rows) -> list[str]:
    head = ["command", "seconds", "of CPU time"]
    lines = [
        [name, *(f"{row['contenders'][clock]['median_ms'] / 1e3:.2f}" for clock in ("wall", "cpu"))]
        for name, row in rows.items()
    ]
    return [grid(head, lines)]


#: file -> (heading, its table)
SUBJECTS: dict[str, tuple[str, Callable[[Rows], list[str]]]] = {
    "train": ("A step of training", training),
    "eval": ("All shift metrics of a network", evaluation),
    "loader": ("Loaders", loading),
    "start": ("From the start of a command to its end", starting),
}


def sections(results: Path) -> list[str]:
    """Paragraphs for every file of `results` that is there."""
    parts = []
    for subject, (heading, table) in SUBJECTS.items():
        for path in sorted(results.glob(f"{subject}-*.json")):
            device = path.stem.removeprefix(f"{subject}-")
            rows = json.loads(path.read_text())
            parts += [f"## {heading}: {device}", *table(rows), machines(rows)]
    return parts
