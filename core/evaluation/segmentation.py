"""The evaluations "segmentation", "circular_maps" and "crop_maps": are label maps right, do they move with the image?

mASSC is the mean average segmentation shift consistency of Rojas-Gomez et al., NeurIPS 2022.
"""

from torch import Tensor

from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.evaluation.view import ALONE, Result, View
from stillpoint.core.metrics.segmentation_metrics import MapConsistency, SegmentationScores
from stillpoint.core.metrics.views import Boundary


class Segmentation:
    """Mean IoU, mean class accuracy, pixel accuracy and frequency-weighted IoU over the pixels that have a class."""

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.found: SegmentationScores | None = None

    def update(self, view: View) -> None:
        if self.found is None:
            self.found = SegmentationScores(view.logits.shape[1], **ALONE)
        self.found.update(view.logits, view.labels)

    def compute(self) -> Result:
        assert self.found is not None, "there is at least one image"
        return {f"segmentation_{name}": value for name, value in self.found.scores.items()}


class MapShifts:
    """How many pixels keep their label under REPEATS shifts, each axis uniform in -MAX_SHIFT..MAX_SHIFT pixels.

    ``agreement`` is mASSC: the fraction of pixels that keep their label, averaged over the repeats; with zeros at the
    edge only pixels within both maps count. ``agreement_variance`` is over the repeats.
    """

    name: str
    boundary: Boundary

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.options = {"max_shift": config.max_shift, "repeats": config.repeats, "seed": seed}
        self.found: MapConsistency | None = None

    def update(self, view: View) -> None:
        if self.found is None:
            classes = view.logits.shape[1]
            self.found = MapConsistency(boundary=self.boundary, classes=classes, **self.options, **ALONE)

        def predict(images: Tensor) -> Tensor:
            return view.logits if images is view.images else view.predict(images)

        self.found.update(predict, view.images, view.labels, view.indices)

    def compute(self) -> Result:
        assert self.found is not None, "there is at least one image"
        found = {
            "agreement": float(self.found.compute()),
            "agreement_variance": self.found.variance,
            "iou": self.found.iou,
            "shifted_mean_iou": self.found.change[1],
        }
        return {f"{self.name}_{key}": value for key, value in found.items()}


class CircularMaps(MapShifts):
    """Label maps under circular shifts."""

    name, boundary = "circular_maps", "circular"


class CropMaps(MapShifts):
    """Label maps under shifts with zeros at the edge."""

    name, boundary = "crop_maps", "zeros"
