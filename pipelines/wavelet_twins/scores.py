"""A run's scores in the authors' structure: dataset / split / mode / metric, each with time, commit and image count.

``metrics.json`` holds one measurement and is reproducible to the byte; ``scores.json`` collects measurements of the
same weights at different times.
"""

from datetime import UTC, datetime
from typing import Any

from stillpoint.core.base.documents import read_json
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import digest, write_json
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.reporting.reading import read_maps, read_metrics
from stillpoint.core.runs.layout import Run

Scores = dict[str, dict[str, dict[str, dict[str, dict[str, Any]]]]]


def nested(metrics: dict[str, Any], maps: dict[str, Any], dataset: str) -> dict[tuple[str, str, str, str], Any]:
    """{(dataset, split, mode, metric): value} from metrics.json and maps.safetensors of the trained network.

    Metrics have the authors' names. `kldiv` is a list over half-pixel shifts (a list of lists over all pairs), `mfr`
    {step: rate}; modes that end in ``_normalised`` are not the authors'.
    """
    trained, found = metrics["trained"], {}
    for mode, name in (("onecrop", "accuracy"), ("tencrops", "tencrops_accuracy")):
        if name in trained:
            top5 = trained.get(f"{name}_top5")
            both = dataset == "imagenet" and top5 is not None
            metric = "top1_5_accuracy_scores" if both else "top1_accuracy_score"
            found[dataset, "test", mode, metric] = {"1": trained[name], "5": top5} if both else trained[name]
    for key, values in maps.items():
        state, _, name = key.partition("/")
        if state != "trained" or not name.endswith("_curve"):
            continue
        words = name.removesuffix("_curve").split("_")
        normalised = words[0] == "normalised"
        kind, direction = words[normalised], "_".join(words[normalised + 1 :])
        rates = {str(step): float(rate) for step, rate in enumerate(values.reshape(-1), 1)}
        if kind in ("kl", "mfr"):
            mode = f"shifts_{direction}{'_normalised' if normalised else ''}"
            value = values.tolist() if kind == "kl" else rates
            found[dataset, "test", mode, "kldiv" if kind == "kl" else "mfr"] = value
        elif kind == "perturbations":
            found["imagenet_p", direction, "perturbations", "mfr"] = rates
    return found


def write_scores(config: RunConfig, run: Run) -> None:
    """Adds the run's current metrics to its scores.json, and drops scores of other weights from it."""
    metrics = read_metrics(run)
    weights = digest(run.weights)
    kept = read(run)
    scores: Scores = kept["scores"] if kept.get("weights") == weights else {}
    origin = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": metrics["provenance"]["commit"]}
    for (dataset, split, mode, metric), value in nested(metrics, read_maps(run.maps), config.data.name).items():
        place = scores.setdefault(dataset, {}).setdefault(split, {}).setdefault(mode, {})
        found = {"value": value, **_images(metrics, mode)}
        if {key: place.get(metric, {}).get(key) for key in found} != found:
            place[metric] = {**found, **origin}
    write_json(run.scores, {"weights": weights, "scores": scores})


def _images(metrics: dict[str, Any], mode: str) -> dict[str, int]:
    """``{"images": n}``, the test images of a score, which EVALUATE.LIMIT_SHIFTS limits; empty for videos."""
    if mode == "perturbations":
        return {}
    if not mode.startswith("shifts_"):
        return {"images": metrics["images"]}
    prefix = "normalised_" if mode.endswith("_normalised") else ""
    return {"images": int(metrics["trained"][f"{prefix}shifts_images"])}


def read(run: Run) -> dict[str, Any]:
    """The content of scores.json, {} if there is none; `UserError` for a damaged one."""
    if not run.scores.is_file():
        return {}
    remedy = "remove it and evaluate the run again"
    found = read_json(run.scores, remedy=remedy, of=dict)
    level = [found.get("scores")]
    for _ in ("data sets", "splits", "modes", "metrics", "a score"):
        if not all(isinstance(one, dict) for one in level):
            raise UserError(f"{run.scores} holds no scores of data set, split, mode and metric: {remedy}")
        level = [inner for one in level for inner in one.values()]
    return found
