"""Names, settings and recipes of the networks."""

import pytest
import torch

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.layers.adaptive_blur import AdaptiveBlur2d
from stillpoint.core.layers.blur import BlurPool2d
from stillpoint.core.training.schedule import rate
from stillpoint.pipelines import recipe_config
from stillpoint.pipelines.blurpool.catalogue import ARCHITECTURES

TINY = {"dataset": "digits", "width": 0.125, "width_divisor": 8, "filter_padding": "replicate"}

PUBLISHED = pipelines.paper("blurpool").published


def built(name, **options):
    with torch.device("meta"):
        return pipelines.create(f"blurpool/{name}", **options)


def blurs(net, kind=BlurPool2d):
    return [module for module in net.modules() if isinstance(module, kind)]


@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet50_lpf4", 7), ("vgg16_lpf4", 5), ("alexnet_lpf4", 4), ("densenet121_lpf4", 4), ("mobilenet_v2_lpf4", 4)],
)
def test_filters_stand_in_as_many_places_as_published(name, count):
    assert len(blurs(built(name))) == count and not blurs(built(name.removesuffix("_lpf4")))


def test_every_network_of_the_paper_has_a_plain_and_seven_filled_forms():
    known = pipelines.models("blurpool")
    assert len(ARCHITECTURES) == 23
    assert all({arch, *(f"{arch}_lpf{k}" for k in range(1, 8))} <= known.keys() for arch in ARCHITECTURES)
    with pytest.raises(UserError, match="unknown network 'blurpool/resnet50_lpf8'; nearest"):
        pipelines.create("blurpool/resnet50_lpf8")


def test_a_filter_size_outside_one_to_seven_is_refused():
    with pytest.raises(UserError, match=r"MODEL.FILTER_SIZE: .*7 \(given: 8\)"):
        pipelines.configure("blurpool/resnet18_lpf4", pairs=["MODEL.FILTER_SIZE", "8"])


def test_adaptive_filters_stand_in_the_same_places():
    assert len(blurs(built("resnet101_pasa3_g8"), AdaptiveBlur2d)) == 7


@pytest.mark.parametrize("arch", ["resnet18", "vgg11_bn", "mobilenet_v2", "densenet121"])
def test_width_scales_the_channels_of_plain_and_filled_alike(arch):
    sizes = {
        (width, name): sum(p.numel() for p in built(name, **{**TINY, "width": width}).parameters())
        for width in (0.125, 0.25)
        for name in (arch, f"{arch}_lpf3")
    }
    assert sizes[0.125, arch] == sizes[0.125, f"{arch}_lpf3"] < sizes[0.25, arch]


def test_mobilenets_scaled_channels_are_truncated_as_published_unless_told():
    assert built("mobilenet_v2_lpf4", width=0.75).features[1].conv[-1].num_features == 12
    assert built("mobilenet_v2", width=0.75).features[1].conv[-1].num_features == 16
    assert built("mobilenet_v2_lpf4", width=0.75, width_divisor=8).features[1].conv[-1].num_features == 16


def test_a_width_that_leaves_groups_without_channels_is_refused():
    with pytest.raises(UserError, match=r"MODEL\.WIDTH of resnext50_32x4d must be at least 1 for its groups, got 0\.5"):
        built("resnext50_32x4d", width=0.5)


@pytest.mark.parametrize(
    ("name", "dataset", "key", "value"),
    [
        ("vgg11_bn_lpf4", "imagenet", "POOL_ONLY", "False"),
        ("mobilenet_v2_lpf4", "imagenet", "POOL_ONLY", "False"),
        ("resnet50", "imagenet", "POOL_ONLY", "False"),
        ("resnet18_lpf4", "cifar10", "POOL_ONLY", "False"),
        ("densenet121_lpf4", "cifar10", "POOL_ONLY", "False"),
        ("resnet50", "imagenet", "FILTER_SIZE", "5"),
        ("resnet50_lpf4", "imagenet", "GROUPS", "2"),
        ("resnet50_lpf4", "imagenet", "NORMALISE", "group"),
        ("resnet50_lpf4", "imagenet", "RELU_FIRST", "False"),
        ("alexnet", "imagenet", "RELU_FIRST", "False"),
        ("densenet121_lpf4", "imagenet", "REPLACE_STRIDE_WITH_DILATION", "[False, False, True]"),
        ("vgg11_bn", "imagenet", "ZERO_INIT_RESIDUAL", "True"),
    ],
)
def test_a_setting_that_changes_nothing_is_refused(name, dataset, key, value):
    with pytest.raises(UserError, match=rf"MODEL\.{key} .* changes nothing"):
        pipelines.configure(f"blurpool/{name}", dataset, [f"MODEL.{key}", value])


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("resnet50_lpf4", ["MODEL.POOL_ONLY", "False"]),
        ("densenet121_lpf4", ["MODEL.POOL_ONLY", "False"]),
        ("wide_resnet50_2", ["MODEL.ZERO_INIT_RESIDUAL", "True"]),
        ("resnext50_32x4d", ["MODEL.REPLACE_STRIDE_WITH_DILATION", "[False, False, True]"]),
        ("alexnet_lpf4", ["MODEL.RELU_FIRST", "False"]),
        ("resnet18_pasa3_g2", ["MODEL.NORMALISE", "group"]),
    ],
)
def test_a_setting_that_changes_something_is_taken(name, pairs):
    key = pairs[0].removeprefix("MODEL.").lower()
    default, given = (pipelines.configure(f"blurpool/{name}", "imagenet", p).model for p in ([], pairs))
    assert getattr(given, key) != getattr(default, key)


@pytest.mark.parametrize("downsample", ["blur", "adaptive_blur"])
def test_alexnet_keeps_its_first_relu_with_any_filling(downsample):
    net = built("alexnet", dataset="imagenet", downsample=downsample, filter_size=3)
    # two in the stem, one in each of two pools; published: stride 2 and a blur for stride 4
    kind = BlurPool2d if downsample == "blur" else AdaptiveBlur2d
    assert len(blurs(net, kind)) == 4 and net.features[0].stride == (2, 2)
    assert isinstance(net.features[1], torch.nn.ReLU)


def test_a_source_names_a_table_only_where_there_is_the_number():
    stated = {name for entry in PUBLISHED.entries for row in entry.rows for name in row.models}
    for name, entry in pipelines.models("blurpool").items():
        assert ("no published number" in entry.source) == (name not in stated), name
        assert not entry.source.endswith("1 taps")
    scratch = {n for e in PUBLISHED.entries if "scratch" in e.source for r in e.rows for n in r.models}
    tables = {name for name, entry in pipelines.models("blurpool").items() if ", ImageNet table, " in entry.source}
    assert {name for name in tables if "_lpf" in name} == {name for name in scratch if "_lpf" in name}
    assert pipelines.models("blurpool")["resnet50_lpf1"].source == (
        "Zhang, ICML 2019, 1 tap: the authors' code; no published number"
    )


def test_a_map_too_small_to_be_mirrored_is_told_with_its_remedy():
    with pytest.raises(UserError, match=r"last filter's map has 1x1 pixels, .* set MODEL\.FILTER_PADDING replicate"):
        built("vgg11_bn_lpf4", dataset="digits")
    net = pipelines.create("blurpool/vgg11_bn_lpf4", **TINY)
    assert net(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("recipe", pipelines.paper("blurpool").recipes())
def test_every_network_of_every_recipe_is_configured(recipe):
    for model in recipe_config("blurpool", recipe).grid:
        config = pipelines.configure(f"blurpool/{model}", recipe)
        assert config.title and "{arch}" not in str(config.train.finetune)


def test_the_recipes_are_those_of_the_paper():
    def of(name, recipe):
        return pipelines.configure(f"blurpool/{name}", recipe).train

    rows = {
        ("resnet50_lpf4", "imagenet"): (0.1, 256, 1, 90, 1e-4),
        ("alexnet_lpf4", "imagenet_alexnet"): (0.01, 256, 1, 90, 1e-4),
        ("vgg16_lpf4", "imagenet_vgg"): (0.01, 256, 2, 90, 1e-4),
        ("vgg16_bn_lpf4", "imagenet_vgg_bn"): (0.05, 256, 2, 90, 1e-4),
        ("mobilenet_v2_lpf4", "imagenet_mobilenet"): (0.05, 256, 1, 150, 4e-5),
        ("resnet50_lpf4", "imagenet_finetune"): (0.01, 256, 1, 60, 1e-4),
        ("vgg16_bn_lpf4", "imagenet_finetune_vgg_bn"): (0.005, 256, 2, 60, 1e-4),
        ("mobilenet_v2_lpf4", "imagenet_finetune_mobilenet"): (0.005, 256, 1, 60, 4e-5),
        ("resnet101_pasa3_g8", "pasa"): (0.1, 256, 2, 90, 1e-4),
    }
    for key, row in rows.items():
        found = of(*key)
        assert (found.lr, found.batch_size, found.accumulate, found.epochs, found.weight_decay) == row, key
    tuned = of("resnet50_lpf4", "imagenet_finetune")
    assert [round(rate(tuned, e, 0, 100), 6) for e in (0, 29, 30, 59)] == [0.01, 0.01, 0.001, 0.001]
    assert tuned.finetune == "weights/resnet50.pth"
    mobile = of("mobilenet_v2_lpf4", "imagenet_mobilenet")
    assert rate(mobile, 0, 0, 100) < 0.05 and rate(mobile, 149, 0, 100) == pytest.approx(0, abs=1e-12)
    # resumed at epoch 75, where theirs would train at 0.01224
    assert rate(mobile, 75, 0, 100) == pytest.approx(0.02448, abs=1e-5)
    adaptive = of("resnet101_pasa3_g8", "pasa")
    assert rate(adaptive, 0, 0, 100) == pytest.approx(0.1 / 1500) and rate(adaptive, 15, 0, 100) == 0.1
