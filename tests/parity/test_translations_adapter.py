"""No case of the notebook's networks was recorded, so its adapter is held against their definition written out."""

import pytest
import torch
import torch.nn.functional as F

from tests.parity import parity
from tests.parity.adapters import translations

SHAPES = {
    "TwoFullNet": {"fc1.weight": (100, 3136), "fc1.bias": (100,), "fc2.weight": (10, 100), "fc2.bias": (10,)},
    "TwoConvTwoFullNet": {
        "conv1.weight": (30, 1, 5, 5),
        "conv1.bias": (30,),
        "conv2.weight": (30, 5, 5, 5),
        "conv2.bias": (30,),
        "fc1.weight": (100, 3630),
        "fc1.bias": (100,),
        "fc2.weight": (10, 100),
        "fc2.bias": (10,),
    },
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_adapter_computes_what_the_notebook_defines(name: str) -> None:
    state = {key: parity.tensor_for(key, list(shape)) for key, shape in SHAPES[name].items()}
    x = hidden = parity.input_for("x", [2, 1, 56, 56])
    if name == "TwoConvTwoFullNet":
        hidden = F.max_pool2d(F.relu(F.conv2d(hidden, state["conv1.weight"], state["conv1.bias"])), 2)
        hidden = F.max_pool2d(F.relu(F.conv2d(hidden, state["conv2.weight"], state["conv2.bias"], groups=6)), 2)
    hidden = F.relu(F.linear(hidden.flatten(1), state["fc1.weight"], state["fc1.bias"]))
    wanted = F.log_softmax(F.linear(hidden, state["fc2.weight"], state["fc2.bias"]), 1)
    case = {"model": name, "kwargs": {}, "state": state, "inputs": {"x": x}, "outputs": {"out": wanted}}
    assert parity.error(translations.run(case)["out"], wanted) < 1e-5


def test_another_network_is_no_case_of_ours() -> None:
    case = {"model": "ThreeFullNet", "kwargs": {}, "inputs": {"x": torch.zeros(1, 1, 56, 56)}, "outputs": {"out": None}}
    with pytest.raises(KeyError):
        translations.run({**case, "state": {"fc2.weight": torch.zeros(10, 100)}})
