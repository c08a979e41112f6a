"""Names, settings and recipes of the networks."""

import pytest
import torch

import pipelines
from core.errors import UserError
from core.layers.adaptive_blur import AdaptiveBlur2d
from core.layers.blur import BlurPool2d
from core.schedule import rate
from pipelines.blurpool.catalogue import ARCHITECTURES
from pipelines.workflow import recipe_config, recipes

TINY = {"dataset": "digits", "width": 0.125, "width_divisor": 8, "padding": "replicate"}


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


@pytest.mark.parametrize("arch", ["resnet18", "vgg11_bn", "mobilenet_v2"])
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


@pytest.mark.parametrize("arch", ["alexnet", "densenet121", "resnext50_32x4d"])
def test_a_width_that_a_network_does_not_have_is_refused(arch):
    with pytest.raises(UserError, match=r"MODEL\.WIDTH"):
        built(arch, width=0.5)


def test_a_map_too_small_to_be_mirrored_is_told_with_its_remedy():
    with pytest.raises(UserError, match=r"last filter a map of 1x1, .* set MODEL\.PADDING replicate"):
        built("vgg11_bn_lpf4", dataset="digits")
    net = pipelines.create("blurpool/vgg11_bn_lpf4", **TINY)
    assert net(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("recipe", recipes("blurpool"))
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
