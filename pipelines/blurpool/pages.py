"""The paper's tables on ImageNet, with our numbers beside theirs; cells for which we have no run stay blank."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stillpoint.core.reporting.columns import Column, percent
from stillpoint.core.reporting.published import Published
from stillpoint.core.reporting.reading import found_runs, read_metrics
from stillpoint.core.reporting.tables import over_seeds, pareto_front
from stillpoint.core.reporting.writing import bold, escaped, italic, markdown_page, markdown_table
from stillpoint.pipelines.results import Results

KEYS = ("accuracy", "windows_consistency")
#: network -> recipe that trains it from scratch
SCRATCH = {
    "alexnet": "imagenet_alexnet",
    "vgg16": "imagenet_vgg",
    "vgg16_bn": "imagenet_vgg_bn",
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "densenet121"), "imagenet"),
    "mobilenet_v2": "imagenet_mobilenet",
}
#: networks with torchvision's own weights
BASELINE = "imagenet_baseline"
#: recipes whose runs each page shows
FROM_SCRATCH = (*dict.fromkeys(SCRATCH.values()), BASELINE)
TUNED = tuple(f"imagenet_finetune{part}" for part in ("", "_alexnet", "_mobilenet", "_vgg", "_vgg_bn"))
FINETUNED = (*TUNED, BASELINE)
FILTERS = {"": "baseline", "_lpf2": "Rect-2", "_lpf3": "Tri-3", "_lpf4": "Tri-4", "_lpf5": "Bin-5"}
RULE = (
    "Percent. **Bold**: the best of a column, among the networks of one table. *Italic*: on the Pareto front of "
    "accuracy and consistency, no other network of the table being at least as good in both and better in one. Theirs "
    "are copied from the sources named below; ours are means over n seeds, and blank where there is no run."
)


@dataclass(frozen=True)
class Pair:
    """Accuracy and consistency in percent, of `n` seeds; None for a missing number."""

    accuracy: float | None = None
    consistency: float | None = None
    n: int = 0

    @property
    def whole(self) -> tuple[float, float] | None:
        return None if self.accuracy is None or self.consistency is None else (self.accuracy, self.consistency)


def theirs(published: Published, model: str, recipe: str) -> Pair:
    """The authors' numbers of a network under a recipe."""
    accuracy, consistency = (published.cell(recipe, model, "trained", key) for key in KEYS)
    return Pair(accuracy and accuracy[0], consistency and consistency[0])


def ours(model: str, recipes: Sequence[str], root: Path) -> Pair:
    """The mean over seeds for the first of `recipes` with evaluated runs of the network."""
    for recipe in recipes:
        runs = [run for run in found_runs("blurpool", recipe, root) if run.model == model]
        values = [read_metrics(run).get("trained") or {} for run in runs]
        if values:
            cells = [over_seeds(Column(key, key), values) for key in KEYS]
            accuracy, consistency = (None if cell is None else cell.mean for cell in cells)
            return Pair(accuracy, consistency, len(values))
    return Pair()


def marked(pairs: Sequence[Pair], names: Sequence[str]) -> list[list[str]]:
    """Name, accuracy and consistency of each pair, formatted: bold for the best, italic for the Pareto front."""
    front = pareto_front([pair.whole for pair in pairs])
    lines = []
    for pair, name, best in zip(pairs, names, front, strict=True):
        line: list[str] = [italic(name) if best else name]
        for field in ("accuracy", "consistency"):
            value = getattr(pair, field)
            top = max((v for p in pairs if (v := getattr(p, field)) is not None), default=None)
            text = "" if value is None else percent(value)
            line.append(bold(text) if value == top else text)
        lines.append(line)
    return lines


def sources(published: Published, kind: str) -> str:
    """The sources of the published numbers whose description contains a word of `kind`."""
    found = [entry.source for entry in published.entries]
    return "\n".join(f"- {escaped(source)}" for source in found if "own weights" in source or kind in source)


def from_scratch(results: Results) -> str:
    """A page of nine tables, one for each network: the plain form and its filters."""
    published, parts = results.paper.published, [RULE]
    for arch, recipe in SCRATCH.items():
        models = [arch + suffix for suffix in FILTERS]
        names = list(FILTERS.values())
        paper = marked([theirs(published, model, recipe) for model in models], names)
        own = [ours(model, (recipe, BASELINE) if model == arch else (recipe,), results.root) for model in models]
        lines = [
            [name, *told[1:], *mine[1:], str(pair.n or "")]
            for name, told, mine, pair in zip([line[0] for line in paper], paper, marked(own, names), own, strict=True)
        ]
        head = ["filter", "accuracy, theirs", "consistency, theirs", "accuracy, ours", "consistency, ours", "n"]
        parts += [f"## {arch}", markdown_table(head, lines)]
    return markdown_page("ImageNet, trained from scratch", *parts, "Sources:", sources(published, "from scratch"))


def finetuned(results: Results) -> str:
    """A page with one table of 23 networks: with torchvision's weights, and fine-tuned from them with 4 taps."""
    published = results.paper.published
    tuned = next(entry for entry in published.entries if "fine-tuned" in entry.source)
    models = [row.models[0] for row in tuned.rows]
    bases = [model.removesuffix("_lpf4") for model in models]
    told = [[theirs(published, name, "imagenet_finetune") for name in names] for names in (bases, models)]
    own = [ours(base, (BASELINE,), results.root) for base in bases]
    after = [ours(m, (recipe_of(b),), results.root) for b, m in zip(bases, models, strict=True)]
    shown = [marked(pairs, bases) for pairs in (told[0], told[1], own, after)]
    head = ["network"]
    for whose in ("theirs", "ours"):
        head += [f"{what}, {state}, {whose}" for state in ("baseline", "Tri-4") for what in ("accuracy", "consistency")]
    # italic by the Pareto front of the fine-tuned networks
    lines = [[shown[1][k][0], *(cell for column in shown for cell in column[k][1:])] for k in range(len(bases))]
    title = "ImageNet, fine-tuned from torchvision's weights"
    return markdown_page(title, RULE, markdown_table(head, lines), "Sources:", sources(published, "fine-tuned"))


def recipe_of(arch: str) -> str:
    """The recipe that fine-tunes a network."""
    if arch.startswith("vgg"):
        return "imagenet_finetune_vgg_bn" if arch.endswith("_bn") else "imagenet_finetune_vgg"
    own = {"alexnet": "imagenet_finetune_alexnet", "mobilenet_v2": "imagenet_finetune_mobilenet"}
    return own.get(arch, "imagenet_finetune")
