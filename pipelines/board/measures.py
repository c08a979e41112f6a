"""The measures of the board: the name, explanation and source of each. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A number of an entry.

    key       in a run's metrics, or in its cost
    title     heading of its column
    unit      "%": a fraction shown as a percentage; "nats"; "x": relative to the base; "": as it is
    better    "higher" or "lower"
    sentence  its explanation
    source    who introduced it; "ours"; "": needs none
    group     its group on the page: answers, shifts, pixels, other, cost
    shown     whether its column is visible when the page opens
    bound     summarise seeds by the largest value, not by the mean
    counted   key of the number of images if only a sample is measured; "": all
    """

    key: str
    title: str
    unit: str
    better: str
    sentence: str
    source: str
    group: str
    shown: bool = False
    bound: bool = False
    counted: str = ""

    @property
    def error(self) -> str:
        """Key of the standard error over images."""
        return f"{self.key}_standard_error"

    @property
    def scale(self) -> float:
        return 100.0 if self.unit == "%" else 1.0


_ZHANG, _APS, _OURS = "Zhang, ICML 2019", "Chaman and Dokmanic, CVPR 2021", "ours"
_AZULAY, _AFC = "Azulay and Weiss, JMLR 2019", "Michaeli, Michaeli and Soudry, CVPR 2023"
_HD, _TWIN = "Hendrycks and Dietterich, ICLR 2019", "Leterme et al."
_ATTACK = "Engstrom et al., ICML 2019"

MEASURES = (
    Measure(
        "accuracy",
        "accuracy",
        unit="%",
        better="higher",
        sentence="Share of test images classified correctly.",
        source="",
        group="answers",
        shown=True,
    ),
    Measure(
        "circular_consistency",
        "circular consistency",
        unit="%",
        better="higher",
        sentence="Two random circular shifts of each image: the share of pairs that get the same class.",
        source=_ZHANG,
        group="shifts",
        shown=True,
    ),
    Measure(
        "all_shifts_consistency",
        "every shift",
        unit="%",
        better="higher",
        sentence="Over every circular shift of a sample of images: the share that keep the unshifted image's class.",
        source=_APS,
        group="shifts",
        shown=True,
        counted="all_shifts_images",
    ),
    Measure(
        "crop_consistency",
        "translations, zeros enter",
        unit="%",
        better="higher",
        sentence="As circular consistency, but the mean colour enters at the edge, as when a window moves.",
        source=_APS,
        group="shifts",
        shown=True,
    ),
    Measure(
        "windows_consistency",
        "windows",
        unit="%",
        better="higher",
        sentence="Two windows of a larger picture, or of an image with repeated border: the share with the same class.",
        source=_ZHANG,
        group="shifts",
    ),
    Measure(
        "worst_shift_accuracy",
        "worst shift",
        unit="%",
        better="higher",
        sentence="Share of images right at every circular shift of up to four pixels: an attacker chooses the shift.",
        source=_ATTACK,
        group="shifts",
        shown=True,
        counted="worst_shift_images",
    ),
    Measure(
        "walk_flip_rate",
        "mean flip rate",
        unit="%",
        better="lower",
        sentence="The picture walks along the diagonal: how often its class changes over one step, two, and so on.",
        source=_HD,
        group="shifts",
    ),
    Measure(
        "walk_stability",
        "diagonal stability",
        unit="%",
        better="higher",
        sentence="One minus the mean change of the right class's probability at each pixel of that walk.",
        source=_ZHANG,
        group="shifts",
    ),
    Measure(
        "circular_divergence",
        "divergence",
        unit="nats",
        better="lower",
        sentence="Kullback-Leibler divergence of shifted from unshifted images' class probabilities, circular shifts.",
        source=_TWIN,
        group="shifts",
    ),
    Measure(
        "circular_mean_logit_change",
        "mean logit change",
        unit="",
        better="lower",
        sentence="Largest change of a logit under a circular shift, relative to the largest logit; mean over views.",
        source=_OURS,
        group="shifts",
    ),
    Measure(
        "all_shifts_max_logit_change",
        "largest logit change",
        unit="",
        better="lower",
        sentence="The largest such change over every circular shift of a sample of images, which the law bounds.",
        source=_OURS,
        group="shifts",
        bound=True,
    ),
    Measure(
        "subpixel_half_consistency",
        "half a pixel",
        unit="%",
        better="higher",
        sentence="Shifted by half a pixel on both axes (trigonometric interpolation): the share that keep their class.",
        source=_AFC,
        group="pixels",
        shown=True,
    ),
    Measure(
        "subpixel_quarter_consistency",
        "a quarter",
        unit="%",
        better="higher",
        sentence="Shifted by a quarter of a pixel on both axes: the share that keep their class.",
        source=_AFC,
        group="pixels",
    ),
    Measure(
        "subpixel_random_consistency",
        "any fraction",
        unit="%",
        better="higher",
        sentence="Shifted by a random real number of pixels: the share that keep their class.",
        source=_AZULAY,
        group="pixels",
    ),
    Measure(
        "subpixel_law_max_logit_change",
        "largest logit change, fractions",
        unit="",
        better="lower",
        sentence="Largest relative logit change under a shift by half a pixel, on images without highest frequency.",
        source=_OURS,
        group="pixels",
        bound=True,
    ),
    Measure(
        "rotation_consistency",
        "rotated by a degree",
        unit="%",
        better="higher",
        sentence="Rotated by one degree either way: the share that keep their class. No method promises it.",
        source=_OURS,
        group="other",
    ),
    Measure(
        "scaling_consistency",
        "scaled by 3 %",
        unit="%",
        better="higher",
        sentence="Scaled down and up by 3 %: the share that keep their class. No method promises it.",
        source=_OURS,
        group="other",
    ),
    Measure(
        "corruption_error",
        "corruption error",
        unit="%",
        better="lower",
        sentence="Error under 15 common corruptions at severities 1, 3 and 5, not normalised by another network's.",
        source=_HD,
        group="other",
        shown=True,
        counted="corruption_images",
    ),
    Measure(
        "parameters",
        "parameters",
        unit="",
        better="lower",
        sentence="Number of trainable parameters.",
        source="",
        group="cost",
    ),
    Measure(
        "multiply_adds",
        "multiply-adds",
        unit="",
        better="lower",
        sentence="For one image, in convolutions, filters and matrix products.",
        source="",
        group="cost",
    ),
    Measure(
        "inference_time",
        "inference time",
        unit="x",
        better="lower",
        sentence="Time of a forward pass relative to the base's, measured in turns in one process.",
        source=_OURS,
        group="cost",
        shown=True,
    ),
    Measure(
        "training_time",
        "training time",
        unit="x",
        better="lower",
        sentence="Time of a forward and backward pass relative to the base's, measured in turns in one process.",
        source=_OURS,
        group="cost",
    ),
    Measure(
        "peak_memory_ratio",
        "peak memory",
        unit="x",
        better="lower",
        sentence="Peak memory of a training step beyond the network itself, relative to the base's.",
        source=_OURS,
        group="cost",
    ),
)
BY_KEY = {measure.key: measure for measure in MEASURES}
#: a law holds if no logit changes by more than this, relative to the largest logit
LAW = 1e-5
