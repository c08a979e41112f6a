import ctypes
import threading

import pytest
import torch

from stillpoint.core.kernels import native
from stillpoint.core.layers import PolyphaseDownsample2d, blur_pool2d


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty folder for compiled kernels, and a loader that has not looked yet."""
    monkeypatch.setenv("STILLPOINT_CACHE", str(tmp_path / "cache"))
    native.library.cache_clear()
    yield tmp_path / "cache"
    native.library.cache_clear()


def test_several_that_start_at_once_compile_once_and_leave_nothing_else(fresh, monkeypatch):
    compiled, real = [], native._compile

    def counted(path, number, source):
        compiled.append(path)
        real(path, number, source)

    monkeypatch.setattr(native, "_compile", counted)
    paths: list = []
    threads = [threading.Thread(target=lambda: paths.append(native._built("float", "pool"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(compiled) == 1
    assert len(paths) == 4
    assert {path.suffix for path in fresh.iterdir()} == {".so", ".lock"}
    assert isinstance(native._load(paths[0], "pool"), ctypes.CDLL)
    assert native.available("float")


def test_only_for_numbers_in_use_is_anything_compiled(fresh, monkeypatch):
    compiled: list = []

    def noted(path, number, source):
        compiled.append((number, source))
        path.touch()

    monkeypatch.setattr(native, "_compile", noted)
    monkeypatch.setattr(native, "_load", lambda path, source: None)
    for dtype in (torch.float32, torch.bfloat16, torch.float32, torch.float16):
        blur_pool2d(torch.ones(1, 1, 8, 8, dtype=dtype))
    assert compiled == [("float", "pool"), ("BFloat16", "pool")]


def test_switched_off_the_plain_code_answers(fresh, monkeypatch):
    monkeypatch.setenv("STILLPOINT_KERNELS", "0")
    x = torch.randn(2, 3, 8, 8)
    assert not native.available("float")
    assert not fresh.exists()
    off = blur_pool2d(x), PolyphaseDownsample2d(size=3)(x)
    monkeypatch.delenv("STILLPOINT_KERNELS")
    monkeypatch.delenv("STILLPOINT_CACHE")
    native.library.cache_clear()
    assert native.available("float")
    torch.testing.assert_close(off, (blur_pool2d(x), PolyphaseDownsample2d(size=3)(x)))


def test_without_a_compiler_one_warning_and_the_plain_code(fresh, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.warns(RuntimeWarning, match=r"there is no C\+\+ compiler.*install g\+\+"):
        assert not native.available("float")
    assert blur_pool2d(torch.ones(1, 1, 8, 8)).shape == (1, 1, 4, 4)
    assert not native.available("float")


def test_a_compiler_that_fails_leaves_no_library_and_its_first_words(fresh, monkeypatch, tmp_path):
    script = tmp_path / "cxx"
    script.write_text("#!/bin/sh\necho out of luck >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with pytest.warns(RuntimeWarning, match="failed: out of luck"):
        assert not native.available("float")
    assert [path.suffix for path in fresh.iterdir()] == [".lock"]


def test_a_compiler_that_takes_too_long_is_not_to_be_installed_again(fresh, monkeypatch, tmp_path):
    script = tmp_path / "cxx"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setattr(native, "_SECONDS", 0.2)
    with pytest.warns(RuntimeWarning, match=r"timed out after 0.2 seconds.*start again when the machine is less busy"):
        assert not native.available("float")
    assert [path.suffix for path in fresh.iterdir()] == [".lock"]


def test_a_damaged_library_is_no_reason_to_stop(fresh, monkeypatch):
    monkeypatch.setattr(native, "_compile", lambda path, number, source: path.write_bytes(b"not a library"))
    with pytest.warns(RuntimeWarning, match="plain PyTorch is used"):
        assert not native.available("float")
