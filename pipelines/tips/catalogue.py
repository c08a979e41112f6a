"""The networks of the paper: ResNets with 3 to 5 halvings, and the pools of its comparison."""

from stillpoint.pipelines.paper import ModelEntry

PAPER = "Saha and Gokhale, WACV 2025, README of the code"
SMALL = ("digits", "fashion_mnist", "cifar10", "cifar100", "tiny_imagenet")
#: architecture -> the least number of halvings
ARCHITECTURES = {"resnet18": 3, "resnet34": 3, "resnet50": 4, "resnet101": 4, "resnet20": 2}
#: pool -> suffix of the name; the "maxpool" of the code is its table's "baseline", presumably
POOLS = {"tips": "tips", "max": "max", "average": "average", "blur": "lpf3", "channel_polyphase": "channel_aps"}


def models() -> dict[str, ModelEntry]:
    """``resnet18_tips_down3`` halves its map three times by the paper's layer; ``_max``, ``_average``, ``_lpf3`` and
    ``_channel_aps``, which the code calls APS, by others. ``resnet20`` is ours: two halvings, as it always has."""
    entries = []
    for arch, least in ARCHITECTURES.items():
        for halvings in range(least, 6) if arch != "resnet20" else (2,):
            for pool, suffix in POOLS.items():
                settings = {"ARCH": arch, "POOL": pool, "NUM_DOWN": halvings}
                source = PAPER if arch != "resnet20" else "ours"
                entries.append(ModelEntry(f"{arch}_{suffix}_down{halvings}", settings, source, SMALL))
    return {entry.name: entry for entry in entries}
