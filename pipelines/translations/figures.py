"""The notebook's figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stillpoint.core.reporting.figures import colours, entitle, save, styled, subplots
from stillpoint.pipelines.translations.passes import Pass


@styled
def samples(grid: np.ndarray, classes: Sequence[str], path: Path, *, title: str) -> Path:
    """Draws the network's input images (K, 4, H, W), a column per class."""
    count, each = grid.shape[:2]
    figure, axes = subplots(each, count, (0.95 * count, 0.95 * each + 0.9))
    for column, name in enumerate(classes):
        for row in range(each):
            _image(axes[row, column], grid[column, row], grid.min(), grid.max(), "gray")
        axes[0, column].set_title(name)
    entitle(figure, f"{title}\ntest images as the network sees them")
    return save(figure, path)


@styled
def learning_curves(
    curves: Mapping[str, Sequence[Sequence[Pass]]],
    published: Mapping[str, Sequence[Pass]],
    path: Path,
    *,
    title: str,
) -> Path:
    """Draws test loss and accuracy before training and after each epoch: means over seeds, bands of their range.

    `published` numbers have their network's marker, hollow and larger.
    """
    figure, axes = subplots(1, 2, (8.6, 3.4))
    look = colours(list(curves))
    for axis, (what, label) in zip(
        axes[0], (("loss", "test loss (nats)"), ("percent", "test accuracy (%)")), strict=True
    ):
        for model, seeds in curves.items():
            length = min(len(passes) for passes in seeds)
            values = np.array([[getattr(p, what) for p in passes[:length]] for passes in seeds])
            epochs = [p.epoch for p in seeds[0][:length]]
            colour, marker = look[model]
            axis.plot(epochs, values.mean(0), color=colour, marker=marker, markersize=3.5, linewidth=1.4, label=model)
            axis.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
            if there := published.get(model):
                numbers = [p.epoch for p in there], [getattr(p, what) for p in there]
                hollow = {"markerfacecolor": "none", "markersize": 8, "label": f"{model}, notebook"}
                axis.plot(*numbers, marker, color=colour, **hollow)
        axis.set_xlabel("epoch")
        axis.locator_params(axis="x", integer=True)
        axis.set_ylabel(label)
    axes[0, 1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    entitle(figure, f"{title}: test passes")
    return save(figure, path)


@styled
def confusion(counts: np.ndarray, classes: Sequence[str], path: Path, *, title: str) -> Path:
    """Draws the confusion matrix with true classes in rows, as counts and as percentages of the row."""
    figure, axes = subplots(1, 2, (11.5, 5.0))
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    panels = ((counts, "images", "{:.0f}"), (shares, "per cent of the class", "{:.1f}"))
    for axis, (values, label, form) in zip(axes[0], panels, strict=True):
        axis.imshow(values, cmap="Blues", vmin=0)
        for row, column in np.ndindex(*values.shape):
            dark = values[row, column] > values.max() / 2
            text = form.format(values[row, column])
            axis.text(column, row, text, ha="center", va="center", fontsize=6.5, color="white" if dark else "black")
        axis.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axis.set_yticks(range(len(classes)), classes)
        axis.grid(False)
        axis.set_xlabel("predicted")
        axis.set_title(label)
    axes[0, 0].set_ylabel("true")
    entitle(figure, title)
    return save(figure, path)


@styled
def class_images(
    images: np.ndarray, losses: np.ndarray, chances: np.ndarray, classes: Sequence[str], path: Path, *, title: str
) -> Path:
    """Draws the image (H, W) that maximises each of K classes, with its loss (K,) and probabilities (K, K).

    Zero is grey, lighter where an image is positive.
    """
    columns = -(-len(images) // 2)
    figure, axes = subplots(2, columns, (1.9 * columns, 4.8))
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, loss, row, name in zip(axes.flat, images, losses, chances, classes, strict=False):
        _image(axis, image, -np.abs(image).max(), np.abs(image).max(), "gray")
        listed = [f"{100 * chance:.0f}" for chance in row]
        half = -(-len(listed) // 2)
        lines = "\n".join(" ".join(part) for part in (listed[:half], listed[half:]))
        axis.set_title(f"{name}\nloss {loss:.1e}\n{lines} %", fontsize=7.5)
    entitle(figure, f"{title}\nloss and probabilities of all classes in per cent; grey is zero, lighter is positive")
    return save(figure, path)


@styled
def neurons(images: np.ndarray, shares: np.ndarray, path: Path, *, title: str) -> Path:
    """Draws images (N, H, W) in the order of the neurons, each on its own scale, with shares (N,) in per cent."""
    columns = max(1, round(len(images) ** 0.5))
    rows = -(-len(images) // columns)
    figure, axes = subplots(rows, columns, (0.85 * columns, 0.85 * rows + 0.7))
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, share in zip(axes.flat, images, shares, strict=False):
        _image(axis, image, -np.abs(image).max(), np.abs(image).max(), "gray")
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8}
        axis.text(1, 1, f"{100 * share:.0f}", fontsize=5, va="top", bbox=box)
    entitle(figure, title)
    return save(figure, path)


@styled
def second_layer(weights: np.ndarray, classes: Sequence[str], path: Path, *, title: str) -> Path:
    """Draws weights (K, N): hidden neurons in columns, classes in rows."""
    figure, axes = subplots(1, 1, (9.0, 2.4))
    most = np.abs(weights).max()
    picture = axes[0, 0].imshow(weights, cmap="gray", vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
    axes[0, 0].set_yticks(range(len(classes)), classes)
    axes[0, 0].set_xlabel("hidden neuron")
    axes[0, 0].grid(False)
    figure.colorbar(picture, ax=axes[0, 0], label="weight")
    entitle(figure, title)
    return save(figure, path)


def _image(axis, image: np.ndarray, low: float, high: float, shades: str) -> None:
    axis.imshow(image, cmap=shades, vmin=low, vmax=high, interpolation="nearest")
    axis.set_axis_off()
