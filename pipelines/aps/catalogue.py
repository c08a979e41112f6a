"""All networks of the papers on adaptive polyphase sampling, and our small one.

A name ends in ``_lpfN`` (BlurPool) or ``_apsN`` with a binomial filter of N taps; without a suffix it is the plain
network. If both exist, a name means the CIFAR form for small images and the ImageNet form for ImageNet.
"""

from stillpoint.pipelines.paper import ModelEntry

SMALL_IMAGES = ("digits", "fashion_mnist", "cifar10", "cifar100")
IMAGENET = ("imagenet",)
#: data sets of the U-Nets
RECONSTRUCTION = ("digits_undersampled", "fastmri", "lodopab")

PAPER = "Chaman and Dokmanic, CVPR 2021"
UNET_PAPER = "Chaman and Dokmanic, arXiv 2105.04040"

#: the papers' abbreviation -> the filling
KINDS = {"aps": "polyphase", "lpf": "blur"}
#: our small network made for speed, in no paper
HOUSE = "speednet"
CIFAR_NETS = ("resnet20", "resnet56", "resnet18", "resnet34", "resnet50")
IMAGENET_NETS = {
    "aps": ("resnet18", "resnet34", "resnet50", "resnet101"),
    "lpf": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d"),
}
#: APS networks for which the authors' code has blocks but no constructor
UNEXPOSED = ("resnet34", "resnet50", "resnet101")


def models() -> dict[str, ModelEntry]:
    """All networks by name."""
    entries = [_plain(arch) for arch in CIFAR_NETS]
    for kind, nets in IMAGENET_NETS.items():
        for arch in dict.fromkeys((*CIFAR_NETS, *nets)):
            entries += [_filtered(arch, kind, size) for size in range(1, 8)]
    return {entry.name: entry for entry in (*entries, *_house(), *_unets())}


def _plain(arch: str) -> ModelEntry:
    source = f"{PAPER}, CIFAR-10 networks, baseline"
    return ModelEntry(arch, {"ARCH": arch, "DOWNSAMPLE": "none"}, source, SMALL_IMAGES)


def _filtered(arch: str, kind: str, size: int) -> ModelEntry:
    small, large = arch in CIFAR_NETS, arch in IMAGENET_NETS[kind]
    where = " and ".join(["CIFAR-10"] * small + ["ImageNet"] * large)
    method = {"aps": "APS", "lpf": "LPF (BlurPool)"}[kind]
    source = f"{PAPER}, {where} networks, {method} with a filter of {size}"
    if kind == "aps" and large and arch in UNEXPOSED:
        source += "; the ImageNet form is not among the authors' constructors"
    settings = {"ARCH": arch, "DOWNSAMPLE": KINDS[kind], "FILTER_SIZE": size}
    return ModelEntry(
        f"{arch}_{kind}{size}", settings, source, (SMALL_IMAGES if small else ()) + (IMAGENET if large else ())
    )


def _house() -> list[ModelEntry]:
    forms: list[tuple[str, dict[str, str | int]]] = [("", {"DOWNSAMPLE": "none"})]
    forms += [(f"_{k}{size}", {"DOWNSAMPLE": KINDS[k], "FILTER_SIZE": size}) for k in KINDS for size in range(1, 8)]
    source = "ours, after Jordan, arXiv 2404.00498"
    return [ModelEntry(f"{HOUSE}{end}", {"ARCH": HOUSE, **settings}, source, SMALL_IMAGES) for end, settings in forms]


def _unets() -> list[ModelEntry]:
    forms: dict[str, dict[str, str | int]] = {
        "": {"DOWNSAMPLE": "none"},
        "_InstanceNorm": {"DOWNSAMPLE": "none", "NORM": "instance"},
        # a filter of one tap would make it the plain network
        "_lpf": {"DOWNSAMPLE": "blur", "FILTER_SIZE": 3},
        "_sinc": {"DOWNSAMPLE": "ideal_lowpass"},
        "_aps": {"DOWNSAMPLE": "polyphase"},
    }
    return [
        ModelEntry(f"UNet_{n}down{suffix}", {"ARCH": f"unet{n}", **settings}, f"{UNET_PAPER}, U-Nets", RECONSTRUCTION)
        for n in (3, 4)
        for suffix, settings in forms.items()
    ]
