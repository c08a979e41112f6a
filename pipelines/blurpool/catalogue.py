"""The networks of the paper: 23 of torchvision's, plain and with filters of every size, and the ResNets with learned
filters.
"""

from pipelines import ModelEntry

PAPER = "Zhang, ICML 2019, ImageNet table"
ADAPTIVE = "Zou et al., BMVC 2020"
SMALL = ("digits", "fashion_mnist", "cifar10", "cifar100")

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
NEXT = ("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2")
VGGS = tuple(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn"))
DENSENETS = ("densenet121", "densenet169", "densenet201", "densenet161")
ARCHITECTURES = ("alexnet", *VGGS, *RESNETS, *NEXT, *DENSENETS, "mobilenet_v2")
SIZES = tuple(range(1, 8))


def models() -> dict[str, ModelEntry]:
    """Entries by name: ``resnet50`` is torchvision's network, ``resnet50_lpf4`` its antialiased form with 4 taps, and
    ``resnet50_pasa3_g8`` the one whose 3x3 filters are predicted for 8 groups of channels."""
    entries = []
    for arch in ARCHITECTURES:
        # its first convolution and three pools leave nothing of a small image
        datasets = ("imagenet",) if arch == "alexnet" else (*SMALL, "imagenet")
        entries.append(ModelEntry(arch, {"ARCH": arch}, f"torchvision; {PAPER}, {arch}, baseline", datasets))
        for size in SIZES:
            settings = {"ARCH": arch, "DOWNSAMPLE": "lpf", "FILTER_SIZE": size}
            if arch == "alexnet":
                settings["POOL_ONLY"] = False
            entries.append(ModelEntry(f"{arch}_lpf{size}", settings, f"{PAPER}, {arch}, {size} taps", datasets))
    for arch in RESNETS:
        for size, groups in ((3, 2), (3, 8), (5, 8)):
            settings = {"ARCH": arch, "DOWNSAMPLE": "pasa", "FILTER_SIZE": size, "GROUPS": groups}
            entries.append(ModelEntry(f"{arch}_pasa{size}_g{groups}", settings, ADAPTIVE, (*SMALL, "imagenet")))
    return {entry.name: entry for entry in entries}
