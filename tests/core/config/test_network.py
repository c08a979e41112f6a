"""The section of the slots, and settings that were stored before there was one."""

import json

import pytest

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.former import modern
from stillpoint.core.config.network import Fill, NetworkConfig
from stillpoint.core.config.schema import validate

#: a section as it was stored, and what of today's differs from the defaults
STORED = {
    "aps/resnet20_aps3": (
        {"ARCH": "resnet20", "FORM": "auto", "DOWNSAMPLE": "aps", "FILTER_SIZE": 3, "CRITERION": "l2", "SELECT": None}
        | {"CONV_PADDING": "circular", "BLUR_PADDING": "zeros", "POOL_ONLY": False, "WIDTH": 4, "NORM": "batch"},
        {"downsample": "polyphase", "filter_size": 3, "filter_padding": "zeros", "width": 0.25},
    ),
    "aps/UNet_3down_InstanceNorm": (
        {"ARCH": "unet3", "FORM": "auto", "DOWNSAMPLE": "none", "FILTER_SIZE": 1, "CRITERION": "l2", "SELECT": None}
        | {"CONV_PADDING": "zeros", "BLUR_PADDING": None, "POOL_ONLY": False, "WIDTH": 8, "NORM": "instance"},
        {"norm": "instance", "width": 0.125},
    ),
    "blurpool/resnet18_pasa3_g2": (
        {"ARCH": "resnet18", "DOWNSAMPLE": "pasa", "FILTER_SIZE": 3, "GROUPS": 2, "NORMALISE": "joint"}
        | {"PADDING": "reflect", "POOL_ONLY": True, "WIDTH": 0.5},
        {"downsample": "adaptive_blur", "filter_size": 3, "groups": 2, "width": 0.5},
    ),
    "blurpool/resnet18": (
        {"ARCH": "resnet18", "DOWNSAMPLE": "none", "FILTER_SIZE": 4, "GROUPS": 8, "NORMALISE": "joint"}
        | {"PADDING": "replicate", "POOL_ONLY": True, "WIDTH": 1.0},
        {"filter_padding": "replicate"},
    ),
    "sdnet/sdnet18": ({"DOWNSAMPLE": "lpf", "FILTER_SIZE": 3}, {"downsample": "blur", "filter_size": 3}),
    "translations/cnn": ({"ARCH": "convnet", "DOWNSAMPLE": "none", "FILTER_SIZE": 3}, {}),
    "wavelet_twins/R18wyC": (
        {"ARCH": "dtcwpt_resnet18", "CONFIG": "Ft40YEx", "DOWNSAMPLE": "auto", "FILTER_SIZE": 3, "PENALTY": []},
        {"downsample": "auto"},
    ),
    "wavelet_twins/R18wyC_mod": (
        {"ARCH": "dtcwpt_resnet18", "CONFIG": "Ft40YEx_mod", "DOWNSAMPLE": "aps", "FILTER_SIZE": 2},
        {"downsample": "polyphase", "filter_size": 2},
    ),
}


@pytest.mark.parametrize("name", STORED)
def test_a_section_stored_before_is_read_as_today_s(name: str) -> None:
    model, differs = STORED[name]
    paper = name.partition("/")[0]
    settings = modern({"PIPELINE": paper, "TRAIN": {}, "MODEL": {"NAME": name.partition("/")[2], **model}})
    section = validate(type(pipelines.paper(paper).schema()().model), settings["MODEL"])
    plain = NetworkConfig()
    found = {
        key: getattr(section, key)
        for key in NetworkConfig.model_fields
        if key != "name" and getattr(section, key) != getattr(plain, key)
    }
    assert found == differs
    # once and no more
    assert modern(settings) == settings


def test_what_is_no_stored_configuration_is_left_as_it_is() -> None:
    recipe = {"MODEL": {"PADDING": "replicate", "WIDTH": 8}, "TRAIN": {"EPOCHS": 3}}
    assert modern(recipe) is recipe
    plain = {"PIPELINE": "mine", "TRAIN": {}, "MODEL": {"NAME": "net"}}
    assert modern(plain) is plain
    today = pipelines.configure("aps/resnet20_aps3", "digits").dump()
    assert modern(today) is today and json.dumps(today)


def test_a_place_inherits_what_the_patterns_around_it_say() -> None:
    section = NetworkConfig(
        downsample="polyphase",
        filter_size=3,
        filling=("layer3.*:size=2", "layer*:criterion=l1", "maxpool.0:downsample=subsample"),
    )
    assert section.places() == ["maxpool.0", "layer3.*", "layer*"]
    assert section.fill("") == Fill("polyphase", {"size": 3})
    assert section.fill("layer2.0.pool") == Fill("polyphase", {"size": 3, "criterion": "l1"})
    assert section.fill("layer3.*") == Fill("polyphase", {"size": 2, "criterion": "l1"})
    assert section.fill("maxpool.0", padding="zeros") == Fill("subsample", {})
    assert section.fill("", padding="zeros", factor=3) == Fill("polyphase", {"size": 3, "padding": "zeros"})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"DOWNSAMPLE": "polyphas"}, "nearest: polyphase"),
        ({"DOWNSAMPLE": "pasa"}, "pasa is now spelt adaptive_blur"),
        (
            {"DOWNSAMPLE": "blur", "GROUPS": 2},
            "GROUPS 2 changes nothing with MODEL.DOWNSAMPLE blur: it is an option of adaptive_bl",
        ),
        ({"DOWNSAMPLE": "adaptive_blur", "FILTER_SIZE": 4}, "needs an odd MODEL.FILTER_SIZE, not 4"),
        ({"FILLING": ("size=3",)}, r"FILLING \[size=3\] changes nothing with MODEL.DOWNSAMPLE none"),
        ({"DOWNSAMPLE": "blur", "FILLING": ("taps=3",)}, "blur has size, padding, pad_off, not taps"),
        ({"DOWNSAMPLE": "blur", "FILLING": ("layer1:downsample=none",)}, "got 'none'"),
        ({"ACTIVATION": "rellu"}, "MODEL.ACTIVATION must be one of relu, .*; nearest: relu"),
        ({"WIDTH": 16}, "WIDTH: it is a multiplier"),
        ({"WIDTH": 0}, "greater than 0"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        validate(NetworkConfig, settings)
