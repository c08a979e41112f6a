"""The paper's networks by name, their laws, and the authors' weights."""

import pytest
import torch

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.data.shifts import fourier_shift
from stillpoint.core.layers import band_limit2d
from stillpoint.pipelines.alias_free.weights import from_authors


def built(name: str, *pairs: str, dataset: str = "digits") -> torch.nn.Module:
    return pipelines.build(pipelines.without_recipe(f"alias_free/{name}", dataset, [*pairs]))


def change(net: torch.nn.Module, x: torch.Tensor, shift: tuple[float, float]) -> float:
    net = net.double().eval()
    with torch.no_grad():
        before, after = net(x), net(fourier_shift(x, shift))
    return float(((after - before).norm(dim=1) / before.norm(dim=1)).max())


@pytest.mark.parametrize("name", ["convnext_nano", "convnext_mini"])
@pytest.mark.parametrize(
    ("suffix", "whole", "half"),
    [("_afc", True, True), ("_afc_nostem", True, True), ("_aps", True, False), ("_base", False, False)],
)
def test_which_network_stands_which_shift(name: str, suffix: str, whole: bool, half: bool) -> None:
    net = built(name + suffix, "MODEL.LAYER_SCALE", "1.0", "MODEL.SCALE", "1.0")
    for parameter in net.parameters():
        if parameter.ndim == 4:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    if name == "convnext_mini":
        # its stem does not stride and so has no filter that takes the highest frequency, which no half pixel keeps
        x = band_limit2d(x, cutoff=0.99)
    assert (change(net, x, (3, -2)) < 1e-12) == whole
    assert (change(net, x, (0.5, 0.5)) < 1e-12) == half
    assert (change(net, x, (0.25, 0.75)) < 1e-12) == half


def test_resampling_around_the_block_is_the_same_function() -> None:
    cheap = built("convnext_nano_afc", "MODEL.LAYER_SCALE", "1.0").double().eval()
    dear = built("convnext_nano_afc", "MODEL.LAYER_SCALE", "1.0", "MODEL.RESAMPLE", "block").double().eval()
    dear.load_state_dict(cheap.state_dict())
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(dear(x), cheap(x))


def test_an_alias_free_activation_and_norm_are_one_line_in_another_papers_network() -> None:
    config = pipelines.without_recipe(
        "aps/resnet20_aps1", "cifar10", ["MODEL.ACTIVATION", "polynomial", "MODEL.NORM", "alias_free"]
    )
    names = {type(module).__name__ for module in pipelines.build(config).modules()}
    assert {"PolynomialActivation2d", "ChannelNorm2d"} <= names and not names & {"ReLU", "BatchNorm2d"}


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["MODEL.RESAMPLE", "block", "MODEL.ACTIVATION", "gelu"], "RESAMPLE block needs MODEL.ACTIVATION polynomial"),
        (["MODEL.STEM_ACTIVATION", "none", "MODEL.STEM_CUTOFF", "0.5"], "STEM_CUTOFF needs a"),
        (["MODEL.STEM_STEPS", "2", "MODEL.STEM_STRIDE", "2"], "STEM_STEPS 2 needs MODEL.STEM_STRIDE 4, not 2"),
        (["DATA.IMAGE_SIZE", "30"], "needs images whose sides are multiples of its total stride, 4, not 30 pixels"),
    ],
)
def test_what_cannot_be_is_refused(pairs: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        built("convnext_nano_afc", *pairs)
    assert built("convnext_nano_afc", "DATA.IMAGE_SIZE", "30", "MODEL.ANY_SIZE", "True")


def test_the_authors_weights_are_recognised_and_others_are_refused() -> None:
    net = built("convnext_tiny_base", "MODEL.WIDTH", "0.0833", dataset="imagenet")
    theirs = {}
    for key, tensor in net.state_dict().items():
        linear = "pwconv" in key and key.endswith("weight")
        name = key.replace("fc.", "head.").replace(".dwconv.", ".dwconv.1.").replace(".pwconv", ".mlp.pwconv")
        parts = name.split(".")
        if name.startswith("downsample_layers"):
            stage, place, leaf = int(parts[1]), int(parts[2]), parts[3]
            convolution = (place == 0) == (stage == 0)
            inner = ("0.1" if stage == 0 else "1.1") if convolution else ("2" if stage == 0 else "0")
            name = f"downsample_layers.{stage}.{inner}.{leaf}"
        theirs[name] = tensor.flatten(1) if linear else tensor
    theirs["downsample_layers.0.1.filt.filt"] = torch.ones(8, 1, 1, 1)
    found = from_authors(theirs, net)
    assert all(torch.equal(found[key], tensor) for key, tensor in net.state_dict().items())
    with pytest.raises(UserError, match=r"it has no place for extra\.weight"):
        from_authors({**theirs, "extra.weight": torch.ones(1)}, net)
    with pytest.raises(UserError, match=r"it has no fc\.bias"):
        from_authors({key: tensor for key, tensor in theirs.items() if key != "head.bias"}, net)
    with pytest.raises(UserError, match=r"head\.bias has the shape"):
        from_authors(theirs | {"head.bias": torch.ones(3)}, net)
