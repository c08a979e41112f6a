"""Spellings of before: settings that were stored are read as today's, here and nowhere else.

Until the slots had one section, each paper spelt its options in its own way, and the networks of adaptive polyphase
sampling stated channels where the others had a multiplier.
"""

from typing import Any

#: key -> value of before, or of the papers' own code -> ours
SPELLINGS: dict[str, dict[str, str]] = {
    "DOWNSAMPLE": {"lpf": "blur", "pasa": "adaptive_blur", "aps": "polyphase", "sinc": "ideal_lowpass"},
    "CRITERION": {"l2min": "l2_min", "l1min": "l1_min", "non_abs_max": "max"},
}
_RENAMED = {"BLUR_PADDING": "FILTER_PADDING", "PADDING": "FILTER_PADDING"}
#: keys that a filling has; what it does not have was stored too
_FILTER = ("FILTER_SIZE", "FILTER_PADDING")
_OF = {
    "none": ("FILTER_PADDING",),
    "blur": _FILTER,
    "adaptive_blur": (*_FILTER, "GROUPS", "NORMALISE"),
    "polyphase": (*_FILTER, "CRITERION", "SELECT"),
}
#: stored as the default, which now is the filling's own
_USUAL = {"PADDING": "reflect", "CRITERION": "l2", "NORMALISE": "joint", "NORM": "batch"}
#: what was there, whatever was stored
_SINCE: dict[str, Any] = {
    **dict.fromkeys((*_FILTER, "CRITERION", "SELECT", "GROUPS", "NORMALISE")),
    "FILLING": [],
    "ACTIVATION": None,
    "NORM": None,
    "WIDTH": 1.0,
}


def modern(settings: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration, in full, as it would be stored now; what is none, a recipe for example, as it is."""
    model = settings.get("MODEL")
    stored = "PIPELINE" in settings and "TRAIN" in settings
    # a section that says how it subsamples, and not as today's do; a paper's own section may have no such slot
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
