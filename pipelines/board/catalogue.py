"""The entries of the board: one network, and one change at a time.

The base strides, pads circularly and is trained on images as they are. Every other entry changes one thing, or is one
of the most promising pairs. A stem that strides is compared with ``strided_stem``, of the same stride.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from stillpoint.pipelines.paper import ModelEntry

#: what an entry promises: nothing, logits unchanged under whole-pixel circular shifts, or under all circular shifts
Promise = Literal["none", "whole", "any"]


@dataclass(frozen=True)
class Line:
    """An entry of the board, with the labels that the page filters by.

    method, stem, padding, training   its labels
    settings, sections                its settings of MODEL, and of other sections
    """

    method: str
    promise: Promise = "none"
    settings: dict[str, Any] = field(default_factory=dict)
    stem: str = "plain"
    padding: str = "circular"
    training: str = "as they are"
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    source: str = ""


BASE = "strides"
#: the base for entries whose stem strides by four
STRIDED_BASE = "strided_stem"

_ZHANG, _ZOU = "Zhang, ICML 2019", "Zou et al., BMVC 2020"
_APS, _LPS = "Chaman and Dokmanic, CVPR 2021", "Rojas-Gomez et al., NeurIPS 2022"
_TIPS, _AFC = "Saha and Gokhale, WACV 2025", "Michaeli, Michaeli and Soudry, CVPR 2023"
_TWIN, _CSC = "Leterme et al.", "Dai et al., NeurIPS 2022"
_SCATTER = "Bruna and Mallat, TPAMI 2013"

_CIRCULAR = {"FILTER_PADDING": "circular"}
_APS3 = {"DOWNSAMPLE": "polyphase", "FILTER_SIZE": 3, **_CIRCULAR}
_ZEROS: dict[str, Any] = {"padding": "zeros"}
_ROLLED: dict[str, Any] = {"training": "circular shifts", "sections": {"AUGMENT": {"ROLL": 4}}}
_CROPPED: dict[str, Any] = {"training": "random crops", "sections": {"AUGMENT": {"CROP_PADDING": 4}}}
_ALIAS_FREE = {"DOWNSAMPLE": "ideal_lowpass", "ACTIVATION": "polynomial"}
_POOLS = "stillpoint.core.layers.own_pools"


def _blur(size: int, **more: Any) -> Line:
    method = "BlurPool 2 (average pool)" if size == 2 else f"BlurPool {size}"
    return Line(method, "none", {"DOWNSAMPLE": "blur", "FILTER_SIZE": size, **_CIRCULAR}, source=_ZHANG, **more)


#: name -> entry, ordered so that a board which is run in part is worth reading
LINES: dict[str, Line] = {
    BASE: Line("strides"),
    "blur3": _blur(3),
    "aps3": Line("APS 3", "whole", _APS3, source=_APS),
    "strides_zeros": Line("strides", **_ZEROS),
    "strides_shifted": Line("strides", **_ROLLED),
    "max": Line("max-pool", "none", {"DOWNSAMPLE": f"{_POOLS}:MaxPool2d"}),
    "aps1": Line("APS 1", "whole", {"DOWNSAMPLE": "polyphase", "FILTER_SIZE": 1}, source=_APS),
    "lps3": Line("LPS 3", "whole", {"DOWNSAMPLE": "learnable_polyphase", "FILTER_SIZE": 3, **_CIRCULAR}, source=_LPS),
    "alias_free": Line("alias-free", "any", {**_ALIAS_FREE, "NORM": "alias_free"}, source=_AFC),
    "tips": Line("TIPS", "none", {"DOWNSAMPLE": "translation_invariant"}, source=_TIPS),
    "low_pass": Line("ideal low-pass", "none", {"DOWNSAMPLE": "ideal_lowpass"}, source=_AFC),
    "adaptive3": Line(
        "adaptive blur 3",
        "none",
        {"DOWNSAMPLE": "adaptive_blur", "FILTER_SIZE": 3, "GROUPS": 4, **_CIRCULAR},
        source=_ZOU,
    ),
    "alias_free_batch": Line("alias-free, batch norm", "any", _ALIAS_FREE, source=_AFC),
    "lps": Line("LPS", "whole", {"DOWNSAMPLE": "learnable_polyphase"}, source=_LPS),
    "aps3_after": Line("APS 3, after the blur", "whole", {**_APS3, "SELECT": "after_blur"}, source=_APS),
    "blur2": _blur(2),
    "blur5": _blur(5),
    "strides_cropped": Line("strides", **_CROPPED),
    "aps3_zeros": Line("APS 3", "none", _APS3, source=_APS, **_ZEROS),
    "aps3_shifted": Line("APS 3", "whole", _APS3, source=_APS, **_ROLLED),
    "blur3_zeros": _blur(3, **_ZEROS),
    "blur3_cropped": _blur(3, **_CROPPED),
    STRIDED_BASE: Line("strides", stem="strided"),
    "twin": Line("strides", stem="wavelet twin", source=_TWIN),
    "modulus": Line("strides", stem="twin with modulus", source=_TWIN),
    "scattering": Line("strides", stem="scattering", source=_SCATTER),
    "sparse": Line("strides", stem="sparse coding", source=_CSC),
    "blur4": _blur(4),
    "blur6": _blur(6),
    "blur7": _blur(7),
}
#: label of a stem -> MODEL.STEM
STEMS = {
    "plain": "plain",
    "strided": "strided",
    "wavelet twin": "twin",
    "twin with modulus": "modulus",
    "scattering": "scattering",
    "sparse coding": "sparse",
}
#: stems that stride by four
STRIDED = ("strided", "wavelet twin", "twin with modulus", "scattering")


def models() -> dict[str, ModelEntry]:
    """All entries as networks, by name."""
    found = {}
    for name, line in LINES.items():
        settings = dict(line.settings)
        settings |= {} if line.padding == "circular" else {"CONV_PADDING": line.padding}
        settings |= {} if line.stem == "plain" else {"STEM": STEMS[line.stem]}
        found[name] = ModelEntry(name, settings, line.source, sections=line.sections)
    return found


def base_of(name: str) -> str:
    """The entry that `name` is compared with."""
    return STRIDED_BASE if name in LINES and LINES[name].stem in STRIDED else BASE
