"""The paper's tables on ImageNet, ours beside theirs. Where there is no run of ours the cell stays blank."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from stillpoint.core.base.documents import read_yaml
from stillpoint.core.base.files import write_atomic
from stillpoint.core.reporting.tables import found_runs, pareto_front, percent, published_cell, read_metrics
from stillpoint.pipelines.results import Results

HERE = Path(__file__).resolve().parent
KEYS = ("accuracy", "windows_consistency")
#: network -> the recipe that trains it from scratch, and the one that fine-tunes it
SCRATCH = {
    "alexnet": "imagenet_alexnet",
    "vgg16": "imagenet_vgg",
    "vgg16_bn": "imagenet_vgg_bn",
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "densenet121"), "imagenet"),
    "mobilenet_v2": "imagenet_mobilenet",
}
FILTERS = {"": "baseline", "_lpf2": "Rect-2", "_lpf3": "Tri-3", "_lpf4": "Tri-4", "_lpf5": "Bin-5"}
RULE = (
    "Percent. **Bold**: the best of a column, among the networks of one table. *Italic*: on the Pareto front of "
    "accuracy and consistency, no other network of the table being at least as good in both and better in one. Theirs "
    "are copied from the sources named below; ours are means over n seeds, and blank where there is no run."
)


@dataclass(frozen=True)
class Pair:
    """Accuracy and consistency in percent, of `n` seeds; none where there is no number."""

    accuracy: float | None = None
    consistency: float | None = None
    n: int = 0

    @property
    def whole(self) -> tuple[float, float] | None:
        return None if self.accuracy is None or self.consistency is None else (self.accuracy, self.consistency)


@cache
def published() -> dict[str, Any]:
    return read_yaml(HERE / "published.yaml")


def theirs(model: str, recipe: str) -> Pair:
    """What the authors state of a network under a recipe."""
    accuracy, consistency = (published_cell(published(), recipe, model, "trained", key) for key in KEYS)
    return Pair(accuracy and accuracy[0], consistency and consistency[0])


def ours(model: str, recipes: Sequence[str], root: Path) -> Pair:
    """The mean over the seeds of the first of `recipes` under which the network was trained and evaluated."""
    for recipe in recipes:
        runs = [run for run in found_runs("blurpool", recipe, root) if run.model == model]
        values = [read_metrics(run).get("trained") or {} for run in runs]
        if values:
            accuracy, consistency = (
                100 * statistics.fmean(value[key] for value in values) if all(key in v for v in values) else None
                for key in KEYS
            )
            return Pair(accuracy, consistency, len(values))
    return Pair()


def marked(pairs: Sequence[Pair], names: Sequence[str]) -> list[list[str]]:
    """Name, accuracy and consistency of each pair as a table shows them: bold for the best, italic for the front."""
    front = pareto_front([pair.whole for pair in pairs])
    lines = []
    for pair, name, best in zip(pairs, names, front, strict=True):
        line = [f"*{name}*" if best else name]
        for field in ("accuracy", "consistency"):
            value = getattr(pair, field)
            top = max((v for p in pairs if (v := getattr(p, field)) is not None), default=None)
            text = "" if value is None else percent(value)
            line.append(f"**{text}**" if text and value == top else text)
        lines.append(line)
    return lines


def rows(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    cells = [[line.replace("|", r"\|") for line in row] for row in (head, *lines)]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([text[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *text[1:]])


def sources(kind: str) -> str:
    """The sources of the published numbers whose description holds one of the words of `kind`."""
    found = [entry["source"] for entry in published()["entries"]]
    return "\n".join(f"- {source}" for source in found if "own weights" in source or kind in source)


def from_scratch(results: Results, path: Path) -> None:
    """Nine tables, one for each network: the plain one and its filters."""
    parts = ["# ImageNet, trained from scratch", RULE]
    for arch, recipe in SCRATCH.items():
        models = [arch + suffix for suffix in FILTERS]
        names = list(FILTERS.values())
        paper = marked([theirs(model, recipe) for model in models], names)
        own = [
            ours(model, (recipe, "imagenet_baseline") if model == arch else (recipe,), results.root) for model in models
        ]
        lines = [
            [name, *told[1:], *mine[1:], str(pair.n or "")]
            for name, told, mine, pair in zip([line[0] for line in paper], paper, marked(own, names), own, strict=True)
        ]
        head = ["filter", "accuracy, theirs", "consistency, theirs", "accuracy, ours", "consistency, ours", "n"]
        parts += [f"## {arch}", rows(head, lines)]
    parts += ["Sources:", sources("from scratch")]
    write_atomic(path, "\n\n".join(parts) + "\n")


def finetuned(results: Results, path: Path) -> None:
    """One table of the 23 networks: the plain one with torchvision's weights, and 4 taps fine-tuned from it."""
    tuned = next(entry for entry in published()["entries"] if "fine-tuned" in entry["source"])
    models = [row["models"][0] for row in tuned["rows"]]
    bases = [model.removesuffix("_lpf4") for model in models]
    told = [[theirs(name, "imagenet_finetune") for name in names] for names in (bases, models)]
    own = [ours(base, ("imagenet_baseline",), results.root) for base in bases]
    after = [ours(m, (recipe_of(b),), results.root) for b, m in zip(bases, models, strict=True)]
    shown = [marked(pairs, bases) for pairs in (told[0], told[1], own, after)]
    head = ["network"]
    for whose in ("theirs", "ours"):
        head += [f"{what}, {state}, {whose}" for state in ("baseline", "Tri-4") for what in ("accuracy", "consistency")]
    lines = []
    for k, base in enumerate(bases):
        name = shown[1][k][0]  # italic as the fine-tuned networks' front says
        lines.append([name if name != base else base, *(cell for column in shown for cell in column[k][1:])])
    parts = ["# ImageNet, fine-tuned from torchvision's weights", RULE, rows(head, lines), "Sources:"]
    write_atomic(path, "\n\n".join([*parts, sources("fine-tuned")]) + "\n")


def recipe_of(arch: str) -> str:
    """The recipe that fine-tunes a network."""
    if arch.startswith("vgg"):
        return "imagenet_finetune_vgg_bn" if arch.endswith("_bn") else "imagenet_finetune_vgg"
    own = {"alexnet": "imagenet_finetune_alexnet", "mobilenet_v2": "imagenet_finetune_mobilenet"}
    return own.get(arch, "imagenet_finetune")
