"""The networks of the paper: ResNets that sample by learned scores, and those that it compares with."""

from typing import Any

from stillpoint.pipelines.paper import ModelEntry

PAPER = "Rojas-Gomez et al., NeurIPS 2022"
CODE = f"{PAPER}, code; no published number"
SMALL = ("digits", "fashion_mnist", "cifar10", "cifar100")
#: architecture -> the data sets that it is made for
ARCHITECTURES = {
    "resnet18": (*SMALL, "imagenet"),
    "resnet50": ("imagenet",),
    "resnet101": ("imagenet",),
    "resnet20": SMALL,
}
#: architecture of a segmenter's ResNet -> the data sets that it is for
SEGMENTERS = {
    "resnet18": ("digits_segmentation", "voc2012"),
    "resnet50": ("voc2012",),
    "resnet101": ("voc2012",),
    "resnet20": ("digits_segmentation",),
}
#: scorer -> suffix of the network's name
SCORERS = {
    "residual_conv": "residual",
    "attention": "attention",
    "normalised_attention": "attention_bn",
    "graph": "graph",
    "perceptron": "perceptron",
}
#: the scorers of the published ImageNet networks have an eighth of the channels
NARROW = "reduction=8"
#: the first sampling of an ImageNet stem has no filter
BARE = "maxpool.0:size=1"


def models() -> dict[str, ModelEntry]:
    """All networks by name.

    ``resnet18`` strides; ``_lps`` samples by learned scores, ``_aps`` by norms and ``_lpf`` on a fixed grid. A digit is
    the number of taps of a binomial filter before that, ``_ddac3`` a predicted filter. ``_wide`` scorers have as many
    channels as their input, ``_graph`` and similar are the code's other scorers, and ``_soft`` networks mix the grids
    in evaluation too. ``deeplab_`` is DeepLabV3+ over them: it upsamples on the chosen grids, or bilinearly
    (``_bilinear``, and networks that choose none); ``_convex`` trains without noise.
    """
    entries = []

    def add(name: str, settings: dict[str, Any], source: str = CODE) -> None:
        arch = name.partition("_")[0]
        entries.append(ModelEntry(name, {"ARCH": arch, **settings}, source, ARCHITECTURES[arch]))

    for arch in ARCHITECTURES:
        add(arch, {}, "torchvision; the paper's baseline" if arch != "resnet20" else "ours")
        for size in (1, 2, 3, 5):
            taps: dict[str, Any] = {} if size == 1 else {"FILTER_SIZE": size}
            add(f"{arch}_lps{size if size > 1 else ''}", _lps(arch, **taps), PAPER)
            filtered = {**taps, "SELECT": "after_blur", "FILTER_PADDING": "circular"}
            bare = {"FILLING": [BARE]} if size > 1 and "imagenet" in ARCHITECTURES[arch] else {}
            add(f"{arch}_aps{size if size > 1 else ''}", {"DOWNSAMPLE": "polyphase", **filtered, **bare})
            if size > 1:
                add(f"{arch}_lpf{size}", {"DOWNSAMPLE": "blur", **taps, "FILTER_PADDING": "circular", **bare})
        # ResNet-20 has 16 channels or, with MODEL.WIDTH, fewer: too few for more groups
        groups: dict[str, Any] = {"GROUPS": 4} if arch == "resnet20" else {}
        add(f"{arch}_lps_ddac3", _lps(arch, "filter=adaptive", FILTER_SIZE=3, **groups), PAPER)
        add(f"{arch}_lps_wide", _lps(arch, narrow=False), PAPER)
        add(f"{arch}_lps_soft", _lps(arch, "test_sampling=softmax"))
        for scorer, suffix in SCORERS.items():
            narrow = scorer not in ("residual_conv", "perceptron")
            add(f"{arch}_lps_{suffix}", _lps(arch, f"scorer={scorer}", narrow=narrow))
    return {entry.name: entry for entry in [*entries, *_segmenters()]}


def _segmenters() -> list[ModelEntry]:
    found = []
    for arch, datasets in SEGMENTERS.items():
        own: dict[str, Any] = {"ARCH": arch, "DECODER": "deeplabv3plus"}
        back, small = {"UPSAMPLE": "polyphase"}, arch == "resnet20"
        groups: dict[str, Any] = {"GROUPS": 4} if small else {}
        bare = {} if small else {"FILLING": [BARE]}
        filtered = {"FILTER_SIZE": 3, "FILTER_PADDING": "circular"}
        unfiltered, three = _lps(arch), _lps(arch, FILTER_SIZE=3)
        kinds: dict[str, dict[str, Any]] = {
            "": {},
            "_lpf3": {"DOWNSAMPLE": "blur", **filtered, **bare},
            "_aps3": {"DOWNSAMPLE": "polyphase", "SELECT": "after_blur", **filtered, **bare, **back},
            "_lps": {**unfiltered, **back},
            "_lps3": {**three, **back},
            "_lps3_bilinear": three,
            "_lps3_convex": {**_lps(arch, "sampling=softmax", FILTER_SIZE=3), **back},
            "_lps_ddac3": {**_lps(arch, "filter=adaptive", FILTER_SIZE=3, **groups), **back},
        }
        found += [ModelEntry(f"deeplab_{arch}{name}", {**own, **more}, CODE, datasets) for name, more in kinds.items()]
    return found


def _lps(arch: str, *options: str, narrow: bool = True, **settings: Any) -> dict[str, Any]:
    filling = [*options, *([NARROW] if narrow else [])]
    if "imagenet" in ARCHITECTURES[arch] and "FILTER_SIZE" in settings:
        filling += [BARE, *(["maxpool.0:filter=binomial"] if "filter=adaptive" in options else [])]
    return {"DOWNSAMPLE": "learnable_polyphase", **settings, **({"FILLING": filling} if filling else {})}
