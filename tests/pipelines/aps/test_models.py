import warnings

import pytest
import torch
from torch import nn

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.merge import merge
from stillpoint.core.layers.blur import BlurPool2d
from stillpoint.core.layers.downsample import Downsample
from stillpoint.core.layers.polyphase import PolyphaseDownsample2d
from stillpoint.pipelines.aps import catalogue
from stillpoint.pipelines.aps.config import Config, Model, form, odd_sizes, subsampled_sizes
from stillpoint.pipelines.aps.models import build

MODELS = catalogue.models()
#: channels of the first stage, where they are not 64
FIRST = {"resnet20": 16, "resnet56": 16}


def net_of(name: str, image_size: int, *, width: int | None = None, in_channels: int = 3, classes: int = 10, **more):
    entry = MODELS[name]
    settings = {key.lower(): value for key, value in entry.settings.items()} | more
    model = Model(name=name, width=width / FIRST.get(settings["arch"], 64) if width else 1.0, **settings)
    return build(model, in_channels=in_channels, num_classes=classes, image_size=image_size)


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


PARAMETERS = [
    ("resnet20", 32, 272_474),
    ("resnet56", 32, 855_770),
    ("resnet18", 32, 11_173_962),
    ("resnet34", 32, 21_282_122),
    ("resnet50", 32, 23_520_842),
    ("resnet20_aps3", 32, 272_474),
    ("resnet18_lpf4", 32, 11_173_962),
    ("resnet50_aps2", 32, 23_520_842),
    ("resnet18_aps3", 224, 11_689_512),
    ("resnet34_lpf1", 224, 21_797_672),
    ("resnet50_aps5", 224, 25_557_032),
    ("resnet101_lpf3", 224, 44_549_160),
    ("UNet_4down_aps", 64, 31_042_369),
]


@pytest.mark.parametrize(("name", "size", "count"), PARAMETERS)
def test_parameter_counts_are_the_authors(name: str, size: int, count: int) -> None:
    with torch.device("meta"):
        net = net_of(name, size, in_channels=1 if "UNet" in name else 3, classes=1000 if size == 224 else 10)
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize("name", MODELS)
def test_every_name_of_the_catalogue_builds_in_every_form_it_has(name: str) -> None:
    sizes = (
        [32] if "UNet" in name else [n for n, d in ((32, "cifar10"), (224, "imagenet")) if d in MODELS[name].datasets]
    )
    assert sizes
    for size in sizes:
        with torch.device("meta"):
            net = net_of(name, size, width=64 if "next" in name else 8)
        # a filter alone follows a choice on the shortcut
        pools = {
            type(m)
            for path, m in net.named_modules()
            if isinstance(m, Downsample) and not path.endswith("downsample.pool")
        }
        kind = {"polyphase": {PolyphaseDownsample2d}, "blur": {BlurPool2d}, "none": set()}
        downsample = MODELS[name].settings["DOWNSAMPLE"]
        assert downsample == "ideal_lowpass" or pools == kind[downsample]


def test_the_catalogue_holds_the_papers_grid() -> None:
    assert {f"resnet{n}{kind}" for n in (18, 20, 50, 56) for kind in ("", "_lpf3", "_aps1", "_aps7")} <= set(MODELS)
    assert MODELS["resnet20_aps3"].datasets == ("digits", "fashion_mnist", "cifar10", "cifar100")
    assert "imagenet" in MODELS["resnet18_aps3"].datasets and "cifar10" in MODELS["resnet18_aps3"].datasets
    assert MODELS["resnet101_aps3"].datasets == MODELS["resnext50_32x4d_lpf2"].datasets == ("imagenet",)
    assert "resnet152_aps3" not in MODELS
    assert all(entry.source for entry in MODELS.values())


def test_the_door_makes_them_by_name() -> None:
    net = pipelines.create("aps/resnet20_aps3", dataset="digits", width=0.25)
    assert net(images(2, 1, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", ["resnet20_aps1", "resnet20_aps4", "resnet18_aps3", "resnet50_aps2"])
def test_untrained_aps_networks_are_exactly_invariant_to_circular_shifts(name: str) -> None:
    net, x = net_of(name, 32, width=4).eval(), images(4, 3, 32, 32)
    with torch.no_grad():
        logits = net(x)
        for shift in [(1, 0), (0, -1), (3, 2), (16, 7)]:
            moved = net(x.roll(shift, (2, 3)))
            assert (moved - logits).abs().max() < 1e-5 * logits.abs().max()
            assert torch.equal(moved.argmax(1), logits.argmax(1))


def test_the_imagenet_form_is_exactly_invariant_but_with_pool_only_is_not() -> None:
    x = images(2, 3, 64, 64)
    changes = []
    for pool_only in (False, True):
        net = net_of("resnet18_aps3", 224, width=4, pool_only=pool_only).eval()
        with torch.no_grad():
            logits = net(x)
            changes.append(((net(x.roll((1, 5), (2, 3))) - logits).abs().max() / logits.abs().max()).item())
    assert changes[0] < 1e-5 < 1e-3 < changes[1]


@pytest.mark.parametrize("name", ["resnet20", "resnet20_lpf1", "resnet20_lpf5"])
def test_networks_on_a_fixed_grid_are_not_invariant(name: str) -> None:
    net, x = net_of(name, 32, width=4).eval(), images(4, 3, 32, 32)
    with torch.no_grad():
        logits = net(x)
        assert (net(x.roll((1, 0), (2, 3))) - logits).abs().max() > 1e-4 * logits.abs().max()


def test_zero_padding_costs_the_invariance() -> None:
    net, x = net_of("resnet20_aps1", 32, width=4, conv_padding="zeros").eval(), images(4, 3, 32, 32)
    with torch.no_grad():
        logits = net(x)
        assert (net(x.roll((1, 0), (2, 3))) - logits).abs().max() > 1e-4 * logits.abs().max()


def test_lpf1_is_the_plain_network_but_for_the_batch_statistics_in_training() -> None:
    # keeping every second pixel after convolution, norm and ReLU is striding, but the norm has seen all pixels
    plain, filled = net_of("resnet20", 32, width=4), net_of("resnet20_lpf1", 32, width=4)
    filled.load_state_dict(plain.state_dict(), strict=True)
    x = images(2, 3, 32, 32)
    torch.testing.assert_close(plain.eval()(x), filled.eval()(x))
    assert not torch.allclose(plain.train()(x), filled.train()(x), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "image_size", "sizes"),
    [
        ("resnet20_aps1", 28, [28, 14]),
        ("resnet18_aps1", 28, [28, 14, 7]),
        ("resnet20_aps1", 30, [30, 15]),
        ("resnet18_aps1", 224, [224, 112, 56, 28, 14]),
        ("resnet18_aps1", 200, [200, 100, 50, 25, 13]),
        ("UNet_4down_aps", 48, [48, 24, 12, 6]),
    ],
)
def test_sizes_of_the_maps_that_are_subsampled(name: str, image_size: int, sizes: list[int]) -> None:
    model = Model(**{key.lower(): value for key, value in MODELS[name].settings.items()})
    assert subsampled_sizes(model, image_size) == sizes
    assert odd_sizes(model, image_size) == [n for n in sizes if n % 2]
    seen = []
    net = net_of(name, 224 if "UNet" not in name and image_size > 64 else 32, width=2, in_channels=1).eval()

    def look(module: nn.Module, args: tuple) -> None:
        if len(args) == 1:
            seen.append(args[0].shape[-1])

    for module in net.modules():
        if isinstance(module, PolyphaseDownsample2d):
            module.register_forward_pre_hook(look)
    net(images(1, 1, image_size, image_size))
    assert seen == sizes


def test_pool_only_leaves_one_subsampling_to_the_first_convolution() -> None:
    assert subsampled_sizes(Model(downsample="polyphase", pool_only=True), 224) == [112, 56, 28, 14]


def test_a_size_at_which_exactness_is_lost_is_warned_of_when_building() -> None:
    with pytest.warns(UserWarning, match=r"resnet20_aps1 at 30x30 subsamples maps of odd side \(15x15\)"):
        net_of("resnet20_aps1", 30, width=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net_of("resnet20_aps1", 28, width=4)
        net_of("resnet20_lpf1", 30, width=4)


def test_the_warning_is_true() -> None:
    with pytest.warns(UserWarning, match="odd side"):
        net = net_of("resnet20_aps1", 30, width=4).eval()
    x = images(4, 3, 30, 30)
    with torch.no_grad():
        logits = net(x)
        assert (net(x.roll((1, 0), (2, 3))) - logits).abs().max() > 1e-4 * logits.abs().max()


def test_the_form_follows_the_size_of_the_images() -> None:
    assert (form(Model(), 32), form(Model(), 64), form(Model(), 224)) == ("cifar", "cifar", "imagenet")
    assert form(Model(form="imagenet"), 32) == "imagenet"
    assert net_of("resnet18_lpf1", 32, width=4).conv1.kernel_size == (3, 3)
    assert net_of("resnet18_lpf1", 224, width=4).conv1.kernel_size == (7, 7)


@pytest.mark.parametrize(
    ("settings", "image_size", "select", "padding"),
    [
        ({}, 32, "before_blur", "circular"),
        ({"conv_padding": "zeros"}, 32, "before_blur", "reflect"),
        ({}, 224, "after_blur", "circular"),
        ({"conv_padding": "zeros"}, 224, "after_blur", "circular"),
        ({"arch": "unet4", "conv_padding": "zeros"}, 32, "after_blur", "zeros"),
        ({"select": "after_blur", "filter_padding": "replicate"}, 32, "after_blur", "replicate"),
    ],
)
def test_selection_and_padding_of_the_filter_follow_the_form(
    settings, image_size: int, select: str, padding: str
) -> None:
    model = Model(downsample="polyphase", filter_size=3, criterion="l1", width=0.05, **settings)
    net = build(model, in_channels=1, num_classes=2, image_size=image_size)
    pools = [m for m in net.modules() if isinstance(m, PolyphaseDownsample2d)]
    assert {(m.select, m.padding, m.size, m.criterion) for m in pools} == {(select, padding, 3, "l1")}
    assert {(m.padding, m.size) for m in net.modules() if isinstance(m, Downsample)} == {(padding, 3)}


@pytest.mark.parametrize(
    ("key", "theirs", "ours"),
    [
        ("CRITERION", "l2min", "l2_min"),
        ("CRITERION", "non_abs_max", "max"),
        ("DOWNSAMPLE", "aps", "polyphase"),
        ("DOWNSAMPLE", "lpf", "blur"),
        ("DOWNSAMPLE", "sinc", "ideal_lowpass"),
    ],
)
def test_a_spelling_of_the_papers_is_refused_with_ours(key: str, theirs: str, ours: str) -> None:
    with pytest.raises(UserError, match=f"MODEL.{key} {theirs} is now spelt {ours}"):
        merge(Config, [{"TRAIN": {"KEEP": "last"}}], [f"MODEL.{key}", theirs])


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (
            ["MODEL.DOWNSAMPLE", "polyphase", "MODEL.FILTER_SIZE", "9"],
            r"MODEL\.FILTER_SIZE: .* less than or equal to 7 \(given: 9\)",
        ),
        (["MODEL.DOWNSAMPLE", "polyphase", "MODEL.FILTER_SIZE", "0"], "greater than or equal to 1"),
        (["MODEL.FILTER_SIZE", "3"], "FILTER_SIZE 3 changes nothing with MODEL.DOWNSAMPLE none: it is of a filling"),
        (
            ["MODEL.DOWNSAMPLE", "ideal_lowpass", "MODEL.FILTER_SIZE", "5"],
            "SIZE 5 changes nothing with MODEL.DOWNSAMPLE ideal_lowpass: it is of blur, adaptive_blur, polyphase",
        ),
        (["MODEL.DOWNSAMPLE", "blur", "MODEL.CRITERION", "l1"], "it is of polyphase"),
        (["MODEL.BLUR_PADDING", "zeros"], "there is no MODEL.BLUR_PADDING: it is MODEL.FILTER_PADDING"),
        (["MODEL.WIDTH", "16"], "MODEL.WIDTH: it is a multiplier of at most 2, not a number of channels"),
        (["MODEL.CRITERION", "l3"], r"MODEL\.CRITERION"),
        (["MODEL.ARCH", "resnet20", "MODEL.FORM", "imagenet"], "resnet20 has no ImageNet form"),
        (["MODEL.ARCH", "unet4", "MODEL.POOL_ONLY", "True"], "not to U-Nets"),
        (["MODEL.ARCH", "unet4", "MODEL.CONV_PADDING", "reflect"], "circular or zeros, not reflect"),
        (["MODEL.NORM", "bach"], "MODEL.NORM must be one of batch, .*; nearest: batch"),
    ],
)
def test_settings_that_make_no_sense_are_refused(pairs: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        merge(Config, [{"TRAIN": {"KEEP": "last"}}], pairs)


def test_a_unet_for_a_size_it_cannot_halve_is_refused() -> None:
    with pytest.raises(UserError, match="multiples of 16, not 40"):
        net_of("UNet_4down_aps", 40)


def test_convolutions_start_kaiming_normal_fan_out_and_no_norm_starts_at_zero() -> None:
    net = net_of("resnet18_aps3", 32)
    weight = net.layer3[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert all((m.weight == 1).all() for m in net.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("name", ["resnet20", "resnet20_lpf3", "resnet20_aps3", "resnet50_aps1"])
def test_replicate_pad_makes_every_3x3_convolution_add_four_pixels(name: str) -> None:
    net = net_of(name, 32, width=4, conv_padding="replicate_pad").eval()
    sizes = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.register_forward_hook(lambda m, args, y: sizes.append((args[0].shape[-1], m.stride[0], y.shape[-1])))
    assert net(images(2, 3, 32, 32)).shape == (2, 10)
    assert sizes[0] == (32, 1, 36)
    assert all(
        after == (before + 3) // 2 + 1 if stride == 2 else after == before + 4 for before, stride, after in sizes
    )


def test_replicate_pad_leaves_names_and_shapes_alone_and_is_of_the_cifar_form() -> None:
    plain, growing = net_of("resnet20", 32, width=4), net_of("resnet20", 32, width=4, conv_padding="replicate_pad")
    growing.load_state_dict(plain.state_dict(), strict=True)
    with pytest.raises(UserError, match="replicate_pad needs the CIFAR form"):
        net_of("resnet18_lpf1", 224, width=4, conv_padding="replicate_pad")


def test_the_house_network_has_its_own_form() -> None:
    net, x = net_of("speednet_aps3", 32, width=8).eval(), images(4, 3, 32, 32)
    logits = net(x)
    for shift in [(1, 0), (0, -1), (3, 2), (16, 7)]:
        assert (net(x.roll(shift, (2, 3))) - logits).abs().max() < 1e-5 * logits.abs().max()
    assert subsampled_sizes(Model(arch="speednet"), 32) == [32, 16, 8]
    assert form(Model(arch="speednet"), 224) == "cifar"
    for wrong in ({"conv_padding": "reflect"}, {"pool_only": True, "downsample": "blur"}):
        with pytest.raises(
            ValueError, match=r"speednet needs MODEL\.CONV_PADDING circular or zeros, and has no MODEL.POOL_ONLY"
        ):
            Model(arch="speednet", **wrong)
    with pytest.raises(ValueError, match="speednet has no ImageNet form"):
        Model(arch="speednet", form="imagenet")
