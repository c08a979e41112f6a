"""Translates stored settings of earlier versions, here and nowhere else.

In them each paper spelt the options of its slots in its own way, and APS networks stated channels instead of a width
multiplier.
"""

from typing import Any

#: key -> former value, or value in the papers' own code -> ours
SPELLINGS: dict[str, dict[str, str]] = {
    "DOWNSAMPLE": {"lpf": "blur", "pasa": "adaptive_blur", "aps": "polyphase", "sinc": "ideal_lowpass"},
    "CRITERION": {"l2min": "l2_min", "l1min": "l1_min", "non_abs_max": "max"},
}
_RENAMED = {"BLUR_PADDING": "FILTER_PADDING", "PADDING": "FILTER_PADDING"}
#: the keys of each filling; earlier versions stored the others as well
_FILTER = ("FILTER_SIZE", "FILTER_PADDING")
_OF = {
    "none": ("FILTER_PADDING",),
    "blur": _FILTER,
    "adaptive_blur": (*_FILTER, "GROUPS", "NORMALISE"),
    "polyphase": (*_FILTER, "CRITERION", "SELECT"),
}
#: values once stored as general defaults, which are now defaults of each filling
_USUAL = {"PADDING": "reflect", "CRITERION": "l2", "NORMALISE": "joint", "NORM": "batch"}
#: values of settings that a stored configuration may lack
_SINCE: dict[str, Any] = {
    **dict.fromkeys((*_FILTER, "CRITERION", "SELECT", "GROUPS", "NORMALISE")),
    "FILLING": [],
    "ACTIVATION": None,
    "NORM": None,
    "WIDTH": 1.0,
}


def modern(settings: dict[str, Any]) -> dict[str, Any]:
    """A complete stored configuration in the current spelling; anything else, such as a recipe, unchanged."""
    model = settings.get("MODEL")
    stored = "PIPELINE" in settings and "TRAIN" in settings
    # only a section with a slot, in the former spelling
    if not stored or not isinstance(model, dict) or "DOWNSAMPLE" not in model or "FILTER_PADDING" in model:
        return settings
    section: dict[str, Any] = model
    new: dict[str, Any] = {_RENAMED.get(key, key): value for key, value in section.items()}
    if "BLUR_PADDING" in model:
        base = 16 if model["ARCH"] in ("resnet20", "resnet56") else 64
        new["WIDTH"] = (model["WIDTH"] or base) / base
    new = _SINCE | new
    kind = new["DOWNSAMPLE"]
    if kind in SPELLINGS["DOWNSAMPLE"]:
        new["DOWNSAMPLE"] = kind = SPELLINGS["DOWNSAMPLE"][kind]
    foreign = {*_FILTER, "CRITERION", "SELECT", "GROUPS", "NORMALISE"} - {*_OF.get(kind, ())}
    usual = {key for key, value in _USUAL.items() if model.get(key) == value}
    unset: dict[str, Any] = dict.fromkeys(sorted(foreign | {_RENAMED.get(key, key) for key in usual}))
    return {**settings, "MODEL": new | unset}
