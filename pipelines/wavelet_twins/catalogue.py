"""The classifiers of the paper by their short names, and all architectures and configurations of the authors' code.

A configuration's name has these parts, from left to right: `Ft40` freely trained channels, `Y` luminance first, `Bf3`
taps of the blur, `Ex` without packets near the Nyquist frequency, `_mod` (modulus instead of max-pooling) or an
ablation.
"""

import re
from dataclasses import dataclass

from stillpoint.core.base.errors import nearest
from stillpoint.pipelines.paper import ModelEntry

STORED = "Leterme et al., classifiers stored with the authors' code"
DEPTHS = (18, 34, 50, 101)
BLURS = tuple(range(2, 8))

#: configurations of AlexNet without wavelets that the authors' code names but does not describe
NAMED_ONLY = ("Str4", "Ks20")

#: "none", or the filling of the slot
Pooling = str
_ALEXNETS: dict[str, Pooling] = {"": "none", "Zhang": "blur"}
_RESNETS: dict[str, Pooling] = {"": "none", "zhang_": "blur", "zou_": "adaptive_blur"}


@dataclass(frozen=True)
class Architecture:
    """An architecture.

    family    "alexnet", "resnet18", ...
    pooling   its antialiasing method
    twin      whether its first layer has wavelets
    """

    family: str
    pooling: Pooling
    twin: bool

    @property
    def resnet(self) -> bool:
        return self.family.startswith("resnet")


@dataclass(frozen=True)
class Form:
    """A parsed configuration.

    blur        taps of the blur; None without Bf
    luminance   whether colours are mixed before the transform (Y)
    excluding   whether there are 16 packets instead of 30 (Ex)
    modulus     whether the wavelet channels have CMod (_mod)
    ablation    "abl1", "abl1ada": only the pooling of wavelet channels is blurred; "abl2": only that of the others
    small_pool  whether the dense max-pool of an antialiased stem has kernel size 2 (K2)
    frozen      whether the first convolution is not trained (Frozen)
    """

    blur: int | None = None
    luminance: bool = False
    excluding: bool = False
    modulus: bool = False
    ablation: str = ""
    small_pool: bool = False
    frozen: bool = False


ARCHITECTURES: dict[str, Architecture] = {
    **{f"{prefix}AlexNet": Architecture("alexnet", pooling, False) for prefix, pooling in _ALEXNETS.items()},
    **{f"DtCwpt{prefix}AlexNet": Architecture("alexnet", pooling, True) for prefix, pooling in _ALEXNETS.items()},
    **{
        f"{twin}{prefix}resnet{depth}": Architecture(f"resnet{depth}", pooling, bool(twin))
        for twin in ("", "dtcwpt_")
        for prefix, pooling in _RESNETS.items()
        for depth in DEPTHS
    },
}


def architecture(arch: str) -> Architecture:
    """The architecture of that name; ValueError with the nearest names for an unknown one."""
    if arch not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {arch!r}{nearest(arch, list(ARCHITECTURES))}")
    return ARCHITECTURES[arch]


def configs(arch: str) -> list[str]:
    """Names of an architecture's configurations; without wavelets the first is the default."""
    kind = architecture(arch)
    # predicted filters have a centre, hence an odd size
    blurs = [f"Bf{size}" for size in BLURS if kind.pooling != "adaptive_blur" or size % 2]
    if not kind.twin:
        return ["Std", *blurs, "Frozen", *(["StdK2", "Bf3K2", "Bf5K2"] if kind.resnet else [])]
    if not kind.resnet:
        real = ["Ft32", "Ft32Y", *(f"Ft32Y{blur}" for blur in blurs)]
        return real + [f"{name}_mod" for name in real]
    real = ["Ft40", "Ft40Y", "Ft40YBf3", "Ft40Ex", "Ft40YEx", *(f"Ft40Y{blur}Ex" for blur in blurs)]
    ablations = ["abl1", "abl1ada"] if kind.pooling == "none" else ["abl2"]
    return real + [f"{name}_mod" for name in real] + [f"Ft40YBf3Ex_{name}" for name in ablations]


def form(arch: str, config: str) -> Form:
    """The parsed configuration `config` of `arch`; "" is the default. ValueError with the nearest names if unknown."""
    known = configs(arch)
    if not config:
        if architecture(arch).twin:
            raise ValueError(f"{arch} has no default configuration: choose from {', '.join(known)}")
        config = "Std"
    if config in NAMED_ONLY and not architecture(arch).twin and not architecture(arch).resnet:
        raise ValueError(
            f"{arch} {config} is only a name in the authors' code, without a description, and cannot be built: choose "
            f"from {', '.join(known)}"
        )
    if config not in known:
        raise ValueError(
            f"{arch} has no configuration {config!r}{nearest(config, known)}; choose from {', '.join(known)}"
        )
    blur = re.search(r"Bf(\d)", config)
    variant = config.partition("_")[2]
    return Form(
        blur=int(blur[1]) if blur else None,
        luminance=bool(re.match(r"Ft\d+Y", config)),
        excluding="Ex" in config,
        modulus=variant == "mod",
        ablation=variant if variant.startswith("abl") else "",
        small_pool=config.endswith("K2"),
        frozen=config == "Frozen",
    )


def sections(arch: str, config: str) -> int:
    """Number of sections of packets that the first layer mixes, each with its own weights; 0 without wavelets."""
    kind = architecture(arch)
    if not kind.twin:
        return 0
    return 3 if not kind.resnet else 5 if form(arch, config).excluding else 2


def _alexnets() -> dict[str, tuple[str, str]]:
    return {
        "AI": ("AlexNet", "Std"),
        "AwyI": ("DtCwptAlexNet", "Ft32Y"),
        "AwyI_mod": ("DtCwptAlexNet", "Ft32Y_mod"),
        "Azh3I": ("ZhangAlexNet", "Bf3"),
        "Azh3wyI": ("DtCwptZhangAlexNet", "Ft32YBf3"),
        "Azh3wyI_mod": ("DtCwptZhangAlexNet", "Ft32YBf3_mod"),
    }


def _resnets(short: str, family: str, data: str, ablations: bool) -> dict[str, tuple[str, str]]:
    found = {}
    for infix, prefix, blur in (("", "", ""), ("zh3", "zhang_", "Bf3"), ("zo3", "zou_", "Bf3")):
        found[f"{short}{infix}{data}"] = (f"{prefix}{family}", blur or "Std")
        twin, config = f"dtcwpt_{prefix}{family}", f"Ft40Y{blur}Ex"
        found[f"{short}{infix}wy{data}"] = (twin, config)
        found[f"{short}{infix}wy{data}_mod"] = (twin, f"{config}_mod")
        if ablations and blur:
            found[f"{short}{infix}wy{data}_abl"] = (twin, f"{config}_abl2")
    return found


#: The 35 classifiers whose weights and scores the authors stored: short name -> (architecture, configuration). In
#: names, A is AlexNet, R a ResNet (34 on ImageNet), zh3/zo3 the blur of Zhang/Zou with 3 taps, wy wavelets of the
#: luminance, I ImageNet, C CIFAR-10.
CLASSIFIERS: dict[str, tuple[str, str]] = {
    **_alexnets(),
    **_resnets("R", "resnet34", "I", True),
    **_resnets("R18", "resnet18", "C", False),
    **_resnets("R34", "resnet34", "C", False),
}
#: Deeper classifiers that the authors' code names, without stored weights.
DEEPER: dict[str, tuple[str, str]] = {
    **_resnets("R50", "resnet50", "C", False),
    **_resnets("R101", "resnet101", "C", False),
}


#: factors of the penalty for AlexNet's three sections, which the authors stored with its four classifiers
ALEXNET_PENALTY = (0.0, 0.0041, 0.00032)


def _settings(arch: str, config: str) -> dict[str, object]:
    kind = ARCHITECTURES[arch]
    penalised = kind.twin and not kind.resnet
    return {"ARCH": arch, "CONFIG": config, **({"PENALTY": list(ALEXNET_PENALTY)} if penalised else {})}


def models() -> dict[str, ModelEntry]:
    """All networks by short name, then all architectures by name; those with wavelets need ``MODEL.CONFIG``.

    ResNets are the same for all data sets (the 7x7 stem even at 32x32); AlexNet needs images of ImageNet's size.
    """
    entries = []
    for table, source in ((CLASSIFIERS, STORED), (DEEPER, "Leterme et al., configurations of the authors' code")):
        for name, (arch, config) in table.items():
            datasets = () if ARCHITECTURES[arch].resnet else ("imagenet",)
            entries.append(ModelEntry(name, _settings(arch, config), f"{source}: {name}, {arch} {config}", datasets))
    for arch, kind in ARCHITECTURES.items():
        datasets = () if kind.resnet else ("imagenet",)
        entries.append(ModelEntry(arch, {"ARCH": arch}, "Leterme et al., architecture of the authors' code", datasets))
    return {entry.name: entry for entry in entries}
