"""The networks of the paper by its authors' names, except that their "all" means two networks, so one has a suffix."""

from stillpoint.pipelines.paper import ModelEntry

PAPER = "Dai et al., NeurIPS 2022"
NO_SHORTCUT = "_noshortcut"


def models() -> dict[str, ModelEntry]:
    """All networks by name: ``sdnet18`` has sparse coding only in its stem, ``sdnet18_all`` in all its blocks too."""
    entries = []
    for depth in (18, 34):
        entries += [
            ModelEntry(f"resnet{depth}", {}, f"{PAPER}, ResNet-{depth}, the baseline"),
            ModelEntry(f"sdnet{depth}", {}, f"{PAPER}, SDNet-{depth}"),
            ModelEntry(
                f"sdnet{depth}_all", {"SHORTCUT": True}, f"{PAPER}, SDNet-{depth}-All with shortcuts (authors' README)"
            ),
            ModelEntry(
                f"sdnet{depth}_all{NO_SHORTCUT}",
                {"SHORTCUT": False},
                f"{PAPER}, SDNet-{depth}-All without shortcuts (what the authors' yaml files build)",
            ),
        ]
    return {entry.name: entry for entry in entries}
