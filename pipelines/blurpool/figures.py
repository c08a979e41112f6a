"""The paper's figures."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stillpoint.core.reporting.figures import colours, entitle, save, styled, subplots

LAYERS = 5  # maps of one network in a row


@styled
def diagonal(curves: Mapping[str, np.ndarray], path: Path, *, title: str) -> Path:
    """Draws the probability of the true class while the window moves along the diagonal, a column per family.

    curves   network -> (images, positions) in [0, 1]; names that differ only in ``_lpf<k>`` are one family

    Above: the image on which the family's first network varies most. Below: the mean absolute step from one position to
    the next, over all images.
    """
    families: dict[str, list[str]] = {}
    for model in curves:
        families.setdefault(model.partition("_lpf")[0], []).append(model)
    # a filter has the same style in all families, even in one that lacks other filters
    look = colours(list(dict.fromkeys(_taps(model, family) for family, own in families.items() for model in own)))
    figure, axes = subplots(2, len(families), (3.0 * len(families) + 0.6, 5.6), sharex=True, sharey="row")
    handles = {}
    for column, (family, models) in enumerate(families.items()):
        first = np.asarray(curves[models[0]], dtype=float)
        image = int(np.abs(np.diff(first, axis=1)).sum(1).argmax())
        for model in models:
            found = np.asarray(curves[model], dtype=float)
            steps = np.abs(np.diff(found, axis=1)).mean(0)
            label = _taps(model, family)
            colour, marker = look[label]
            shown = {"color": colour, "marker": marker, "markersize": 3.5, "linewidth": 1.4}
            (handles[label],) = axes[0, column].plot(found[image] * 100, **shown)
            axes[1, column].plot(np.arange(len(steps)) + 0.5, steps * 100, **shown)
        axes[0, column].set_title(f"{family}\nimage {image + 1} of {len(first)}")
        axes[1, column].set_xlabel("place along the diagonal (pixels)")
    axes[0, 0].set_ylabel("probability of the right class (%)")
    axes[0, 0].set_ylim(-3, 103)
    axes[1, 0].set_ylabel("mean absolute step (%)")
    axes[1, 0].set_ylim(bottom=0)
    figure.legend(handles.values(), handles.keys(), loc="outside right center")
    entitle(figure, f"{title}: a window moving along the diagonal")
    return save(figure, path)


def _taps(model: str, family: str) -> str:
    return model.removeprefix(family).removeprefix("_") or "plain"


@styled
def feature_distance(maps: Mapping[str, Mapping[str, np.ndarray]], path: Path, *, title: str) -> Path:
    """Draws the cosine distance of shifted maps and maps of shifted images, a row per network, a column per layer.

    maps   network -> layer -> (M+1, M+1) over shifts down and right; each network shows at most `LAYERS` of them,
           evenly through its depth from first to last, on one colour scale for all
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
        line[0].set_ylabel(f"{model}\nshift down (pixels)", fontsize=7)
    for axis in axes[-1]:
        axis.set_xlabel("shift right (pixels)", fontsize=7)
    figure.colorbar(drawn, ax=axes, label="cosine distance", shrink=0.6)
    entitle(figure, f"{title}: distance inside the networks, trained")
    return save(figure, path)


def _even(names: list[str]) -> list[str]:
    """At most `LAYERS` names, evenly spaced from first to last."""
    count = min(LAYERS, len(names))
    return [names[round(k)] for k in np.linspace(0, len(names) - 1, count)]
