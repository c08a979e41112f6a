"""The paper's figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stillpoint.core.data.corruptions import NAMES
from stillpoint.core.reporting.figures import MARKERS, PALETTE, colours, entitle, save, styled, subplots
from stillpoint.pipelines.sdnet.robust import CLEAN, NOISES, POOLED

Maps = Mapping[str, Sequence[Mapping[str, np.ndarray]]]
#: line style of each noise in `lambda_line`
STROKES = ("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
#: rows of a grid of reconstructions
PLACES = ("image", "stem", "stage 1", "stage 2", "stage 3", "stage 4")


def _mean(maps: Sequence[Mapping[str, np.ndarray]], name: str) -> np.ndarray:
    return np.stack([np.asarray(one[name], dtype=float) for one in maps]).mean(0)


@styled
def corruptions(maps: Maps, path: Path, *, title: str) -> Path:
    """Draws accuracy under the 19 corruptions: filled at the lambda of training, hollow at the line's."""
    figure, axes = subplots(1, 1, (9.0, 4.4))
    axis, look = axes[0, 0], colours(list(maps))
    shift = np.linspace(-0.3, 0.3, len(maps)) if len(maps) > 1 else [0.0]
    for place, (model, own) in zip(shift, maps.items(), strict=True):
        colour, marker = look[model]
        at = np.arange(len(NAMES)) + place
        means = 100 * _mean(own, "robustness_severities").mean(1)
        axis.plot(at, means, marker, color=colour, label=model, markersize=5)
        if all("robustness_line_severities" in one for one in own):
            line = 100 * _mean(own, "robustness_line_severities").mean(1)
            axis.plot(at, line, marker, color=colour, markerfacecolor="none", markersize=8)
    axis.set_xticks(range(len(NAMES)), [name.replace("_", " ") for name in NAMES], rotation=50, ha="right")
    axis.axvline(14.5, color="#777777", linewidth=1, linestyle=":")
    axis.set_ylabel("accuracy, mean of five severities (%)")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    entitle(
        figure, f"{title}\nfilled: lambda of training, hollow: by the line; right of the dots: validation corruptions"
    )
    return save(figure, path)


@styled
def lambda_sweep(maps: Maps, path: Path, *, title: str) -> Path:
    """Draws accuracy against lambda, a row per network and a column per noise; darker lines are stronger noise."""
    import matplotlib as mpl

    figure, axes = subplots(
        len(maps), len(NOISES), (2.5 * len(NOISES) + 0.6, 2.1 * len(maps) + 0.6), sharex=True, sharey="row"
    )
    for number, (line, (model, own)) in enumerate(zip(axes, maps.items(), strict=True)):
        accuracy = 100 * _mean(own, "robustness_sweep_accuracy")
        lambdas, places = own[0]["robustness_sweep_lambdas"], own[0]["robustness_sweep_conditions"]
        for column, (axis, noise) in enumerate(zip(line, NOISES, strict=True), start=1):
            rows = [0, *np.flatnonzero(places[:, 0] == column)]
            shades = mpl.colormaps["viridis_r"](np.linspace(0.1, 1.0, len(rows)))
            for shade, row in zip(shades, rows, strict=True):
                label = CLEAN if row == 0 else f"{places[row, 1]:g}"
                axis.plot(lambdas, accuracy[row], "-", color=shade, linewidth=1.3, label=label)
                best = int(accuracy[row].argmax())
                axis.plot(lambdas[best], accuracy[row, best], "o", color=shade, markersize=4)
            if number == 0:
                axis.set_title(f"{noise} noise")
                axis.legend(fontsize=6.5, handlelength=1, title="level", title_fontsize=6.5)
            if number == len(maps) - 1:
                axis.set_xlabel("lambda of the first layer")
        line[0].set_ylabel(f"{model}\naccuracy (%)", fontsize=8)
    entitle(figure, f"{title}: accuracy on the images that lambda is chosen on, mean over seeds; dots: the best")
    return save(figure, path)


@styled
def lambda_line(maps: Maps, path: Path, *, title: str) -> Path:
    """Draws the best lambda against the reconstruction error, a point per condition and seed, and the fitted lines.

    Broken lines are fitted to one noise, the solid line to all conditions.
    """
    figure, axes = subplots(1, len(maps), (3.4 * len(maps) + 1.2, 3.4), sharey=True)
    names = (CLEAN, *NOISES)
    for axis, (model, own) in zip(axes[0], maps.items(), strict=True):
        for number, name in enumerate(names):
            colour = "#777777" if name == CLEAN else PALETTE[number - 1]
            for one in own:
                rows = one["robustness_sweep_conditions"][:, 0] == number
                best = one["robustness_sweep_lambdas"][one["robustness_sweep_accuracy"].argmax(1)]
                errors = one["robustness_sweep_errors"]
                label = name if one is own[0] else None
                axis.plot(errors[rows], best[rows], MARKERS[number], color=colour, label=label, markersize=4, alpha=0.8)
        for one in own:
            errors = one["robustness_sweep_errors"]
            noises = one["robustness_sweep_conditions"][:, 0]
            low, high = one["robustness_sweep_lambdas"][[0, -1]]
            for number, (slope, intercept, _) in enumerate(one["robustness_sweep_lines"]):
                pooled = number == len(NOISES)
                own_errors = errors if pooled else errors[noises == number + 1]
                span = np.linspace(own_errors.min(), own_errors.max(), 50)
                colour = "black" if pooled else PALETTE[number]
                shown = np.clip(slope * span + intercept, low, high)
                label = POOLED if pooled and one is own[0] else None
                stroke = "-" if pooled else STROKES[number]
                axis.plot(span, shown, color=colour, linestyle=stroke, linewidth=1.6 if pooled else 0.9, label=label)
        axis.set_title(model)
        axis.set_xlabel("reconstruction error at the lambda of training")
    axes[0, 0].set_ylabel("best lambda of the first layer")
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    entitle(figure, f"{title}: from reconstruction error to lambda, cut to the values that were tried")
    return save(figure, path)


@styled
def attack(maps: Maps, models: Sequence[str], path: Path, *, title: str) -> Path:
    """Draws accuracy without an attack (dotted), under attacks at the same lambda (solid) or at training's (dashed).

    `models` are all networks of the table, so that each has the same colour in every figure.
    """
    figure, axes = subplots(1, 2, (9.4, 3.4), sharey=True)
    look = colours(models)
    for axis, (norm, said) in zip(axes[0], (("linf", "largest pixel"), ("l2", "Euclidean norm")), strict=True):
        for model, own in maps.items():
            order = np.argsort(own[0]["attack_lambdas"])
            lambdas = own[0]["attack_lambdas"][order]
            none, same, fixed = 100 * _mean(own, f"attack_{norm}_curves")[:, order]
            colour, marker = look[model]
            axis.plot(lambdas, none, marker, linestyle=":", color=colour, linewidth=1, markersize=2.5)
            axis.plot(lambdas, same, marker, linestyle="-", color=colour, label=model, markersize=4)
            axis.plot(lambdas, fixed, marker, linestyle="--", color=colour, markerfacecolor="white", markersize=4)
        axis.set_title(f"change bounded by its {said}")
        axis.set_xlabel("lambda of the first layer")
    axes[0, 0].set_ylabel("accuracy (%)")
    axes[0, 0].set_ylim(-3, 103)
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    entitle(
        figure,
        f"{title}: projected gradient descent. Solid: attack and defence at one lambda; dashed: attack made at the "
        "lambda of training; dotted, small: no attack",
    )
    return save(figure, path)


def shown(pixels: np.ndarray, kind: str) -> np.ndarray:
    """Reconstructions (rows, pictures, C, H, W) as `kind` shows them, in [0, 1] (see `reconstructions`)."""
    import torch

    from stillpoint.pipelines.sdnet.reconstruction import equalised, stretched

    rows, columns = pixels.shape[:2]
    made = torch.from_numpy(np.asarray(pixels)).flatten(0, 1)  # (rows * columns, C, H, W)
    if kind == "differences":
        made = (made.unflatten(0, (rows, columns)) - torch.from_numpy(pixels).mean(1, keepdim=True)).flatten(0, 1)
    if kind != "raw":
        made = equalised(stretched(made)) if kind == "equalised" else stretched(made)
    return made.clamp(0, 1).unflatten(0, (rows, columns)).numpy()


@styled
def reconstructions(pixels: np.ndarray, kind: str, path: Path, *, title: str) -> Path:
    """A grid with a column for each image: from the top, the image and what the stem and each stage keep of it.

    pixels   (1 + stages, pictures, C, H, W), not cut to [0, 1]; `kind` is raw (cut), normalised (every channel of a
             picture stretched to [0, 1]), equalised (its histogram as well) or differences (the mean of a row
             subtracted before stretching, since shrinkage leaves little else in the deeper stages)
    """
    rows, columns = pixels.shape[:2]
    grid = np.moveaxis(shown(pixels, kind), 2, -1)
    if kind != "raw":
        grid[0] = np.clip(np.moveaxis(pixels[0], 1, -1), 0, 1)
    figure, axes = subplots(rows, columns, (1.0 * columns + 0.6, 1.0 * rows + 0.5))
    for line, pictures, place in zip(axes, grid, PLACES, strict=False):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.grid(False)
        line[0].set_ylabel(place)
    entitle(figure, title)
    return save(figure, path)
