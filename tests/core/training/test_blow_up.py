"""What becomes infinite after the last loss was looked at is never saved, and the sentence says where it happened."""

import math

import pytest
import torch
from torch import nn

from stillpoint.core.base.errors import UserError
from stillpoint.core.runs.checkpoint import fill, load_state, load_weights, not_finite, save_weights
from stillpoint.core.training.train import TrainHooks
from tests.core.tiny import Net, build, configuration, loaders_of, run_in, trained


class Explodes:
    """A record that spoils the gradients of one update."""

    def __init__(self, at: int, value: float) -> None:
        self.at, self.value, self.updates = at, value, 0

    def update(self, net: nn.Module) -> None:
        self.updates += 1
        if self.updates == self.at:
            net.fc.weight.grad.fill_(self.value)

    def state(self) -> dict[str, torch.Tensor]:
        return {"updates": torch.tensor(self.updates)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.updates = int(state["updates"])


def blown_up(tmp_path, *pairs: str, at: int = 12, value: float = math.inf, said: str) -> None:
    run = run_in(tmp_path)
    with pytest.raises(UserError, match=said) as error:
        trained(tmp_path, *pairs, hooks=TrainHooks(record=Explodes(at, value)))
    assert "\n" not in str(error.value) and "last good state is kept" in str(error.value)
    assert not run.weights.exists() and not run.training.exists()
    state, sentence = load_state(run.state)
    assert sentence is None and (state["epoch"], state["step"]) == ((at - 1) // 4, 0)
    assert not not_finite(state["model"])
    assert not list(run.snapshot(1).parent.glob(f"e{state['epoch'] + 1}.*"))


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_blow_up_in_the_last_step_is_not_saved_as_finished(tmp_path, value: float) -> None:
    said = r"1 of \d+ tensors .*fc\.weight.* became infinite in epoch 3 at step 4 of 4|\d of \d+ tensors .*fc\.weight"
    blown_up(tmp_path, "TRAIN.SNAPSHOTS", "1", value=value, said=said)


def test_a_blow_up_in_the_last_step_of_any_epoch_is_not_saved(tmp_path) -> None:
    blown_up(tmp_path, at=8, said="in epoch 2 at step 4 of 4")


def test_moments_that_overflow_are_not_saved(tmp_path) -> None:
    """Adam's second moment is then infinite for ever, and its parameter never moves again, though it is finite."""
    blown_up(tmp_path, "TRAIN.OPTIMIZER", "adam", value=1e30, said=r"optimiser's exp_avg_sq of parameter \d")


class InfiniteInEvaluation(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if self.training else super().forward(x) / 0.0


def test_a_validation_loss_that_is_not_finite_stops(tmp_path) -> None:
    with pytest.raises(UserError, match="the validation loss became nan in epoch 1 at step 4 of 4"):
        trained(tmp_path, network=lambda config: InfiniteInEvaluation())
    assert not run_in(tmp_path).weights.exists() and not run_in(tmp_path).history.exists()


class Masked(Net):
    """Has a buffer that is infinite by intention."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))


def test_what_a_network_makes_infinite_itself_is_no_blow_up(tmp_path) -> None:
    trained(tmp_path, network=lambda config: Masked())
    load_weights(Masked(), run_in(tmp_path).weights)


def test_weights_that_are_not_finite_are_not_loaded(tmp_path) -> None:
    net = build(configuration())
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state["fc.weight"][0, 0] = math.nan
    save_weights(tmp_path / "w.safetensors", state, model="toy/net", config_digest="", epoch=1)
    with pytest.raises(UserError, match=r"w\.safetensors.* not finite, in fc\.weight"):
        load_weights(net, tmp_path / "w.safetensors")
    state["fc.weight"][0, 0] = 0
    state["bn.running_var"][1] = math.inf
    with pytest.raises(UserError, match=r"not finite, in bn\.running_var"):
        fill(net, state, origin="it")


def test_a_rate_that_is_too_large_is_told_and_the_run_goes_on_with_another(tmp_path) -> None:
    config = configuration("TRAIN.LR", "1e38", "TRAIN.SCHEDULE", "constant")
    with pytest.raises(UserError, match=r"a smaller TRAIN.LR"):
        trained(tmp_path, config=config, loaders=loaders_of(config))
    assert not run_in(tmp_path).weights.exists()
