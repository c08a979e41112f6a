"""Training on a network of 200 parameters: what it leaves, and each option against its definition."""

from functools import partial

import pytest
import torch
import yaml
from torch import nn

from stillpoint.core.base import bfloat16
from stillpoint.core.base.errors import UserError
from stillpoint.core.runs.checkpoint import load_state, load_weights, read_tensors, save_weights
from stillpoint.core.runs.records import read_history
from stillpoint.core.training import loop
from stillpoint.core.training.hooks import Moment, TrainHooks
from stillpoint.core.training.learner import Learner
from stillpoint.core.training.optim import ParameterGroup
from tests.core.tiny import Net, Notes, build, configuration, image_set, loaders_of, plain, run_in, trained

STEPS = 4


def test_a_run_leaves_its_results(tmp_path):
    progress = Notes()
    rows = trained(tmp_path, "TRAIN.SNAPSHOTS", "2", "TRAIN.EPOCHS", "5", progress=progress)
    run = run_in(tmp_path)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows == progress.rows == read_history(run.history)
    assert progress.steps == [(epoch, step) for epoch in range(1, 6) for step in range(1, STEPS + 1)]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] and rows[-1]["val_accuracy"] > 0.9
    assert run.history.read_text().splitlines()[0] == "epoch,lr,train_loss,train_accuracy,val_loss,val_accuracy"
    assert len(run.timing.read_text().splitlines()) == 6
    assert yaml.safe_load(run.config.read_text()) == configuration("TRAIN.SNAPSHOTS", "2", "TRAIN.EPOCHS", "5").dump()
    assert sorted(path.name for path in run.snapshot(2).parent.iterdir()) == [
        *("e2.pt", "e2.safetensors"),
        *("e4.pt", "e4.safetensors"),
    ]
    assert read_tensors(run.snapshot(4))[1]["epoch"] == 4
    about = yaml.safe_load(run.training.read_text())
    assert about["config_digest"] == configuration("TRAIN.SNAPSHOTS", "2", "TRAIN.EPOCHS", "5").digest()
    assert about["seed"] == 0 and about["epochs"] == 5 and about["peak_memory_bytes"] > 1e6
    assert "begins" in run.log.read_text() and "finished" in run.log.read_text()


def weights_of(root):
    return read_tensors(run_in(root).weights)[0]


def close(a, b, tolerance=1e-5):
    return all(torch.allclose(a[name], b[name], rtol=0, atol=tolerance) for name in a)


def test_accumulated_mini_batches_are_one_batch(tmp_path):
    # 64 images: whole batches only, as a mini-batch that is smaller weighs as much as the others
    for parts in (1, 4):
        config = configuration("TRAIN.ACCUMULATE", str(parts))
        trained(tmp_path / str(parts), config=config, network=plain, loaders=loaders_of(config, 64))
    assert close(weights_of(tmp_path / "1"), weights_of(tmp_path / "4"))
    losses = [[row["train_loss"] for row in read_history(run_in(tmp_path / name).history)] for name in ("1", "4")]
    assert losses[0] == pytest.approx(losses[1])


def test_the_authors_accumulation_sums(tmp_path):
    # a sum over 4 mini-batches is 4 times their mean: with plain gradient descent, that is 4 times the rate
    still = ("TRAIN.MOMENTUM", "0", "TRAIN.WEIGHT_DECAY", "0", "TRAIN.SCHEDULE", "constant")
    for name, pairs in (
        ("sum", ("TRAIN.ACCUMULATE", "4", "TRAIN.ACCUMULATE_LIKE_AUTHORS", "True", "TRAIN.LR", "0.02")),
        ("mean", ("TRAIN.ACCUMULATE", "4", "TRAIN.LR", "0.08")),
    ):
        config = configuration(*still, *pairs)
        trained(tmp_path / name, config=config, network=plain, loaders=loaders_of(config, 64))
    assert close(weights_of(tmp_path / "sum"), weights_of(tmp_path / "mean"))


def test_an_incomplete_group_of_mini_batches_is_left_out(tmp_path):
    # 50 images are 13 mini-batches of 4 and so 3 steps of 4
    progress = Notes()
    progress.on_step = lambda *_: progress.steps.append(_)
    rows = trained(tmp_path, "TRAIN.ACCUMULATE", "4", "TRAIN.EPOCHS", "1", progress=progress)
    assert len(progress.steps) == 3 and len(rows) == 1


def by_hand(config, *, clip=None, smoothing=0.0, penalty=None):
    """The same training in a few plain lines of torch."""
    net = plain(config)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9, weight_decay=5e-4)
    loader = loaders_of(config)(torch.device("cpu"), 0, 1).train
    for epoch in range(config.train.epochs):
        for _, images, labels, _ in loader.epoch(epoch):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images), labels, label_smoothing=smoothing)
            (loss + penalty(net) if penalty else loss).backward()
            if clip:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()
    return net.state_dict()


@pytest.mark.parametrize("option", ["none", "clip", "smoothing", "penalty"])
def test_training_is_the_textbook_loop(tmp_path, option):
    pairs = ["TRAIN.SCHEDULE", "constant", "TRAIN.KEEP", "last"]
    pairs += {"clip": ["TRAIN.CLIP_NORM", "0.3"], "smoothing": ["TRAIN.LABEL_SMOOTHING", "0.2"]}.get(option, [])
    config = configuration(*pairs)
    hooks = TrainHooks(penalty=lambda net: 0.1 * net.fc.weight.abs().sum()) if option == "penalty" else None
    trained(tmp_path, config=config, network=plain, hooks=hooks)
    expected = by_hand(
        config,
        clip=config.train.clip_norm,
        smoothing=config.train.label_smoothing,
        penalty=hooks.penalty if hooks else None,
    )
    assert close(weights_of(tmp_path), expected)
    if option != "none":
        assert not close(weights_of(tmp_path), by_hand(config))


def test_negative_log_likelihood_of_log_probabilities_is_cross_entropy(tmp_path):
    class LogNet(Net):
        def forward(self, x):
            return super().forward(x).log_softmax(1)

    def log_net(config):
        net = LogNet(norm=False, dropout=0.0)
        net.load_state_dict(plain(config).state_dict())
        return net

    trained(tmp_path / "nll", "TRAIN.LOSS", "nll", network=log_net)
    trained(tmp_path / "ce", network=plain)
    assert close(weights_of(tmp_path / "nll"), weights_of(tmp_path / "ce"))


def test_images_as_targets_are_learned_by_mean_square(tmp_path):
    def denoising(device, rank, world_size):
        found = loaders_of(configuration())(device, rank, world_size)
        for loader in (found.train, found.validation):
            ordinary = loader.epoch
            loader.epoch = lambda *place, ordinary=ordinary: (
                b._replace(labels=b.images * 0.5) for b in ordinary(*place)
            )
        return found

    rows = trained(
        *(tmp_path, "TRAIN.LOSS", "mse", "TRAIN.LR", "0.01"),
        network=lambda config: nn.Conv2d(1, 1, 3, padding=1),
        loaders=denoising,
    )
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] and rows[0]["train_accuracy"] is None
    assert ",," in run_in(tmp_path).history.read_text()
    with pytest.raises(UserError, match="mse needs targets of shape"):
        trained(tmp_path / "classes", "TRAIN.LOSS", "mse")


def test_of_equally_good_epochs_the_earlier_is_kept(tmp_path):
    rows = trained(tmp_path, "TRAIN.EPOCHS", "8")
    accuracies = [row["val_accuracy"] for row in rows]
    best = accuracies.index(max(accuracies)) + 1
    assert accuracies.count(max(accuracies)) > 1
    assert read_tensors(run_in(tmp_path).weights)[1]["epoch"] == best
    assert yaml.safe_load(run_in(tmp_path).training.read_text())["kept_epoch"] == best


def test_keeping_the_last_needs_no_validation(tmp_path):
    rows = trained(tmp_path, "TRAIN.KEEP", "last", "DATA.VALIDATION", "0")
    assert rows[-1]["val_accuracy"] is None
    state, _ = load_state(run_in(tmp_path).state)
    assert close(weights_of(tmp_path), state["model"], 0)


def test_no_epochs_leave_the_untrained_network(tmp_path):
    assert trained(tmp_path, "TRAIN.EPOCHS", "0") == []
    assert close(weights_of(tmp_path), build(configuration()).state_dict(), 0)


def test_fine_tuning_starts_from_the_weights_of_a_file(tmp_path):
    start = build(configuration("SEED", "5")).state_dict()
    save_weights(tmp_path / "w.safetensors", start, model="toy/other", config_digest="", epoch=1)
    pairs = ("TRAIN.FINETUNE", str(tmp_path / "w.safetensors"), "TRAIN.EPOCHS", "0")
    trained(tmp_path, *pairs)
    assert close(weights_of(tmp_path), start, 0)


def test_half_precision_trains_near_full_precision(tmp_path):
    rows = {
        precision: trained(tmp_path / precision, "TRAIN.PRECISION", precision, network=plain)
        for precision in ("float32", "bfloat16")
    }
    assert rows["bfloat16"] != rows["float32"]
    assert rows["bfloat16"][-1]["train_loss"] == pytest.approx(rows["float32"][-1]["train_loss"], abs=0.05)
    assert all(tensor.dtype == torch.float32 for tensor in weights_of(tmp_path / "bfloat16").values())


def test_a_compiled_network_trains_validates_and_is_saved_as_itself(tmp_path, monkeypatch):
    # traced as for any backend, but run by torch's own kernels: so the numbers are the same
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    assert trained(tmp_path / "c", "TRAIN.COMPILE", "True", network=plain) == trained(tmp_path / "p", network=plain)
    assert close(weights_of(tmp_path / "c"), weights_of(tmp_path / "p"), 0)


def test_the_hook_before_a_forward_is_called_in_training_and_in_validation(tmp_path):
    modes = []
    hooks = TrainHooks(before_forward=lambda net: modes.append((net.training, torch.is_grad_enabled())))
    trained(tmp_path, "TRAIN.EPOCHS", "1", hooks=hooks)
    assert modes == [(True, False)] * STEPS + [(False, False)] * 2


@pytest.mark.parametrize(
    "pairs, sentence",
    [
        (["TRAIN.LOSS", "nll", "TRAIN.LABEL_SMOOTHING", "0.1"], "needs TRAIN.LOSS cross_entropy"),
        (["TRAIN.NESTEROV", "True", "TRAIN.MOMENTUM", "0"], "TRAIN.NESTEROV needs a TRAIN.MOMENTUM"),
        (["TRAIN.ACCUMULATE", "16", "TRAIN.BATCH_SIZE", "256"], "exceeds the 4 batches"),
        (["TRAIN.FINETUNE", "nowhere.pt"], "no weights at nowhere.pt"),
        (["TRAIN.WHITEN", "20"], "TRAIN.WHITEN 20: toy/net has no first layer that can be fitted to images"),
    ],
)
def test_impossible_recipes_are_refused_before_anything_is_written(tmp_path, pairs, sentence):
    with pytest.raises(UserError, match=sentence):
        trained(tmp_path, *pairs)
    assert {path.name for path in run_in(tmp_path).folder.iterdir()} <= {".lock"}


def test_torchs_settings_and_random_numbers_are_put_back(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    trained(tmp_path, threads=1)
    assert torch.equal(torch.rand(2), expected)
    assert (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()) == before


def test_the_weights_load_into_the_network(tmp_path):
    trained(tmp_path)
    net = build(configuration())
    assert load_weights(net, run_in(tmp_path).weights, model="toy/net")["dataset"] == "digits"
    held_out = image_set(20, 1)
    net.eval()
    with torch.no_grad():
        output = net((held_out.images / 255 - 0.3) / 0.2)
    best = max(row["val_accuracy"] for row in read_history(run_in(tmp_path).history))
    assert (output.argmax(1) == held_out.labels).float().mean().item() == pytest.approx(best)


def test_the_hook_before_a_step_knows_where_training_stands_and_may_draw(tmp_path):
    moments, draws = [], []

    def before_step(net: nn.Module, at: Moment) -> None:
        assert net.training and not torch.is_grad_enabled()
        moments.append(at)
        draws.append(torch.rand(()).item())

    hooks = TrainHooks(before_step=before_step)
    trained(tmp_path / "a", "TRAIN.EPOCHS", "2", hooks=hooks)
    assert moments == [Moment(epoch, step, 2, STEPS) for epoch in range(2) for step in range(STEPS)]
    assert len(set(draws)) == len(draws)
    first, draws[:] = list(draws), []
    trained(tmp_path / "b", "TRAIN.EPOCHS", "2", hooks=hooks)
    assert draws == first


def test_the_hook_of_groups_gives_parameters_a_rate_of_their_own(tmp_path):
    hooks = TrainHooks(groups=lambda net: [ParameterGroup(list(net.fc.parameters()), lr_factor=0.0)])
    config = configuration("TRAIN.EPOCHS", "1")
    trained(tmp_path, "TRAIN.EPOCHS", "1", hooks=hooks)
    before, after = build(config).state_dict(), weights_of(tmp_path)
    assert torch.equal(after["fc.weight"], before["fc.weight"])
    assert not torch.equal(after["conv.weight"], before["conv.weight"])


def test_fine_tuning_with_a_new_head_takes_weights_of_other_classes(tmp_path):
    config = configuration("TRAIN.EPOCHS", "0")
    other = Net()
    other.fc = nn.Linear(4 * 16, 7)
    path = tmp_path / "other.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in other.state_dict().items()}}, path)
    pairs = ("TRAIN.EPOCHS", "0", "TRAIN.FINETUNE", str(path))
    with pytest.raises(UserError, match=r"of another shape fc\.weight \(7, 64\) instead of \(3, 64\)"):
        trained(tmp_path / "same", *pairs)
    trained(tmp_path / "new", *pairs, "TRAIN.FINETUNE_HEAD", "new")
    found = weights_of(tmp_path / "new")
    assert torch.equal(found["conv.weight"], other.conv.weight)
    assert torch.equal(found["fc.weight"], build(config).fc.weight)
    # a file without any head, and one whose head has another form
    for name in ("fc.weight", "fc.bias"):
        state = other.state_dict()
        state["fc.0.weight"] = state.pop(name)
        torch.save(state, path)
        trained(tmp_path / name, *pairs, "TRAIN.FINETUNE_HEAD", "new")
    with pytest.raises(UserError, match=r"set TRAIN\.FINETUNE"):
        configuration("TRAIN.FINETUNE_HEAD", "new")


@pytest.mark.parametrize("ratio", [9.0, 0.5])
def test_a_slow_precision_is_told_once_and_kept(tmp_path, monkeypatch, ratio):
    monkeypatch.setattr(bfloat16, "speeds", lambda: bfloat16.Speeds(ratio, 1.0))
    progress = Notes()
    trained(tmp_path, "TRAIN.PRECISION", "bfloat16", progress=progress)
    advised = [sentence for sentence in progress.notes if "TRAIN.PRECISION float32" in sentence]
    assert len(advised) == (ratio > 1) and run_in(tmp_path).log.read_text().count("9.0 times as long") == len(advised)
    assert "PRECISION: bfloat16" in run_in(tmp_path).config.read_text()


def test_the_speed_leaves_out_the_first_step_which_compiles(tmp_path, monkeypatch):
    seen, clock = [], [0.0]
    real = Learner.step

    def step(*given):
        clock[0] += 100 if not seen else 1
        return real(*given)

    class Speed(Notes):
        def on_step(self, epoch, step, steps, loss, images_per_second):
            seen.append(images_per_second)

    monkeypatch.setattr(Learner, "step", step)
    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock[0])
    trained(tmp_path, progress=Speed())
    # batches of 16, 16, 16 and 2 images
    assert seen[:5] == pytest.approx([0.16, 16, 16, 34 / 3, 16])
