"""The networks of the lesson: the notebook's two, and variants with one change at a time towards shift invariance."""

from typing import Any

from stillpoint.pipelines.paper import ModelEntry

SMALL = ("digits", "fashion_mnist")
NOTEBOOK = "Feydy, From wavelet transforms to convolutional neural networks, part 2"


def models() -> dict[str, ModelEntry]:
    """All networks by name; the last six have TwoConvTwoFullNet's number of parameters within 5 %."""
    variants: dict[str, dict[str, Any]] = {
        "cnn": {},
        "cnn_blur": {"DOWNSAMPLE": "blur", "FILTER_SIZE": 3},
        "cnn_aps": {"DOWNSAMPLE": "polyphase", "FILTER_SIZE": 3, "CIRCULAR": True},
        "cnn_average": {"HEAD": "average"},
        "cnn_average_aps": {"HEAD": "average", "DOWNSAMPLE": "polyphase", "FILTER_SIZE": 3, "CIRCULAR": True},
        "scattering": {"FRONT": "scattering", "HEAD": "average"},
    }
    entries = [
        ModelEntry("TwoFullNet", {"ARCH": "perceptron"}, f"{NOTEBOOK}: first network", SMALL),
        ModelEntry("TwoConvTwoFullNet", {"ARCH": "convnet", "MATCH": False}, f"{NOTEBOOK}: second network", SMALL),
        *(
            ModelEntry(name, {"ARCH": "convnet", "DROPOUT": 0.0, **settings}, "ours: one change at a time", SMALL)
            for name, settings in variants.items()
        ),
    ]
    return {entry.name: entry for entry in entries}
