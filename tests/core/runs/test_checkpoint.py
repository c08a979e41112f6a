"""Weights and states: what was written comes back; whatever was torn, changed or foreign is refused in a sentence."""

import os
import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.runs.checkpoint import load_state, load_weights, previous, read_tensors, save_state, save_weights
from stillpoint.core.runs.layout import Run
from stillpoint.core.runs.statuses import fill_at, kept_epoch, statuses


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def write(path: Path, module: nn.Module, model: str = "aps/resnet20_aps1") -> None:
    save_weights(path, module.state_dict(), model=model, config_digest="c0ffee", epoch=7, dataset="digits")


class Hostile:
    """Unpickled without care, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def faults(content: bytes, step: int):
    """`content` truncated at many places, and with one bit of many bytes flipped."""
    for offset in range(0, len(content), step):
        yield content[:offset]
        yield content[:offset] + bytes([content[offset] ^ 0x10]) + content[offset + 1 :]


def test_weights_come_back_with_what_they_are(tmp_path):
    written, read = net(), net()
    written[1].running_var.fill_(3)
    write(tmp_path / "w.safetensors", written)
    metadata = load_weights(read, tmp_path / "w.safetensors", model="aps/resnet20_aps1")
    assert all(
        torch.equal(a, b) for a, b in zip(written.state_dict().values(), read.state_dict().values(), strict=True)
    )
    assert metadata == {
        **{"model": "aps/resnet20_aps1", "config_digest": "c0ffee", "epoch": 7, "dataset": "digits"},
        "format": 1,
    }


def test_the_same_weights_make_the_same_bytes(tmp_path):
    module = net().to(memory_format=torch.channels_last)
    write(tmp_path / "a.safetensors", module)
    write(tmp_path / "b.safetensors", module)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_weights_can_be_read_by_others_of_the_machine(tmp_path):
    write(tmp_path / "w.safetensors", net())
    (tmp_path / "ordinary").touch()
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_half_precision_and_scalars_come_back(tmp_path):
    tensors = {"half": torch.randn(3).bfloat16(), "count": torch.tensor(5), "empty": torch.zeros(0, 2)}
    save_weights(tmp_path / "w.safetensors", tensors, model="a/b", config_digest="", epoch=0)
    read, _ = read_tensors(tmp_path / "w.safetensors")
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_weights_of_another_network_are_refused_even_where_they_fit(tmp_path):
    write(tmp_path / "w.safetensors", net())
    with pytest.raises(UserError, match="holds the weights of aps/resnet20_aps1, not of aps/resnet20_lpf3"):
        load_weights(net(), tmp_path / "w.safetensors", model="aps/resnet20_lpf3")


def test_what_does_not_fit_is_named_and_nothing_is_loaded(tmp_path):
    write(tmp_path / "w.safetensors", nn.Sequential(nn.Conv2d(1, 2, 5), nn.Linear(1, 1)))
    target = net()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(target, tmp_path / "w.safetensors")
    sentence = str(caught.value)
    assert "missing 1.running_mean, 1.running_var" in sentence
    assert "0.weight (2, 1, 5, 5) instead of (2, 1, 3, 3)" in sentence
    assert "aps/resnet20_aps1" in sentence
    assert all(torch.equal(before[name], tensor) for name, tensor in target.state_dict().items())


@pytest.mark.parametrize(
    ("weight", "told"),
    [
        (torch.ones(2, 1, 3, 3).to_sparse(), r"not plain numbers 0.weight \(sparse\)"),
        (torch.ones(2, 1, 3, 3, device="meta"), r"not plain numbers 0.weight \(without its numbers\)"),
        (torch.ones(2, 1, 3, 3, dtype=torch.complex64), r"not plain numbers 0.weight \(complex\)"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), r"\(float4_e2m1fn_x2\)"),
        (torch.full((2, 1, 3, 3), 1e300, dtype=torch.float64), "not finite, in 0.weight"),  # infinite in float32
    ],
)
def test_numbers_that_the_network_cannot_hold_are_refused_and_nothing_is_loaded(tmp_path, weight, told):
    target = net()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    torch.save({**net().state_dict(), "0.weight": weight}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=told):
        load_weights(target, tmp_path / "w.pt")
    assert all(torch.equal(before[name], tensor) for name, tensor in target.state_dict().items())


def test_damaged_weights_are_refused_or_what_was_written(tmp_path):
    original = net()
    write(tmp_path / "w.safetensors", original)
    expected, content = original.state_dict(), (tmp_path / "w.safetensors").read_bytes()
    damaged, refused = tmp_path / "d.safetensors", 0
    for fault in faults(content, 7):
        damaged.write_bytes(fault)
        read = net()
        try:
            load_weights(read, damaged)
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert all(torch.equal(expected[name], tensor) for name, tensor in read.state_dict().items())
    # only a flip within the metadata's own key can pass, and leaves the tensors as they were
    assert refused >= 2 * len(range(0, len(content), 7)) - len("stillpoint")


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\x89PNG\r\n\x1a\n0000000", b"PK\x03\x04 nothing", b"\x80\x02 nothing"]
)
def test_foreign_files_are_refused_in_a_sentence(tmp_path, content):
    (tmp_path / "foreign").write_bytes(content)
    with pytest.raises(UserError, match="foreign") as caught:
        load_weights(net(), tmp_path / "foreign")
    assert "\n" not in str(caught.value)


def test_absent_weights_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no weights at .*nowhere"):
        load_weights(net(), tmp_path / "nowhere")


def test_safetensors_of_others_load(tmp_path):
    original, read = net(), net()
    save_file(original.state_dict(), tmp_path / "w.safetensors")
    assert load_weights(read, tmp_path / "w.safetensors", model="aps/resnet20_aps1") == {}
    assert torch.equal(original[0].weight, read[0].weight)


@pytest.mark.parametrize(
    "about", ["[]", "null", "3", '"text"', "{", "[" * 100_000, '{"epoch": NaN}', '{"epoch": "7"}', "{}"]
)
def test_metadata_of_another_kind_is_refused_in_a_sentence(tmp_path, about):
    """Of ours they are a dictionary with a digest; anything else under the same name was a traceback."""
    save_file(net().state_dict(), tmp_path / "w.safetensors", {"stillpoint": about})
    with pytest.raises(UserError, match=r"w\.safetensors") as caught:
        load_weights(net(), tmp_path / "w.safetensors")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "names", [{0: "conv"}, {(1, 2): "a"}, {None: "b"}, {b"conv": "c"}, {0: "a", "conv.weight": "b"}], ids=str
)
def test_names_that_are_no_text_are_refused_in_a_sentence(tmp_path, names):
    torch.save(dict.fromkeys(names, torch.ones(1)), tmp_path / "w.pth")
    with pytest.raises(UserError, match="not text") as caught:
        load_weights(net(), tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def test_weights_that_no_run_left_have_no_epoch(tmp_path):
    run = Run("aps", "digits", "resnet20_aps1", 0, tmp_path)
    run.folder.mkdir(parents=True)
    save_file(net().state_dict(), run.weights)
    with pytest.raises(UserError, match="does not name its epoch, so no run wrote it"):
        fill_at(net(), run, RunConfig(), "weights")
    assert kept_epoch(run) is None and "e" not in statuses(run).split(", ")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "net"])
def test_torch_checkpoints_load_without_their_wrappers(tmp_path, wrapper, legacy):
    original, read = net(), net()
    state = {f"module.{name}": tensor for name, tensor in original.state_dict().items()}
    content = {wrapper: state, "epoch": 3} if wrapper else state
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    load_weights(read, tmp_path / "w.pth")
    assert torch.equal(original[0].weight, read[0].weight)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_something_does_not(tmp_path, legacy):
    trap, path = tmp_path / "trap", tmp_path / "w.pth"
    torch.save({"state_dict": Hostile(trap)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match="refused"):
        load_weights(net(), path)
    path.write_bytes(pickle.dumps(Hostile(trap), protocol=2))
    with pytest.raises(UserError, match="refused"):
        read_tensors(path)
    assert not trap.exists()


def a_state(epoch: int) -> dict:
    random = torch.Generator().manual_seed(epoch)
    return {"epoch": epoch, "model": {"w": torch.randn(4, 3, 2, 2, generator=random)}, "rows": [{"a": 0.1, "b": None}]}


def same(a: dict, b: dict) -> bool:
    return a["epoch"] == b["epoch"] and torch.equal(a["model"]["w"], b["model"]["w"]) and a["rows"] == b["rows"]


def test_a_state_comes_back_and_the_one_before_it_is_kept(tmp_path):
    path = tmp_path / "state.pt"
    assert load_state(path) == (None, None)
    for epoch in (1, 2, 3):
        save_state(path, a_state(epoch))
    state, sentence = load_state(path)
    assert same(state, a_state(3)) and sentence is None
    assert same(load_state(previous(path))[0], a_state(2))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state.previous.pt", "state.pt"]


def test_a_state_is_a_torch_file_that_others_can_read(tmp_path):
    save_state(tmp_path / "state.pt", a_state(1))
    assert same(torch.load(tmp_path / "state.pt", weights_only=True), a_state(1))


def test_memory_formats_survive(tmp_path):
    weight = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    save_state(tmp_path / "state.pt", {"w": weight})
    assert load_state(tmp_path / "state.pt")[0]["w"].stride() == weight.stride()


def test_a_damaged_state_is_never_used(tmp_path):
    path = tmp_path / "state.pt"
    save_state(path, a_state(1))
    save_state(path, a_state(2))
    good, content = previous(path).read_bytes(), path.read_bytes()
    tried = 0
    for fault in faults(content, len(content) // 60):
        path.write_bytes(fault)
        previous(path).write_bytes(good)
        state, sentence = load_state(path)
        assert same(state, a_state(1)) and "previous state is used" in sentence
        tried += 1
    assert tried > 100


def test_after_a_recovery_the_damaged_state_is_gone(tmp_path):
    path = tmp_path / "state.pt"
    save_state(path, a_state(1))
    save_state(path, a_state(2))
    path.write_bytes(path.read_bytes()[:-1])
    load_state(path)
    save_state(path, a_state(3))
    assert same(load_state(path)[0], a_state(3))
    assert same(load_state(previous(path))[0], a_state(1))


def test_a_process_killed_between_two_renames_leaves_the_previous_state(tmp_path):
    path = tmp_path / "state.pt"
    save_state(path, a_state(1))
    path.rename(previous(path))
    state, sentence = load_state(path)
    assert same(state, a_state(1)) and "missing" in sentence


def test_without_any_whole_state_the_run_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    path.write_bytes(b"torn")
    with pytest.raises(UserError, match="there is no previous state"):
        load_state(path)
    previous(path).write_bytes(b"torn as well")
    with pytest.raises(UserError, match="remove both"):
        load_state(path)
    path.unlink()
    with pytest.raises(UserError, match="missing"):
        load_state(path)


def test_a_state_that_would_run_something_does_not(tmp_path):
    path, trap = tmp_path / "state.pt", tmp_path / "trap"
    torch.save(Hostile(trap), path)
    with pytest.raises(UserError):
        load_state(path)
    # with the right digest behind it as well
    path.unlink()
    save_state(path, {"epoch": Hostile(trap)})
    with pytest.raises(UserError, match="refused"):
        load_state(path)
    assert not trap.exists()


def test_a_full_disk_keeps_the_states_that_are_there(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    save_state(path, a_state(1))
    save_state(path, a_state(2))

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="the disk is full"):
        save_state(path, a_state(3))
    assert same(load_state(path)[0], a_state(2))
    assert same(load_state(previous(path))[0], a_state(1))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_checkpoint_that_unpacks_to_more_than_it_has_is_refused_unread(tmp_path, monkeypatch):
    whole, packed = tmp_path / "whole.pth", tmp_path / "packed.pth"
    torch.save({"weight": torch.zeros(1 << 16)}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.namelist():
            target.writestr(member, source.read(member))
    assert read_tensors(whole)[0]["weight"].shape == (1 << 16,)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(UserError, match=r"unpacks to 26\d,\d+ bytes, more than the file has"):
        read_tensors(packed)


def test_a_large_file_that_is_no_state_is_refused_unread(tmp_path):
    with (tmp_path / "state.pt").open("wb") as file:
        file.truncate(1 << 40)  # holes: reading them would take minutes
    with pytest.raises(UserError, match="not a run's state"):
        load_state(tmp_path / "state.pt")


def test_quantised_numbers_are_refused_by_name_and_nothing_is_loaded(tmp_path):
    module = nn.Linear(2, 2)
    before = module.weight.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weight = torch.quantize_per_tensor(torch.zeros(2, 2), 0.1, 0, torch.qint8)
        torch.save({"weight": weight, "bias": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"not plain numbers weight \(quantized\)"):
        load_weights(module, tmp_path / "w.pth")
    assert torch.equal(module.weight, before)
