from pathlib import Path

import pytest
import torch

from stillpoint.core.layers import PolyphaseDownsample2d
from tests.parity import parity
from tests.parity.adapters import aps


def scores(*gaps: float) -> torch.Tensor:
    """One image for each gap; phase 2 is the best, phase 1 is behind by the gap, the others by far."""
    return torch.tensor([[0.5, 1 - gap, 1.0, 0.1] for gap in gaps], dtype=torch.float64)


def test_a_recorded_phase_stands_only_where_it_is_a_tie_with_the_best() -> None:
    recorded = torch.tensor([1, 1, 2, 0])
    assert aps.settled(scores(1e-7, 1e-4, 1e-7, 1e-7), recorded).tolist() == [1, 2, 2, 2]


def test_scores_are_such_that_the_largest_is_chosen_also_of_the_least_norm() -> None:
    x = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    layer = PolyphaseDownsample2d(criterion="l2_min")
    assert torch.equal(aps.settled(layer.scores(x), layer.choose(x)), layer.choose(x))
    worst = layer.scores(x).argmin(1)
    assert torch.equal(aps.settled(layer.scores(x), worst), layer.choose(x))


@pytest.mark.parametrize(
    ("name", "kwargs", "settings"),
    [
        (
            "resnet50_aps",
            {"apspool_criterion": "l1min", "conv_pad_type": "reflect"},
            ("resnet50", "cifar", 4, "l1_min"),
        ),
        ("resnext50_32x4d_lpf5", {"pool_only": True}, ("resnext50_32x4d", "imagenet", 5, None)),
        ("resnet18_aps7", {"apspool_criterion": "non_abs_max"}, ("resnet18", "imagenet", 7, "max")),
        ("UNet_3down_lpf", {"in_channels": 1, "inner_channels_list": [4, 8, 16, 32]}, ("unet3", "auto", 3, None)),
    ],
)
def test_names_and_keywords_of_the_authors(name: str, kwargs: dict, settings: tuple) -> None:
    model = aps.model({"model": name, "kwargs": kwargs})
    assert (model.arch, model.form, model.filter_size, model.criterion) == settings


@pytest.mark.parametrize(("name", "kwargs"), [("vgg16_aps", {}), ("resnet18_aps", {"dropout": 0.5})])
def test_an_unknown_case_is_a_key_error(name: str, kwargs: dict) -> None:
    with pytest.raises(KeyError):
        aps.model({"model": name, "kwargs": kwargs})


def test_two_training_steps_are_those_of_float64_or_of_the_reference_which_is_as_far_from_them_as_said() -> None:
    # a rectifier's input of rounding's size falls on either side of zero, by the processor
    path = Path(__file__).parent / "cases" / "aps" / "train_resnet20_aps_f2.json.gz"
    case = parity.load(path)
    ours = aps.run(case)
    double = {
        part: {name: value.double() if value.is_floating_point() else value for name, value in case[part].items()}
        for part in ("state", "inputs")
    }
    torch.set_default_dtype(torch.float64)
    try:
        exact = aps.run({**case, **double})
    finally:
        torch.set_default_dtype(torch.float32)
    for name, stated in case["outputs"].items():
        near = min(parity.error(ours[name], exact[name]), parity.error(ours[name], stated))
        assert near < max(2e-5, 0.1 * aps.ROUNDING.get(name, 0.0)), name
    for name, distance in aps.ROUNDING.items():
        assert 0.9 * distance < parity.error(exact[name], case["outputs"][name]) < distance
