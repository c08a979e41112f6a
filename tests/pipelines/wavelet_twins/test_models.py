"""The networks: sizes, parts, and what differs between a twin and its modulus."""

import pytest
import torch
from torch import nn

from stillpoint import pipelines
from stillpoint.core.backbones.resnet import ResNet
from stillpoint.core.base.errors import UserError
from stillpoint.core.layers.adaptive_blur import AdaptiveBlur2d
from stillpoint.core.layers.blur import BlurPool2d
from stillpoint.core.layers.complex_modulus import ModulusBatchNorm2d
from stillpoint.core.layers.downsample import Downsample
from stillpoint.pipelines.wavelet_twins.catalogue import ARCHITECTURES, CLASSIFIERS, configs, form
from stillpoint.pipelines.wavelet_twins.models import (
    first_layer,
    mixing_weights,
    network,
    resulting_kernel,
    smallest,
    twin,
    twin_stem,
)

# trainable parameters that the authors' classifiers record; 1000 classes for names in I, 10 for names in C
PUBLISHED = {
    ("AlexNet", "ZhangAlexNet"): {"": 61_100_840},
    ("DtCwptAlexNet", "DtCwptZhangAlexNet"): {"": 61_089_433},
    ("resnet", "zhang_resnet"): {"I": 21_797_672, "18": 11_181_642, "34": 21_289_802},
    ("dtcwpt_resnet", "dtcwpt_zhang_resnet"): {"I": 21_794_171, "18": 11_178_141, "34": 21_286_301},
    ("zou_resnet",): {"I": 22_711_064, "18": 12_095_034, "34": 22_203_194},
    ("dtcwpt_zou_resnet",): {"I": 22_707_563, "18": 12_091_533, "34": 22_199_693},
    ("dtcwpt_zou_resnet one activation less",): {"I": 22_682_237, "18": 12_066_207, "34": 22_174_367},
}


def published(name: str, arch: str, config: str) -> int:
    family = arch.rstrip("0123456789")
    if family == "dtcwpt_zou_resnet" and "_" in config:
        family += " one activation less"
    sizes = next(sizes for families, sizes in PUBLISHED.items() if family in families)
    key = "" if "" in sizes else "I" if "I" in name else arch[-2:]
    return sizes[key]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_trainable_parameters_are_those_the_authors_recorded(name: str) -> None:
    arch, config = CLASSIFIERS[name]
    with torch.device("meta"):
        net = network(arch, config, num_classes=1000 if "I" in name else 10)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == published(name, arch, config)


@pytest.mark.parametrize("arch", [arch for arch in ARCHITECTURES if arch.endswith("resnet18")])
def test_every_configuration_of_a_small_resnet_classifies(arch: str) -> None:
    x = torch.randn(2, 3, 64, 64)  # no smaller: a blur of 7 taps reflects 3 pixels of the last map
    for config in configs(arch):
        net = network(arch, config, num_classes=7)
        with torch.no_grad():
            y = net(x)
        assert y.shape == (2, 7) and y.isfinite().all()


def test_alexnets_have_a_stem_of_the_right_size() -> None:
    x = torch.randn(1, 3, 224, 224)
    for arch in ("DtCwptAlexNet", "DtCwptZhangAlexNet"):
        for config in ("Ft32", "Ft32Y", "Ft32Y_mod", "Ft32YBf5_mod"):
            with torch.no_grad():
                assert twin_stem(arch, config)(x).shape == (1, 64, 27, 27)


def blurs(net: nn.Module, kind: type = BlurPool2d) -> list[nn.Module]:
    return [module for module in net.modules() if isinstance(module, kind)]


def test_configurations_put_their_blurs_where_they_say() -> None:
    assert not blurs(network("resnet18", "Bf3"))
    assert [b.size for b in blurs(network("zhang_resnet18", "Bf5"))] == [5] * 7
    assert [b.size for b in blurs(network("zhang_resnet18"))] == [3] * 7
    assert [b.groups for b in blurs(network("zou_resnet18", "Bf3"), AdaptiveBlur2d)] == [8] * 7
    one, both = (twin_stem("dtcwpt_zou_resnet18", f"Ft40YBf3Ex{variant}") for variant in ("_abl2", ""))
    assert [b.groups for b in blurs(one, AdaptiveBlur2d)] == [5]
    assert [b.groups for b in blurs(both, AdaptiveBlur2d)] == [8]
    ablated = twin_stem("dtcwpt_resnet18", "Ft40YBf3Ex_abl1")
    assert blurs(ablated.high) and not blurs(ablated.low)
    with torch.device("meta"):  # where the name has no Bf, a twin's stem has the library's own filter
        net = network("DtCwptZhangAlexNet", "Ft32Y")
    assert [b.size for b in blurs(net)] == [4, 4, 3, 3]


def test_the_small_pool_has_kernel_two() -> None:
    for config, kernel in (("Bf3", 3), ("Bf3K2", 2)):
        net = network("zhang_resnet18", config)
        assert isinstance(net, ResNet)
        assert net.maxpool[0].kernel_size == kernel


def test_frozen_keeps_the_first_convolution() -> None:
    net = network("resnet18", "Frozen")
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == ["conv1.weight"]


def test_the_modulus_is_computed_at_its_own_stride_only() -> None:
    net = network("dtcwpt_resnet18", "Ft40YEx_mod").eval()
    first, x = twin(net), torch.randn(1, 3, 64, 64)
    assert first is not None
    assert first.halves(x)[1].shape == (1, 24, 2, 16, 16)
    norm = next(module for module in net.modules() if isinstance(module, ModulusBatchNorm2d))
    with torch.no_grad():
        late = first.halves(x, every=1)[1][..., ::2, ::2].norm(dim=2)
        want = torch.cat([net.stem.low(first.free(x)), norm(late).relu()], 1)
        torch.testing.assert_close(net.stem(x), want)


def test_mixing_weights_are_one_per_section() -> None:
    assert [tuple(w.shape) for w in mixing_weights(network("dtcwpt_resnet18", "Ft40Y"))] == [(12, 1), (12, 4)]
    assert mixing_weights(network("resnet18")) == []


@pytest.mark.parametrize(
    ("arch", "config", "channels", "support", "frame"),
    [
        ("DtCwptAlexNet", "Ft32Y", 64, 66, 124),
        ("DtCwptZhangAlexNet", "Ft32YBf3_mod", 96, 66, 120),
        ("dtcwpt_resnet18", "Ft40YEx", 64, 30, 80),
        ("dtcwpt_resnet18", "Ft40YEx_mod", 88, 30, 76),
        ("dtcwpt_resnet18", "Ft40", 64, 30, 84),
    ],
)
def test_kernels_are_trimmed_or_framed_as_the_authors(arch: str, config: str, channels: int, support: int, frame: int):
    first = first_layer(arch, config)
    assert resulting_kernel(first).shape == (channels, 3, support, support)
    assert resulting_kernel(first, framed=True).shape == (channels, 3, frame, frame)


def test_the_door_opens_by_short_name_and_by_architecture() -> None:
    net = pipelines.create("wavelet_twins/R18wyC_mod", dataset="cifar10")
    same = pipelines.create("wavelet_twins/dtcwpt_resnet18", dataset="cifar10", config="Ft40YEx_mod")
    assert net.state_dict().keys() == same.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), same.state_dict().values(), strict=True))
    grey = pipelines.create("wavelet_twins/R18wyC", dataset="digits")
    assert grey(torch.randn(2, 1, 32, 32)).shape == (2, 10)
    assert len(pipelines.names("wavelet_twins/R34*C*")) == 9


def test_the_door_says_what_is_wrong() -> None:
    with pytest.raises(UserError, match="nearest: wavelet_twins/RwyI_mod"):
        pipelines.create("wavelet_twins/RwyI_mode")
    with pytest.raises(UserError, match="dtcwpt_resnet18 has no default configuration"):
        pipelines.create("wavelet_twins/dtcwpt_resnet18", dataset="cifar10")
    with pytest.raises(UserError, match="no configuration 'Ft41Y'"):
        pipelines.create("wavelet_twins/dtcwpt_resnet18", dataset="cifar10", config="Ft41Y")
    with pytest.raises(UserError, match="wavelet_twins/AI does not support cifar10, only imagenet"):
        pipelines.create("wavelet_twins/AI", dataset="cifar10")
    small = pipelines.without_recipe("wavelet_twins/AI", "imagenet", ["DATA.IMAGE_SIZE", "32"])
    with pytest.raises(UserError, match="AlexNet Std needs images of at least 63 pixels, not 32"):
        pipelines.build(small)
    blurred = pipelines.without_recipe("wavelet_twins/zhang_resnet18", "digits", ["MODEL.CONFIG", "Bf5"])
    with pytest.raises(UserError, match="zhang_resnet18 Bf5 needs images of at least 33 pixels, not 32"):
        pipelines.build(blurred)
    with pytest.raises(ValueError, match="resnet18 has no wavelets"):
        first_layer("resnet18", "Std")


@pytest.mark.parametrize(
    ("arch", "config"),
    [
        ("AlexNet", "Std"),
        ("ZhangAlexNet", "Bf7"),
        ("DtCwptZhangAlexNet", "Ft32YBf3_mod"),
        *((arch, config) for arch in ("resnet18", "zhang_resnet18", "zou_resnet18") for config in configs(arch)),
        ("dtcwpt_zou_resnet18", "Ft40YBf3Ex_mod"),
        ("dtcwpt_resnet18", "Ft40YEx"),
        ("dtcwpt_resnet18", "Ft40YBf3Ex_abl1"),
    ],
)
def test_the_smallest_image_is_seen_and_no_smaller_one(arch: str, config: str) -> None:
    side = smallest(ARCHITECTURES[arch], form(arch, config))
    net = network(arch, config, num_classes=3).eval()
    assert net(torch.randn(1, 3, side, side)).isfinite().all()
    if side > 1:
        with pytest.raises((ValueError, RuntimeError)):
            net(torch.randn(1, 3, side - 1, side - 1))


@pytest.mark.parametrize(
    ("arch", "config", "size", "slots"),
    [
        # the stem's pooling, and of three stages a main branch and a shortcut each
        ("resnet18", "", 32, 7),
        ("resnet18", "StdK2", 32, 7),
        ("dtcwpt_resnet18", "Ft40YEx", 32, 7),
        ("dtcwpt_resnet18", "Ft40YEx_mod", 32, 7),
        # two in the stem and one in each of two pools
        ("AlexNet", "", 67, 4),
        ("DtCwptAlexNet", "Ft32Y", 67, 4),
        ("DtCwptAlexNet", "Ft32Y_mod", 67, 4),
    ],
)
def test_a_network_without_a_blur_takes_adaptive_polyphase_sampling(
    arch: str, config: str, size: int, slots: int
) -> None:
    pairs = ["MODEL.CONFIG", config or "Std", "MODEL.DOWNSAMPLE", "polyphase", "MODEL.FILTER_SIZE", "2"]
    dataset = "digits" if "resnet" in arch else "imagenet"
    made = pipelines.without_recipe(f"wavelet_twins/{arch}", dataset, [*pairs, "DATA.IMAGE_SIZE", str(size)])
    net = pipelines.build(made).eval()
    held = [module for module in net.modules() if isinstance(module, Downsample)]
    assert len(held) == slots and {module.size for module in held} == {2}
    assert sum(module.chooses for module in held) == (slots - 3 if "resnet" in arch else slots)
    assert (twin(net) is not None) == ("cwpt" in arch.lower())
    x = torch.rand(2, 1 if dataset == "digits" else 3, size, size)
    with torch.no_grad():
        assert net(x).isfinite().all()
    usual = network(arch, config or "Std", in_channels=x.shape[1], num_classes=10 if dataset == "digits" else 1000)
    assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in usual.state_dict().items()}


@pytest.mark.parametrize(
    ("arch", "config"),
    [("zhang_resnet18", "Bf3"), ("dtcwpt_zou_resnet18", "Ft40YBf3Ex"), ("dtcwpt_resnet18", "Ft40YBf3Ex_abl1")],
)
def test_a_network_with_a_blur_takes_no_other_filling(arch: str, config: str) -> None:
    pairs = ["MODEL.CONFIG", config, "MODEL.DOWNSAMPLE", "polyphase"]
    with pytest.raises(UserError, match=f"polyphase needs a network without a blur, but {arch} {config} has one"):
        pipelines.without_recipe(f"wavelet_twins/{arch}", "digits", pairs)
    with pytest.raises(UserError, match=r"MODEL\.FILTER_SIZE 5 changes nothing with MODEL\.DOWNSAMPLE auto"):
        pipelines.without_recipe(f"wavelet_twins/{arch}", "digits", [*pairs[:2], "MODEL.FILTER_SIZE", "5"])
