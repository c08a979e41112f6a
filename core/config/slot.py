"""What may stand in the slots of a network, by name, without importing any of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Filling:
    """A filling of the Downsample slot.

    where    ``module:class``
    options  the keyword options of the class, but for `device` and `dtype`
    """

    where: str
    options: tuple[str, ...] = ()


_LAYERS = "stillpoint.core.layers"

#: the fillings of the Downsample slot: one line each
FILLINGS: dict[str, Filling] = {
    "subsample": Filling(f"{_LAYERS}.downsample:Subsample"),
    "blur": Filling(f"{_LAYERS}.blur:BlurPool2d", ("size", "padding", "pad_off")),
    "adaptive_blur": Filling(f"{_LAYERS}.adaptive_blur:AdaptiveBlur2d", ("size", "groups", "padding", "normalise")),
    "polyphase": Filling(f"{_LAYERS}.polyphase:PolyphaseDownsample2d", ("size", "padding", "criterion", "select")),
    "ideal_lowpass": Filling(f"{_LAYERS}.lowpass:IdealLowPass2d", ("factor",)),
}
