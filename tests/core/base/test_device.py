"""Choosing a device by name, and leaving torch's settings as they were."""

import pytest
import torch

from stillpoint.core.base.device import pick, seed, settings
from stillpoint.core.base.errors import UserError


def test_the_processor_is_always_there():
    assert pick("cpu") == torch.device("cpu")


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick("auto") == torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick("auto") == torch.device("mps")


def test_a_process_of_torchrun_takes_the_gpu_of_its_local_rank(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick("cuda") == pick("auto") == torch.device("cuda", 3)
    assert pick("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match="there is no GPU number 4, torch sees 4"):
        pick("cuda:4")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_a_gpu_that_is_not_there_is_refused(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="choose cpu or auto"):
        pick(name)


@pytest.mark.parametrize("name", ["", "gpu", "cpu:1", "cuda:x", "cuda:-1", "tpu"])
def test_other_names_are_refused(name):
    with pytest.raises(UserError, match="unknown device"):
        pick(name)


def test_settings_hold_within_and_are_put_back_after_an_error():
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with pytest.raises(KeyError), settings(torch.device("cpu"), threads=1):
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
        torch.rand(100)
        raise KeyError
    after = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    assert after == before
    assert torch.equal(torch.rand(3), expected)


def test_seeding_repeats_what_a_device_draws():
    seed(torch.device("cpu"), 11)
    drawn = torch.rand(4)
    torch.manual_seed(11)
    assert torch.equal(torch.rand(4), drawn)
