"""The networks of the paper: ResNets with 3 to 5 halvings, and the pools of its comparison."""

from typing import Any

from stillpoint.pipelines.paper import ModelEntry

PAPER = "Saha and Gokhale, WACV 2025, README of the code"
SMALL = ("digits", "fashion_mnist", "cifar10", "cifar100", "tiny_imagenet")
#: architecture -> smallest number of halvings
ARCHITECTURES = {"resnet18": 3, "resnet34": 3, "resnet50": 4, "resnet101": 4, "resnet20": 2}
_OWN = "stillpoint.pipelines.tips.models"
#: suffix of the name -> what halves the maps; the code's "maxpool" is presumably its table's "baseline"
POOLS: dict[str, dict[str, Any]] = {
    "tips": {"DOWNSAMPLE": "translation_invariant"},
    "max": {"DOWNSAMPLE": f"{_OWN}:MaxPool2d"},
    "average": {"DOWNSAMPLE": f"{_OWN}:AveragePool2d"},
    "lpf3": {"DOWNSAMPLE": "blur", "FILTER_SIZE": 3, "FILTER_PADDING": "reflect"},
    "channel_aps": {"DOWNSAMPLE": f"{_OWN}:ChannelPolyphase2d"},
}


def models() -> dict[str, ModelEntry]:
    """All networks by name.

    ``resnet18_tips_down3`` halves its map three times with the paper's layer; ``_max``, ``_average``, ``_lpf3`` and
    ``_channel_aps`` (APS in the authors' code) with other layers. ``resnet20`` is ours, with its two halvings.
    """
    entries = []
    for arch, least in ARCHITECTURES.items():
        for halvings in range(least, 6) if arch != "resnet20" else (2,):
            for suffix, pool in POOLS.items():
                settings = {"ARCH": arch, **pool, "NUM_DOWN": halvings}
                source = PAPER if arch != "resnet20" else "ours"
                entries.append(ModelEntry(f"{arch}_{suffix}_down{halvings}", settings, source, SMALL))
    return {entry.name: entry for entry in entries}
