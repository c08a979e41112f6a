"""The measures of the board: name, meaning in a sentence, and source of each. Torch-free."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A number of an entry.

    key       in a run's metrics, or in its cost
    title     heading of its column
    unit      "%": a fraction shown as a percentage; "nats"; "x": relative to the base; "": as it is
    better    "higher" or "lower"
    sentence  its meaning
    source    who introduced it, "ours", or ""
    group     of columns: answers, shifts, pixels, other, cost
    shown     whether its column is visible when the page opens
    bound     whether the largest value over seeds counts, not the mean
    counted   key of the number of images if they are a sample; "": all images
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
        sentence="Share of test images that are given their class.",
        source="",
        group="answers",
        shown=True,
    ),
    Measure(
        "circular_consistency",
        "circular consistency",
        unit="%",
        better="higher",
        sentence="Two circular shifts of an image, drawn for each image: the share of pairs that are given one class.",
        source=_ZHANG,
        group="shifts",
        shown=True,
    ),
    Measure(
        "all_shifts_consistency",
        "every shift",
        unit="%",
        better="higher",
        sentence="Over every circular shift of a sample of images: the share given the class of the unshifted image.",
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
        sentence="As circular consistency, but what enters at the edge is the mean colour, as when a window moves.",
        source=_APS,
        group="shifts",
        shown=True,
    ),
    Measure(
        "windows_consistency",
        "windows",
        unit="%",
        better="higher",
        sentence="Two windows of a larger picture, or of the image with its border repeated: the share of one class.",
        source=_ZHANG,
        group="shifts",
    ),
    Measure(
        "worst_shift_accuracy",
        "worst shift",
        unit="%",
        better="higher",
        sentence="Share of images that are right at every circular shift of up to four pixels: an attacker's choice.",
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
        sentence="How far a circular shift moves the probabilities: Kullback-Leibler from the unshifted image's.",
        source=_TWIN,
        group="shifts",
    ),
    Measure(
        "circular_mean_logit_change",
        "mean logit change",
        unit="",
        better="lower",
        sentence="Largest change of a logit under a circular shift over the largest logit, averaged over views.",
        source=_OURS,
        group="shifts",
    ),
    Measure(
        "all_shifts_max_logit_change",
        "largest logit change",
        unit="",
        better="lower",
        sentence="The same over every circular shift of a sample of images, the largest: what the law is about.",
        source=_OURS,
        group="shifts",
        bound=True,
    ),
    Measure(
        "subpixel_half_consistency",
        "half a pixel",
        unit="%",
        better="higher",
        sentence="Moved by half a pixel on both axes (trigonometric interpolation): the share that keeps its class.",
        source=_AFC,
        group="pixels",
        shown=True,
    ),
    Measure(
        "subpixel_quarter_consistency",
        "a quarter",
        unit="%",
        better="higher",
        sentence="Moved by a quarter of a pixel on both axes: the share that keeps its class.",
        source=_AFC,
        group="pixels",
    ),
    Measure(
        "subpixel_random_consistency",
        "any fraction",
        unit="%",
        better="higher",
        sentence="Moved by a real number of pixels, drawn for each image: the share that keeps its class.",
        source=_AZULAY,
        group="pixels",
    ),
    Measure(
        "subpixel_law_max_logit_change",
        "largest logit change, fractions",
        unit="",
        better="lower",
        sentence="Largest relative change of a logit by half a pixel, on images without the highest frequency.",
        source=_OURS,
        group="pixels",
        bound=True,
    ),
    Measure(
        "rotation_consistency",
        "rotated by a degree",
        unit="%",
        better="higher",
        sentence="Rotated by one degree either way: the share that keeps its class. No method promises it.",
        source=_OURS,
        group="other",
    ),
    Measure(
        "scaling_consistency",
        "scaled by 3 %",
        unit="%",
        better="higher",
        sentence="Made smaller and larger by 3 per cent: the share that keeps its class. Nobody promises this either.",
        source=_OURS,
        group="other",
    ),
    Measure(
        "corruption_error",
        "corruption error",
        unit="%",
        better="lower",
        sentence="Error under 15 common corruptions at severities 1, 3 and 5, not divided by another network's.",
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
        sentence="Trained numbers.",
        source="",
        group="cost",
    ),
    Measure(
        "multiply_adds",
        "multiply-adds",
        unit="",
        better="lower",
        sentence="Of one image, in convolutions, filters and matrix products.",
        source="",
        group="cost",
    ),
    Measure(
        "inference_time",
        "inference time",
        unit="x",
        better="lower",
        sentence="A forward over that of the base, both taking turns in one process.",
        source=_OURS,
        group="cost",
        shown=True,
    ),
    Measure(
        "training_time",
        "training time",
        unit="x",
        better="lower",
        sentence="A forward and backward over that of the base, both taking turns in one process.",
        source=_OURS,
        group="cost",
    ),
    Measure(
        "peak_memory_ratio",
        "peak memory",
        unit="x",
        better="lower",
        sentence="The most that a training step holds at once beyond the network, over that of the base.",
        source=_OURS,
        group="cost",
    ),
)
BY_KEY = {measure.key: measure for measure in MEASURES}
#: shift invariance holds if no logit changes by more, relative to the largest
LAW = 1e-5
