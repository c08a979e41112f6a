"""The networks of the paper: 23 of torchvision's, plain and with all filter sizes; ResNets with learned filters."""

from typing import Any

from stillpoint.pipelines.paper import ModelEntry

SCRATCH, FINETUNED = "Zhang, ICML 2019, ImageNet table", "Zhang, ICML 2019, table of fine-tuned networks"
ADAPTIVE = "Zou et al., BMVC 2020"
UNPUBLISHED = "the authors' code; no published number"
SMALL = ("digits", "fashion_mnist", "cifar10", "cifar100")

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
NEXT = ("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2")
VGGS = tuple(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn"))
DENSENETS = ("densenet121", "densenet169", "densenet201", "densenet161")
ARCHITECTURES = ("alexnet", *VGGS, *RESNETS, *NEXT, *DENSENETS, "mobilenet_v2")
SIZES = tuple(range(1, 8))
#: networks that the paper trains from scratch with 2 to 5 taps; it fine-tunes all with 4
FROM_SCRATCH = ("alexnet", "vgg16", "vgg16_bn", *RESNETS[:4], "densenet121", "mobilenet_v2")


def models() -> dict[str, ModelEntry]:
    """All networks by name.

    ``resnet50`` is torchvision's network, ``resnet50_lpf4`` its antialiased form with 4 taps, and ``resnet50_pasa3_g8``
    the form whose 3x3 filters are predicted for 8 groups of channels.
    """
    entries = []
    for arch in ARCHITECTURES:
        # AlexNet's first convolution and three pools leave nothing of a small image
        datasets = ("imagenet",) if arch == "alexnet" else (*SMALL, "imagenet")
        # as published: with POOL_ONLY the ReLU after AlexNet's first convolution would be missing
        own: dict[str, Any] = {"ARCH": arch, **({"POOL_ONLY": False} if arch == "alexnet" else {})}
        table = SCRATCH if arch in FROM_SCRATCH else FINETUNED
        entries.append(ModelEntry(arch, own, f"torchvision; {table}, {arch}, baseline", datasets))
        for size in SIZES:
            settings = {**own, "DOWNSAMPLE": "blur", "FILTER_SIZE": size}
            entries.append(ModelEntry(f"{arch}_lpf{size}", settings, _source(arch, size), datasets))
    for arch in RESNETS:
        for size, groups in ((3, 2), (3, 8), (5, 8)):
            settings = {"ARCH": arch, "DOWNSAMPLE": "adaptive_blur", "FILTER_SIZE": size, "GROUPS": groups}
            # the code's README states numbers of ResNet-101 with 8 groups only
            stated = (arch, groups) == ("resnet101", 8)
            source = f"{ADAPTIVE}, README of the code" if stated else f"{ADAPTIVE}, {UNPUBLISHED}"
            entries.append(ModelEntry(f"{arch}_pasa{size}_g{groups}", settings, source, (*SMALL, "imagenet")))
    return {entry.name: entry for entry in entries}


def _source(arch: str, size: int) -> str:
    taps = f"{size} tap{'s' if size > 1 else ''}"
    if arch in FROM_SCRATCH and size in range(2, 6):
        return f"{SCRATCH}, {arch}, {taps}"
    return f"{FINETUNED}, {arch}, {taps}" if size == 4 else f"Zhang, ICML 2019, {taps}: {UNPUBLISHED}"
