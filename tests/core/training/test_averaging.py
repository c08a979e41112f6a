"""The moving average of weights: its numbers, where it stands for the weights, and that it goes on to the same bits."""

import pytest
import torch
from torch import nn

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.interrupt import Interrupted
from stillpoint.core.runs.checkpoint import load_state, read_tensors
from stillpoint.core.runs.statuses import fill_at
from stillpoint.core.training.averaging import Average
from tests.core.tiny import Notes, build, configuration, loaders_of, run_in, trained
from tests.core.training.test_train_resume import StopAfter, assert_same_run

AVERAGED = ("TRAIN.EMA_DECAY", "0.8", "TRAIN.SNAPSHOTS", "1")


def test_it_is_the_weighted_sum_of_what_it_was_given():
    net = nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(5.0)
    average, want = Average(net, 0.3), 5.0
    for steps, value in enumerate((1.0, 2.0, -4.0, 8.0)):
        net.weight.data.fill_(value)
        average.update(steps)
        decay = min(0.3, (1 + steps) / (10 + steps))
        want = decay * want + (1 - decay) * value
    torch.testing.assert_close(average.state_dict()["weight"].item(), want)
    assert net.weight.item() == 8.0


def test_what_has_no_average_is_the_networks_own():
    net = nn.BatchNorm1d(2)
    net.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    average = Average(net, 0.5, {"mask"})
    net(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    average.update(0)
    found = average.state_dict()
    assert found["num_batches_tracked"] == 1
    torch.testing.assert_close(found["running_mean"], 0.9 * 0.1 * torch.tensor([2.0, 3.5]))
    assert found["mask"].tolist() == [0.0, -torch.inf]


def test_the_weights_come_back_even_after_an_error():
    net = nn.Linear(2, 2)
    trained_weight = net.weight.detach().clone()
    average = Average(net, 0.5)
    average.tensors[0].fill_(7.0)
    with pytest.raises(KeyError), average.in_network():
        assert (net.weight == 7).all()
        raise KeyError
    assert torch.equal(net.weight, trained_weight)
    assert (average.tensors[0] == 7).all()


def nets(root, *pairs, **options):
    """The network of a training as its last step left it, and its rows."""
    made, notes = [], Notes()

    def kept(config):
        made.append(build(config))
        return made[-1]

    trained(root, *pairs, network=kept, progress=notes, **options)
    return made[-1], notes.rows


def test_it_is_validated_and_kept_instead_of_the_weights(tmp_path):
    pairs = (*AVERAGED, "TRAIN.KEEP", "last")
    net, rows = nets(tmp_path, *pairs)
    run, config = run_in(tmp_path), configuration(*pairs)
    state, _ = load_state(run.state)
    saved, _ = read_tensors(run.weights)
    assert saved.keys() == state["average"].keys() == state["model"].keys()
    for name, tensor in saved.items():
        assert torch.equal(tensor, state["average"][name])
        assert torch.equal(state["model"][name], net.state_dict()[name])
    assert not torch.equal(saved["fc.weight"], state["model"]["fc.weight"])
    snapshot, _ = read_tensors(run.snapshot(3))
    assert torch.equal(snapshot["fc.weight"], saved["fc.weight"])
    other = build(config).eval()
    fill_at(other, run, config, "checkpoint")
    total = 0.0
    for _, images, labels, _ in loaders_of(config)(torch.device("cpu"), 0, 1).validation.epoch(0):
        total += nn.functional.cross_entropy(other(images), labels, reduction="sum").item()
    assert rows[-1]["val_loss"] == pytest.approx(total / 20, rel=1e-5)


def test_training_itself_does_not_see_it(tmp_path):
    plain, without = nets(tmp_path / "plain", "TRAIN.KEEP", "last")
    averaged, with_it = nets(tmp_path / "averaged", *AVERAGED, "TRAIN.KEEP", "last")
    assert all(
        torch.equal(a, b) for a, b in zip(plain.state_dict().values(), averaged.state_dict().values(), strict=True)
    )
    assert [row["train_loss"] for row in without] == [row["train_loss"] for row in with_it]
    assert without[-1]["val_loss"] != with_it[-1]["val_loss"]


@pytest.mark.parametrize("stops", [(2,), (7, 2), (4, 5)])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, stops):
    trained(tmp_path / "whole", *AVERAGED)
    for steps in stops:
        with pytest.raises(Interrupted):
            trained(tmp_path / "cut", *AVERAGED, progress=StopAfter(steps))
    trained(tmp_path / "cut", *AVERAGED)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_state_without_the_average_is_refused():
    average = Average(nn.Linear(2, 2), 0.5)
    with pytest.raises(UserError, match=r"state\.pt holds no average of this network's weights"):
        average.restore({"weight": torch.zeros(2, 2)}, origin="state.pt")
