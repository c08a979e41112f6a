"""Writes reconstructions for TensorBoard, if installed: the content of the PNG grids, one image for each tag."""

import warnings
from pathlib import Path

import numpy as np

from stillpoint.core.base.errors import UserError
from stillpoint.core.reporting.reading import read_maps
from stillpoint.core.runs.layout import Run

FOLDER = "tensorboard"
KINDS = ("raw", "normalised", "equalised")


def require() -> None:
    """Raises `UserError` unless TensorBoard can be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"EVALUATE.TENSORBOARD needs TensorBoard, which is not installed ({error}): pip install "
            "'stillpoint[tensorboard]', or leave it out: the grids are written as PNG files anyway"
        ) from None


def write(run: Run) -> Path | None:
    """Writes ``<run>/tensorboard/<status>`` again from the run's maps; None if the network has no reconstructions.

    Tags are ``image`` and ``<place>/<kind>``: the stem and each stage, raw (cut to [0, 1]), normalised and equalised.
    """
    from torch.utils.tensorboard import SummaryWriter

    from stillpoint.pipelines.sdnet.figures import PLACES, shown

    pixels = read_maps(run.maps).get("trained/reconstructions_pixels")
    if pixels is None:
        return None
    folder = run.folder / FOLDER / getattr(run, "status", "weights")
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        writer.add_images("image", np.clip(pixels[0], 0, 1), 0)
        for kind in KINDS:
            for place, pictures in zip(PLACES[1:], shown(pixels, kind)[1:], strict=False):
                writer.add_images(f"{place}/{kind}", pictures, 0)
    return folder
