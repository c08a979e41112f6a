from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.parity import parity
from tests.parity.adapters import sdnet

CASES = sorted((Path(__file__).parent / "cases" / "sdnet").glob("sdnet*_train.json.gz"))


def test_there_are_training_steps() -> None:
    assert CASES and all("loss" in parity.load(path)["outputs"] for path in CASES)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
def test_a_step_is_that_of_float64_on_the_same_sides_of_the_relus(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = parity.load(path)
    sides: list[Tensor] = []
    inputs: list[Tensor] = []

    def seen(self: nn.ReLU, x: Tensor) -> Tensor:
        sides.append(x.detach() > 0)
        return x.relu()

    def sided(self: nn.ReLU, x: Tensor) -> Tensor:
        inputs.append(x.detach())
        return torch.where(sides[len(inputs) - 1], x, torch.zeros_like(x))

    monkeypatch.setattr(nn.ReLU, "forward", seen)
    ours = sdnet.training(case, torch.float32)
    monkeypatch.setattr(nn.ReLU, "forward", sided)
    exact = sdnet.training(case, torch.float64)
    assert len(sides) == len(inputs) > 10
    # the sides are those of float64 but for inputs that rounding may move across zero
    for side, x in zip(sides, inputs, strict=True):
        assert float(x[side != (x > 0)].abs().sum()) < 1e-5 * float(x.abs().max())
    assert ours["grad_x"].dtype == torch.float32 and exact["grad_x"].dtype == torch.float64
    assert max(parity.error(ours[name], exact[name]) for name in case["outputs"]) < 2e-5
    monkeypatch.undo()
    # and on the sides that float64 finds, the reference's numbers are those
    own = sdnet.run(case)
    assert max(parity.error(own[name], want) for name, want in case["outputs"].items()) < 2e-5
