"""Names of the authors' checkpoints: what the parity cases do not show, namely the refusals and the wrappers."""

import pytest
import torch

from stillpoint.core.base.errors import UserError
from stillpoint.core.runs.checkpoint import fill
from stillpoint.pipelines.wavelet_twins.models import first_layer, network
from stillpoint.pipelines.wavelet_twins.weights import authors_paths, from_authors
from tests.parity import parity
from tests.parity.test_parity import HERE


@pytest.fixture(scope="module")
def case() -> dict:
    return parity.load(HERE / "wavelet_twins" / "first_dtcwpt_resnet_Ft40YEx_32.json.gz")


@pytest.fixture
def layer():
    return first_layer("dtcwpt_resnet18", "Ft40YEx")


def test_wrappers_are_taken_off(case: dict, layer) -> None:
    wrapped = {"net": {f"module.{name}": tensor for name, tensor in case["state"].items()}, "optimizer": {}}
    plain, unwrapped = from_authors(case["state"], layer), from_authors(wrapped, layer)
    assert plain.keys() == unwrapped.keys() == layer.state_dict().keys()
    assert all(torch.equal(plain[key], unwrapped[key]) for key in plain)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"wptblock.featmapmix.0.weight": None}, "missing wptblock.featmapmix.0.weight"),
        ({"wptblock.extra": torch.zeros(1)}, "unexpected wptblock.extra"),
        ({"wptblock.wpt._hfilters": torch.zeros(2, 10)}, "wptblock.wpt._hfilters holds another filter"),
        (
            {"freeconv.weight": torch.zeros(32, 3, 7, 7)},
            r"of another shape free.weight \(32, 3, 7, 7\) instead of \(40, 3",
        ),
    ],
)
def test_another_networks_state_is_refused(case: dict, layer, change: dict, sentence: str) -> None:
    state = {**case["state"], **change}
    with pytest.raises(UserError, match=sentence):
        found = from_authors({name: tensor for name, tensor in state.items() if tensor is not None}, layer)
        fill(layer, found, origin="theirs")


def test_filters_need_not_be_stored(case: dict, layer) -> None:
    state = {name: tensor for name, tensor in case["state"].items() if "filters" not in name}
    assert from_authors(state, layer).keys() == layer.state_dict().keys()


def test_only_known_networks_have_authors_names() -> None:
    with pytest.raises(ValueError, match="the authors' checkpoints are not known for Linear"):
        authors_paths(torch.nn.Linear(1, 1))


def test_no_filter_is_saved_in_ours() -> None:
    names = network("dtcwpt_zhang_resnet18", "Ft40YBf3Ex_mod").state_dict()
    assert not [name for name in names if "filt" in name or "kernel" in name or "vertical" in name]
