"""Checkpoints of others: wrappers, names, filters, and the classes that may stand in them."""

import argparse
import datetime
import pathlib
import re
import sys
import types
from collections import OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from stillpoint.core.base.errors import UserError
from stillpoint.core.runs.checkpoint import load_weights, read_tensors, read_torch
from stillpoint.core.runs.foreign import PREFIXES, readings, tensors_of, translate

ONE = {"a": torch.ones(1)}


def network() -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2)))


class Wrapped(nn.Module):
    """A network whose part is called `module`."""

    def __init__(self) -> None:
        super().__init__()
        self.module, self.fc = network(), nn.Linear(2, 2)


def drawn(net: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=random))
    return net


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def loads(path: pathlib.Path, net: nn.Module) -> None:
    """The file fills a fresh network of the kind of `net` with its tensors."""
    found = type(net)() if isinstance(net, Wrapped) else network()
    load_weights(found, path)
    for (name, own), want in zip(found.state_dict().items(), net.state_dict().values(), strict=True):
        assert torch.equal(own, want), name


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "prefix", ["", *PREFIXES, "module.encoder_q.", "model._orig_mod.", "_orig_mod.module.", "module.model.net."]
)
def test_prefixes_of_wrappers_go_from_the_front_of_every_name(tmp_path, prefix: str, suffix: str) -> None:
    net, path = drawn(network()), tmp_path / f"w.{suffix}"
    state = prefixed(prefix, net.state_dict())
    save_file(state, path) if suffix == "safetensors" else torch.save({"state_dict": state, "epoch": 3}, path)
    loads(path, net)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_part_that_is_called_module_keeps_its_name(tmp_path, suffix: str) -> None:
    net, path = drawn(Wrapped()), tmp_path / f"w.{suffix}"
    for prefix in ("", "module.", "model."):
        state = prefixed(prefix, net.state_dict())
        save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
        loads(path, net)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_two_names_never_become_one(tmp_path, suffix: str) -> None:
    """With `module.` taken out of every name, one of two tensors won without a word."""
    net, path = network(), tmp_path / f"w.{suffix}"
    state = {**net.state_dict(), "module.conv.weight": torch.zeros(2, 1, 3, 3)}
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    before = net.conv.weight.clone()
    with pytest.raises(UserError, match=r"unexpected module\.conv\.weight"):
        load_weights(net, path)
    assert torch.equal(net.conv.weight, before)
    assert len(list(readings(state))) == 1


def test_a_part_that_was_wrapped_alone_loads(tmp_path) -> None:
    net = drawn(nn.Sequential(OrderedDict(features=network(), fc=nn.Linear(2, 2))))
    state = {name.replace("features.", "features.module."): tensor for name, tensor in net.state_dict().items()}
    found = nn.Sequential(OrderedDict(features=network(), fc=nn.Linear(2, 2)))
    torch.save(state, tmp_path / "w.pth")
    load_weights(found, tmp_path / "w.pth")
    assert torch.equal(found.features.conv.weight, net.features.conv.weight)


def test_what_training_keeps_beside_the_network_is_left(tmp_path) -> None:
    net, path = drawn(network()), tmp_path / "w.pth"
    other = {name: torch.zeros_like(tensor) for name, tensor in net.state_dict().items()}
    contrast = {**prefixed("encoder_q.", net.state_dict()), **prefixed("encoder_k.", other), "queue": torch.ones(3)}
    averaged = AveragedModel(net).state_dict()
    assert "n_averaged" in averaged
    for state in (contrast, prefixed("module.", contrast), averaged, {"state_dict": averaged}):
        torch.save(state, path)
        loads(path, net)


@pytest.mark.parametrize("key", ["state_dict", "model", "net", "model_state_dict", "module", "network"])
def test_wrappers_are_taken_off(key: str) -> None:
    assert tensors_of({"epoch": 3, key: ONE, "optimizer": {"state": {}}}) == (ONE, None)
    assert tensors_of({"state": {"model": {"state_dict": ONE}}}) == (ONE, None)


@pytest.mark.parametrize(("plain", "averaged"), [("state_dict", "state_dict_ema"), ("model", "model_ema")])
def test_averaged_weights_come_before_those_that_they_average(plain: str, averaged: str, tmp_path) -> None:
    content = {plain: {"a": torch.zeros(1)}, averaged: ONE}
    assert tensors_of(content) == (ONE, averaged)
    assert tensors_of(content, plain)[0]["a"] == 0
    torch.save(content, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match=f"holds several networks: {averaged} is used"):
        assert read_tensors(tmp_path / "w.pth")[0]["a"] == 1
    assert read_tensors(tmp_path / "w.pth", plain)[0]["a"] == 0
    with pytest.raises(UserError, match=f"no part 'teacher': its keys are {plain}, {averaged}|under {averaged}"):
        tensors_of({**content, "teacher": 3}, "teacher")


def test_of_two_networks_none_is_guessed() -> None:
    with pytest.raises(UserError, match=r"several networks \(model, net\): choose one"):
        tensors_of({"model": ONE, "net": {"a": torch.zeros(1)}})
    assert tensors_of({"model": ONE, "net": ONE})[0] == ONE
    assert tensors_of({"teacher": ONE, "student": ONE}, "teacher")[0] == ONE


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, "it is empty"),
        ([1], "it is a list, not a dictionary"),
        (None, "it is nothing, not a dictionary"),
        ({"epoch": 3, "lr": 0.1}, "its keys are epoch, lr"),
        ({"state_dict": {"a": "text"}}, "under state_dict, its keys are a"),
        ({"state_dict": {"a": torch.ones(1), "b": "text"}}, "under state_dict, 'b' is a str, not a tensor"),
        ({0: torch.ones(1)}, "the name 0 is a int, not text"),
        ({"a\x1b[31m\nb": 3}, r"its keys are a\\x1b\[31m\\nb"),
        ({f"key{k}": 0 for k in range(999)}, "key4 and 994 more"),
    ],
)
def test_what_holds_no_tensors_is_refused_with_its_keys(found: object, said: str) -> None:
    with pytest.raises(UserError, match=f"no named tensors of a network: .*{said}") as error:
        tensors_of(found)
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


@pytest.mark.parametrize("keys", [("state_dict",), ("model",), ("state_dict", "model"), ("state_dict_ema", "net")])
def test_a_checkpoint_that_holds_itself_is_refused_and_not_followed(tmp_path, keys: tuple[str, ...]) -> None:
    content: dict = {"epoch": 3}
    inner = content
    for key in keys[:-1]:
        inner[key] = {}
        inner = inner[key]
    inner[keys[-1]] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match="the file contains itself, under " + r"\.".join(keys)):
        read_tensors(tmp_path / "w.pth")


class AttributeDict(dict):
    pass


@pytest.fixture
def theirs(monkeypatch):
    """Stands in for a package that wrote a checkpoint and is not there when it is read."""

    def make(place: str, name: str, base: type = dict) -> type:
        kind = type(name, (base,), {"__module__": place})
        for depth in range(1, place.count(".") + 2):
            part = ".".join(place.split(".")[:depth])
            monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
        setattr(sys.modules[place], name, kind)
        return kind

    return make


@pytest.mark.parametrize("legacy", [False, True])
def test_files_of_training_scripts_load(tmp_path, theirs, monkeypatch, legacy: bool) -> None:
    """What torchvision's and timm's scripts and Lightning leave beside the weights."""
    net, path = drawn(network()), tmp_path / "w.pth"
    hyper = theirs("lightning.fabric.utilities.data", "AttributeDict")
    numbers = defaultdict(list)
    numbers["loss"].append(np.float64(0.5))
    content = {
        "model": net.state_dict(),
        "args": argparse.Namespace(lr=0.1, output_dir=pathlib.Path("out"), device=torch.device("cpu")),
        "best": np.float32(0.9),
        "count": np.int64(3),
        "flag": np.bool_(True),
        "array": np.arange(3),
        "type": np.dtype("float32"),
        "when": datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
        "took": datetime.timedelta(1),
        "where": pathlib.PurePosixPath("a"),
        "windows": pathlib.PureWindowsPath("a"),
        "numbers": numbers,
        "factory": defaultdict(int),
        "recent": deque([1, 2], maxlen=3),
        "ordered": OrderedDict(a=1),
        "set": {1, 2},
        "version": torch.__version__,
        "hyper_parameters": hyper(lr=0.1, widths=[1, 2]),
        "namespace": types.SimpleNamespace(a=1),
    }
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    for place in ("lightning.fabric.utilities.data", "lightning"):
        monkeypatch.delitem(sys.modules, place)
    loads(path, net)


def test_no_class_of_a_file_is_built(tmp_path) -> None:
    given = {"args": argparse.Namespace(a=1), "where": pathlib.PurePosixPath("a"), "best": np.float64(1)}
    torch.save(given, tmp_path / "w.pth")
    found = read_torch(tmp_path / "w.pth")
    assert found.keys() == given.keys()
    assert {type(value).__module__ for value in found.values()} == {"stillpoint.core.runs.foreign"}


def test_what_was_allowed_for_a_file_is_not_allowed_afterwards(tmp_path) -> None:
    torch.save({"model": ONE, "args": argparse.Namespace(a=1)}, tmp_path / "w.pth")
    read_tensors(tmp_path / "w.pth")
    with pytest.raises(Exception, match=re.escape("argparse.Namespace")):
        torch.load(tmp_path / "w.pth", weights_only=True)


@pytest.mark.parametrize("legacy", [False, True])
def test_any_other_class_is_named_and_refused(tmp_path, theirs, legacy: bool) -> None:
    config = theirs("somewhere.config", "Settings")
    torch.save({"model": ONE, "args": config(a=1)}, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        UserError, match=r"refers to somewhere\.config\.Settings, .* nothing in it was executed"
    ) as error:
        read_tensors(tmp_path / "w.pth")
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)
    torch.save(nn.Linear(1, 1), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"refers to torch\.nn\.modules\.linear\.Linear, .* save its state_dict alone"):
        read_tensors(tmp_path / "w.pth")


def test_a_torchscript_program_is_named(tmp_path) -> None:
    torch.jit.trace(nn.Linear(1, 1), torch.ones(1, 1)).save(tmp_path / "w.pt")
    with pytest.raises(UserError, match="TorchScript program: save the state_dict") as error:
        read_tensors(tmp_path / "w.pt")
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


def test_names_are_translated_strictly() -> None:
    names = {"conv.weight": "conv.1.weight"}
    assert list(translate({"conv.1.weight": torch.ones(1)}, names)) == ["conv.weight"]
    with pytest.raises(UserError, match=r"missing conv\.1\.weight; unexpected other"):
        translate({"other": torch.ones(1)}, names)


def test_stored_filters_must_be_ours_and_may_be_absent() -> None:
    ours = torch.tensor([[0.25, 0.25], [0.25, 0.25]])
    filters = {"blur.filt": ours}
    assert translate({"blur.filt": ours.expand(3, 1, 2, 2)}, {}, filters=filters) == {}
    assert translate({}, {}, filters=filters) == {}
    for other in (2 * ours, torch.ones(3, 1, 3, 3) / 9):
        with pytest.raises(UserError, match=r"blur\.filt holds another filter"):
            translate({"blur.filt": other}, {}, filters=filters)


def test_a_part_half_wrapped_is_not_unwrapped_over_its_other_half() -> None:
    state = {"features.0.weight": torch.zeros(1), "features.module.0.weight": torch.ones(1)}
    assert [sorted(reading) for reading in readings(state)] == [sorted(state)]
    beside = {"n_averaged": torch.zeros(1), "module.n_averaged": torch.ones(1)}
    assert [sorted(reading) for reading in readings(beside)] == [sorted(beside)]
