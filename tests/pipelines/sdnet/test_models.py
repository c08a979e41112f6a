"""The networks are those of the paper's table, by name, size and form."""

import pytest
import torch
from torch import nn

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.merge import merge
from stillpoint.core.config.schema import known_keys
from stillpoint.core.layers import BlurPool2d, Downsample, PolyphaseDownsample2d, SparseCoding2d
from stillpoint.pipelines.sdnet.config import Config, Model
from stillpoint.pipelines.sdnet.models import build, sparse_layers
from stillpoint.pipelines.sdnet.reconstruction import reconstruct

# (settings, image size, classes) -> parameters, sparse-coding layers, state_dict entries of the authors' networks
TABLE = [
    ({"NAME": "sdnet18"}, 32, 10, 11_173_962, 1, 123),
    ({"NAME": "sdnet18"}, 32, 100, 11_220_132, 1, 123),
    ({"NAME": "sdnet18"}, 224, 1000, 11_689_512, 1, 123),
    ({"NAME": "sdnet18_all"}, 32, 10, 11_173_962, 17, 139),
    ({"NAME": "sdnet18_all"}, 32, 100, 11_220_132, 17, 139),
    ({"NAME": "sdnet18_all"}, 224, 1000, 11_726_376, 18, 141),
    ({"NAME": "sdnet18_all", "SHORTCUT": False}, 32, 10, 11_000_138, 17, 121),
    ({"NAME": "sdnet18_all_noshortcut", "SHORTCUT": False}, 32, 100, 11_046_308, 17, 121),
    ({"NAME": "sdnet18_all_noshortcut", "SHORTCUT": False}, 224, 1000, 11_552_552, 18, 123),
    ({"NAME": "sdnet34"}, 32, 10, 21_282_122, 1, 219),
    ({"NAME": "sdnet34"}, 224, 1000, 21_797_672, 1, 219),
    ({"NAME": "sdnet34_all"}, 32, 10, 21_282_122, 33, 251),
    ({"NAME": "sdnet34_all"}, 224, 1000, 21_834_536, 34, 253),
    ({"NAME": "sdnet34_all", "SHORTCUT": False}, 32, 10, 21_108_298, 33, 233),
    ({"NAME": "sdnet34_all", "SHORTCUT": False}, 224, 1000, 21_660_712, 34, 235),
    ({"NAME": "resnet18"}, 32, 10, 11_173_962, 0, 122),
    ({"NAME": "resnet34"}, 224, 1000, 21_797_672, 0, 218),
]


def make(size: int = 32, classes: int = 10, **settings) -> nn.Module:
    return build(Model.model_validate(settings), in_channels=3, num_classes=classes, image_size=size)


@pytest.mark.parametrize(("settings", "size", "classes", "parameters", "layers", "entries"), TABLE)
def test_sizes_are_those_of_the_authors(settings, size, classes, parameters, layers, entries):
    with torch.device("meta"):
        net = make(size, classes, **settings)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert len(sparse_layers(net)) == layers
    assert len(net.state_dict()) == entries


def test_every_entry_of_the_catalogue_is_built_as_its_name_says():
    for name, entry in pipelines.models("sdnet").items():
        with torch.device("meta"):
            net = make(NAME=name, **entry.settings)
        assert net.fc.out_features == 10
        shortcuts = any("downsample" in key for key in net.state_dict())
        assert shortcuts != name.endswith("_noshortcut")


def test_the_stem_has_no_relu_and_large_images_get_a_second_code_instead_of_the_pool():
    with torch.device("meta"):
        stems = {
            (name, size): list(make(size, NAME=name).stem) for name in ("sdnet18", "sdnet18_all") for size in (32, 224)
        }
    kinds = {key: [type(layer).__name__ for layer in stem] for key, stem in stems.items()}
    assert kinds["sdnet18", 32] == kinds["sdnet18_all", 32] == ["SparseCoding2d", "BatchNorm2d"]
    assert kinds["sdnet18", 224] == ["SparseCoding2d", "BatchNorm2d", "MaxPool2d"]
    assert kinds["sdnet18_all", 224] == ["SparseCoding2d", "BatchNorm2d", "SparseCoding2d"]


def test_blocks_without_shortcuts_end_signed_and_with_them_rectified():
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for shortcut in (True, False):
        net = make(NAME="sdnet18_all", SHORTCUT=shortcut).train()
        with torch.no_grad():
            features = net.layer1(net.stem(x))
        assert (features.min() < 0) != shortcut


def test_options_reach_every_layer():
    with torch.device("meta"):
        net = make(
            NAME="sdnet18_all", NUM_LAYERS=4, LAMBDA=0.3, MU=0.1, NONEGATIVE=False, SQUARE_NOISE=False, RECOMPUTE=True
        )
    for layer in sparse_layers(net).values():
        assert (layer.penalty, layer.recompute) == (0.3, True)
        assert layer.options == {
            "iterations": 4, "ridge": 0.1, "nonnegative": False, "squared": False, "scheme": "sdnet"
        }  # fmt: skip


def test_lambda_is_one_value_or_one_for_each_layer():
    values = [0.1 + i / 100 for i in range(17)]
    with torch.device("meta"):
        net = make(NAME="sdnet18_all", LAMBDA=values)
        assert [layer.penalty for layer in sparse_layers(net).values()] == pytest.approx(values)
        with pytest.raises(UserError, match="LAMBDA must have 1 value or 17, one for each layer of sdnet18_all, not 2"):
            make(NAME="sdnet18_all", LAMBDA=[0.1, 0.2])


def test_pooling_codes_at_full_resolution_and_keeps_the_sizes():
    net = make(NAME="sdnet18_all", POOLING=True).eval()
    assert [layer.stride for layer in sparse_layers(net).values()] == [1] * 17
    with torch.no_grad():
        assert net.forward_features(torch.zeros(1, 3, 16, 16)).shape == (1, 512, 2, 2)


@pytest.mark.parametrize(("downsample", "kind"), [("blur", BlurPool2d), ("polyphase", PolyphaseDownsample2d)])
@pytest.mark.parametrize(("size", "slots", "strides"), [(32, 3, 0), (96, 4, 1)])
@pytest.mark.parametrize("name", ["resnet18", "sdnet18", "sdnet18_all", "sdnet18_all_noshortcut"])
def test_a_filling_stands_wherever_a_sparse_network_would_stride(name, size, slots, strides, downsample, kind):
    settings = {"NAME": name, "SHORTCUT": not name.endswith("_noshortcut")}
    net = make(size, **settings, WIDTH=0.125, DOWNSAMPLE=downsample, FILTER_SIZE=4).eval()
    held = {key: module for key, module in net.named_modules() if isinstance(module, Downsample)}
    shortcuts = 0 if name.endswith("_noshortcut") else 3
    assert len(held) == slots + shortcuts and all(module.size == 4 for module in held.values())
    assert all(isinstance(module, kind) for key, module in held.items() if not key.endswith("downsample.pool"))
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.MaxPool2d, SparseCoding2d))]
    left = [m for m in layers if m.stride not in (1, (1, 1))]
    assert len(left) == strides
    plain = make(size, **settings, WIDTH=0.125).eval()
    with torch.no_grad():
        x = torch.rand(1, 3, size, size)
        assert net.forward_features(x).shape == plain.forward_features(x).shape
        assert net(x).isfinite().all()
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in plain.parameters())


def test_what_a_filling_cannot_be_beside_is_refused():
    for settings, said in (
        ({"NAME": "sdnet18_all", "DOWNSAMPLE": "blur", "POOLING": True}, "choose one of them"),
        ({"FILTER_SIZE": 5}, "MODEL.FILTER_SIZE 5 changes nothing with MODEL.DOWNSAMPLE none"),
    ):
        with pytest.raises(ValueError, match=said):
            make(**settings)
    net = make(NAME="sdnet18_all_noshortcut", SHORTCUT=False, WIDTH=0.125, DOWNSAMPLE="polyphase").eval()
    with pytest.raises(UserError, match="DOWNSAMPLE has no inverse"):
        reconstruct(net, torch.rand(1, 3, 16, 16), 2, 1)


@pytest.mark.parametrize("pooling", [False, True])
@pytest.mark.parametrize("size", [15, 18])
def test_any_resolution_passes_after_construction(size, pooling):
    net = make(NAME="sdnet18_all", POOLING=pooling, WIDTH=0.125).eval()
    with torch.no_grad():
        for side in (16, size):
            assert net(torch.zeros(1, 3, side, side)).shape == (1, 10)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"NAME": "sdnet50"}, "unknown MODEL.NAME 'sdnet50'; nearest"),
        ({"NAME": "sdnet18_all_noshortcut"}, "means MODEL.SHORTCUT False"),
        ({"LAMBDA": [-0.1]}, "values of at least 0"),
        ({"LAMBDA": []}, "LAMBDA must have one value"),
        ({"LAMBDA": [float("nan")]}, "finite"),
        ({"NAME": "sdnet18", "POOLING": True}, r"POOLING is for the \*_all networks"),
        ({"NUM_LAYERS": 0}, "greater than or equal to 1"),
        ({"SCHEME": "newton"}, "SCHEME"),
    ],
)
def test_settings_that_make_no_network_are_refused_by_name(settings, said):
    with pytest.raises(ValueError, match=said):
        Model.model_validate(settings)


@pytest.mark.parametrize("key", ["MODEL.PAD_MODE", "MODEL.RCLOSS_FACTOR", "TRAIN.END_EPOCH", "DATASET.NOISE"])
def test_keys_of_the_authors_that_do_nothing_here_are_refused_with_the_reason(key):
    section, leaf = key.split(".")
    for layers, pairs in (([], [key, "1"]), ([{section: {leaf: 1}}], [])):
        with pytest.raises(UserError, match=f"there is no {key}: "):
            merge(Config, layers, pairs)


def test_every_key_of_the_authors_configuration_is_taken_or_refused_with_a_reason():
    dead = ["MODEL.PAD_MODE", "MODEL.DICTLOSS", "MODEL.RCLOSS_FACTOR", "MODEL.STEP_SIZE", "MODEL.ARCH", "VIZ"]
    dead += ["DATASET.DATA_FORMAT", "DATASET.NOISE_LEVEL", "TEST.MODEL_FILE"]
    others = ["LOG_DIR", "VIZ_INPUTNORM", "VIZ_TRAINSET", "WORKERS", "PRINT_FREQ", "TEST.BATCH_SIZE"]
    others += ["MODEL.NUM_CLASSES", "MODEL.IMAGE_SIZE"]
    others += [f"DATASET.{leaf}" for leaf in ("ROOT", "DATASET", "TRAIN_SET", "TEST_SET", "NOISE")]
    others += ["TRAIN.LR_FACTOR", "TRAIN.LR_STEP", "TRAIN.LR_SCHEDULER", "TRAIN.WD", "TRAIN.BEGIN_EPOCH"]
    others += ["TRAIN.END_EPOCH", "TRAIN.RESUME", "TRAIN.MODEL_FILE"]
    assert set(Config.REFUSED) == {*dead, *others}
    taken = "NAME NUM_LAYERS EXPANSION_FACTOR LAMBDA ADAPTIVELAMBDA NONEGATIVE WNORM MU SHORTCUT POOLING SQUARE_NOISE"
    kept = [f"MODEL.{leaf}" for leaf in taken.split()]
    kept += [f"TRAIN.{leaf}" for leaf in ("LR", "OPTIMIZER", "MOMENTUM", "NESTEROV", "BATCH_SIZE")]
    assert set(kept) <= set(known_keys(Config))


def test_all_without_shortcuts_has_one_name():
    run = merge(Config, [], ["MODEL.NAME", "sdnet34_all", "MODEL.SHORTCUT", "False"])
    assert (run.model.name, run.model.architecture) == ("sdnet34_all_noshortcut", "sdnet34_all")
    assert merge(Config, [], ["MODEL.NAME", "sdnet18", "MODEL.SHORTCUT", "False"]).model.name == "sdnet18"


def test_the_door_takes_the_authors_pairs():
    pairs = ["MODEL.NAME", "sdnet18_all", "MODEL.SHORTCUT", "True", "TRAIN.BATCH_SIZE", "256", "MODEL.LAMBDA", "0.2,"]
    run = merge(Config, [{"TRAIN": {"KEEP": "last"}}], pairs)
    assert (run.model.name, run.model.shortcut, run.train.batch_size, run.model.lambda_) == (
        "sdnet18_all",
        True,
        256,
        (0.2,),
    )
