"""The paper's pictures."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from core.figures import PALETTE, save, styled, subplots

LAYERS = 5  # maps of one network in a row


@styled
def diagonal(curves: Mapping[str, np.ndarray], path: Path, *, title: str) -> Path:
    """Probability of the right class while the window moves along the diagonal; a column for each family.

    curves   network -> (images, positions) in [0, 1]; names that differ in ``_lpf<k>`` alone are one family

    Above: the image on which the family's first network moves most. Below: the mean absolute step from one position to
    the next, over all images.
    """
    families: dict[str, list[str]] = {}
    for model in curves:
        families.setdefault(model.partition("_lpf")[0], []).append(model)
    figure, axes = subplots(2, len(families), (3.0 * len(families) + 0.6, 4.8), sharex=True, sharey="row")
    for column, (family, models) in enumerate(families.items()):
        first = np.asarray(curves[models[0]], dtype=float)
        image = int(np.abs(np.diff(first, axis=1)).sum(1).argmax())
        for k, model in enumerate(models):
            found = np.asarray(curves[model], dtype=float)
            steps = np.abs(np.diff(found, axis=1)).mean(0)
            label = model.removeprefix(family).removeprefix("_") or "plain"
            axes[0, column].plot(found[image] * 100, color=PALETTE[k % len(PALETTE)], linewidth=1.4, label=label)
            axes[1, column].plot(
                np.arange(len(steps)) + 0.5, steps * 100, color=PALETTE[k % len(PALETTE)], linewidth=1.4
            )
        axes[0, column].set_title(f"{family}\nimage {image} of {len(first)}")
        axes[1, column].set_xlabel("place along the diagonal (pixels)")
    axes[0, 0].set_ylabel("probability of the right class (%)")
    axes[0, 0].set_ylim(-3, 103)
    axes[1, 0].set_ylabel("mean absolute step (%)")
    axes[1, 0].set_ylim(bottom=0)
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(f"{title}: a window moving along the diagonal", x=0.01, ha="left", fontsize=9.5)
    return save(figure, path)


@styled
def feature_distance(maps: Mapping[str, Mapping[str, np.ndarray]], path: Path, *, title: str) -> Path:
    """Cosine distance between shifted maps and maps of the shifted image: a row for each network, layers from the left.

    maps   network -> layer -> (M+1, M+1) over shifts down and right; each network shows `LAYERS` of them at most,
           evenly through its depth, the first and the last among them. All share one colour scale.
    """
    rows = {model: _even(list(layers)) for model, layers in maps.items()}
    top = max(float(maps[model][layer].max()) for model, layers in rows.items() for layer in layers) or 1.0
    columns = max(len(layers) for layers in rows.values())
    figure, axes = subplots(len(rows), columns, (1.55 * columns + 1.4, 1.75 * len(rows) + 0.7))
    for line, (model, layers) in zip(axes, rows.items(), strict=True):
        for axis in line[len(layers) :]:
            axis.set_axis_off()
        for axis, layer in zip(line, layers, strict=False):
            drawn = axis.imshow(maps[model][layer], vmin=0, vmax=top, cmap="magma", interpolation="nearest")
            axis.grid(False)
            axis.set_title(layer, fontsize=7)
            axis.tick_params(labelsize=6)
            axis.locator_params(integer=True, nbins=5)
        line[0].set_ylabel(f"{model}\nshift down", fontsize=7)
    for axis in axes[-1]:
        axis.set_xlabel("shift right", fontsize=7)
    figure.colorbar(drawn, ax=axes, label="cosine distance", shrink=0.6)
    figure.suptitle(f"{title}: distance inside the networks, trained", x=0.01, ha="left", fontsize=9.5)
    return save(figure, path)


def _even(names: list[str]) -> list[str]:
    """`LAYERS` names at most, evenly spaced, both ends among them."""
    count = min(LAYERS, len(names))
    return [names[round(k)] for k in np.linspace(0, len(names) - 1, count)]
