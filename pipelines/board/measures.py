"""The measures of the board: what each is called, what it says in a sentence, and who introduced it. Torch-free."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A number of an entry.

    key       in a run's metrics, or in its cost
    title     heading of a column
    unit      "%": a share; "nats"; "x": over the base; "": as it is
    better    "higher" or "lower"
    sentence  what it says
    source    who introduced it, or that it is ours
    group     what it stands with: answers, shifts, pixels, other, cost
    shown     whether its column is there when the page opens
    bound     over seeds, the largest is what holds
    counted   key of the number of images, where they are a sample; "": all
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
        "accuracy", "accuracy", "%", "higher", "Share of test images that are given their class.", "", "answers", True
    ),
    Measure(
        *("circular_consistency", "circular consistency", "%", "higher"),
        *(
            "Two circular shifts of an image, drawn for each image: the share of pairs that are given one class.",
            _ZHANG,
        ),
        *("shifts", True),
    ),
    Measure(
        *("all_shifts_consistency", "every shift", "%", "higher"),
        *("Over every circular shift of a sample of images: the share given the class of the unshifted image.",),
        *(_APS, "shifts", True, False, "all_shifts_images"),
    ),
    Measure(
        *("crop_consistency", "translations, zeros enter", "%", "higher"),
        *("As circular consistency, but what enters at the edge is the mean colour, as when a window moves.", _APS),
        *("shifts", True),
    ),
    Measure(
        *("windows_consistency", "windows", "%", "higher"),
        *("Two windows of a larger picture, or of the image with its border repeated: the share given one class.",),
        *(_ZHANG, "shifts"),
    ),
    Measure(
        *("worst_shift_accuracy", "worst shift", "%", "higher"),
        *("Share of images that stay right at every circular shift of up to four pixels, as an attacker would try.",),
        *(_ATTACK, "shifts", True, False, "worst_shift_images"),
    ),
    Measure(
        *("walk_flip_rate", "mean flip rate", "%", "lower"),
        *("The picture walks along the diagonal: how often its class changes over one step, two, and so on.",),
        *(_HD, "shifts"),
    ),
    Measure(
        *("walk_stability", "diagonal stability", "%", "higher"),
        *("One minus the mean change of the right class's probability at each pixel of that walk.", _ZHANG, "shifts"),
    ),
    Measure(
        *("circular_divergence", "divergence", "nats", "lower"),
        *("How far a circular shift moves the probabilities: Kullback-Leibler from the unshifted image's.",),
        *(_TWIN, "shifts"),
    ),
    Measure(
        *("circular_mean_logit_change", "mean logit change", "", "lower"),
        *("Largest change of a logit under a circular shift over the largest logit, averaged over views.", _OURS),
        *("shifts",),
    ),
    Measure(
        *("all_shifts_max_logit_change", "largest logit change", "", "lower"),
        *("The same over every circular shift of a sample of images, the largest of all: what the law speaks of.",),
        *(_OURS, "shifts", False, True),
    ),
    Measure(
        *("subpixel_half_consistency", "half a pixel", "%", "higher"),
        *("Moved by half a pixel on both axes (trigonometric interpolation): the share that keeps its class.", _AFC),
        *("pixels", True),
    ),
    Measure(
        *("subpixel_quarter_consistency", "a quarter", "%", "higher"),
        *("Moved by a quarter of a pixel on both axes: the share that keeps its class.", _AFC, "pixels"),
    ),
    Measure(
        *("subpixel_random_consistency", "any fraction", "%", "higher"),
        *("Moved by a real number of pixels, drawn for each image: the share that keeps its class.", _AZULAY, "pixels"),
    ),
    Measure(
        *("subpixel_law_max_logit_change", "largest logit change, fractions", "", "lower"),
        *(
            "Largest relative change of a logit by half a pixel, on images without the highest frequency.",
            _OURS,
            "pixels",
            False,
            True,
        ),
    ),
    Measure(
        *("rotation_consistency", "rotated by a degree", "%", "higher"),
        *(
            "Rotated by one degree either way: the share that keeps its class. No method of the board promises it.",
            _OURS,
        ),
        *("other",),
    ),
    Measure(
        *("scaling_consistency", "scaled by 3 %", "%", "higher"),
        *("Made smaller and larger by 3 per cent: the share that keeps its class. Nobody promises this either.", _OURS),
        *("other",),
    ),
    Measure(
        *("corruption_error", "corruption error", "%", "lower"),
        *("Error under 15 common corruptions at severities 1, 3 and 5, not divided by another network's.", _HD),
        *("other", True, False, "corruption_images"),
    ),
    Measure("parameters", "parameters", "", "lower", "Trained numbers.", "", "cost"),
    Measure(
        *("multiply_adds", "multiply-adds", "", "lower"),
        *("Of one image, in convolutions, filters and matrix products.", "", "cost"),
    ),
    Measure(
        *("inference_time", "inference time", "x", "lower"),
        *("A forward over that of the base, both taking turns in one process.", _OURS, "cost", True),
    ),
    Measure(
        *("training_time", "training time", "x", "lower"),
        *("A forward and backward over that of the base, both taking turns in one process.", _OURS, "cost"),
    ),
    Measure(
        *("training_kept_ratio", "training memory", "x", "lower"),
        *("Numbers that a step keeps for its backward over those of the base: what decides the peak.", _OURS, "cost"),
    ),
)
BY_KEY = {measure.key: measure for measure in MEASURES}
#: a law holds where no logit changes by more, relative to the largest
LAW = 1e-5
