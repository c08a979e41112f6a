import ctypes
import errno
import os
import re
import shutil
import threading
from pathlib import Path

import pytest
import torch

from stillpoint.core.kernels import cache, native
from stillpoint.core.kernels.arithmetic import arithmetic
from stillpoint.core.layers import PolyphaseDownsample2d, blur_pool2d

#: the source that compiles in the least time
SMALL = "quadratic"


@pytest.fixture(scope="module")
def built():
    """The library for float32 where this machine keeps it."""
    return native._built("float", "pool")


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty folder for compiled kernels, and a loader that has not looked yet."""
    monkeypatch.setenv("STILLPOINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "_missing", {})
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
    threads = [threading.Thread(target=lambda: paths.append(native._built("float", SMALL))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(compiled) == 1
    assert len(paths) == 4
    assert {path.suffix for path in fresh.iterdir()} == {".so", ".lock", ".sha256"}
    assert isinstance(native._load(paths[0], SMALL), ctypes.CDLL)
    assert native.available("float", SMALL)


def test_only_for_numbers_in_use_is_anything_compiled(fresh, monkeypatch):
    compiled: list = []

    def noted(path, number, source):
        compiled.append((number, source))
        path.touch()  # what is sealed afterwards

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
    assert arithmetic(torch.device("cpu")) == "plain"
    monkeypatch.delenv("STILLPOINT_KERNELS")
    monkeypatch.delenv("STILLPOINT_CACHE")
    native.library.cache_clear()
    assert native.available("float")
    assert arithmetic(torch.device("cpu")) == "compiled"
    torch.testing.assert_close(off, (blur_pool2d(x), PolyphaseDownsample2d(size=3)(x)))


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Puts a shell script in the place of the compiler."""

    def put(script: str) -> None:
        path = tmp_path / "cxx"
        path.write_text(script)
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))

    return put


def refused(*sentence: str) -> None:
    """Plain PyTorch answers, and one warning names the cause and what helps against it, in every word given."""
    with pytest.warns(RuntimeWarning) as told:
        assert not native.available("float")
    (warning,) = told
    assert all(part in str(warning.message) for part in sentence), str(warning.message)
    assert blur_pool2d(torch.ones(1, 1, 8, 8)).shape == (1, 1, 4, 4)
    assert arithmetic(torch.device("cpu")) == "plain"


def test_without_a_compiler_one_warning_and_the_plain_code(fresh, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    refused("there is no C++ compiler", "install g++")


def test_a_compiler_that_is_named_and_not_there_is_not_to_be_installed(fresh, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    refused("CXX=no-such-compiler is not a program", "name an existing one")


def test_a_compiler_that_fails_leaves_no_library_and_its_first_words(fresh, compiler):
    compiler("#!/bin/sh\necho out of luck >&2\nexit 1\n")
    refused("cxx failed: out of luck", "repair it, or name another compiler in CXX")
    assert [path.suffix for path in fresh.iterdir()] == [".lock"]


def test_a_compiler_that_cannot_be_started_is_to_be_repaired(fresh, compiler):
    compiler("\x7fELF no program")
    refused("cannot be started: Exec format error", "repair it")


def test_a_compiler_that_takes_too_long_is_not_to_be_installed_again(fresh, monkeypatch, compiler):
    compiler("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(native, "_SECONDS", 0.2)
    refused("timed out after 0.2 seconds", "start again when the machine is less busy")
    assert [path.suffix for path in fresh.iterdir()] == [".lock"]


def test_a_compiler_without_room_for_its_files_is_not_broken(fresh, compiler):
    compiler("#!/bin/sh\necho 'fatal error: /tmp/a.s: No space left on device' >&2\nexit 1\n")
    refused("the disk is full", "set TMPDIR and STILLPOINT_CACHE to folders on another disk")


@pytest.mark.parametrize(
    ("number", "cause", "remedy"),
    [
        (
            errno.EROFS,
            "cannot be written: the file system is read-only",
            "set STILLPOINT_CACHE to a folder of your own",
        ),
        (errno.EACCES, "cannot be written: permission denied", "set STILLPOINT_CACHE to a folder of your own"),
        (errno.ENOSPC, "the disk is full", "set STILLPOINT_CACHE to a folder on another disk"),
        (errno.EDQUOT, "the disk quota is used up", "set STILLPOINT_CACHE to a folder on another disk"),
    ],
)
def test_a_folder_that_cannot_be_made_asks_for_no_compiler(fresh, monkeypatch, number, cause, remedy):
    def fails(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", fails)
    refused(cause, remedy, str(fresh))


def test_a_folder_that_is_a_file_is_named(fresh):
    fresh.write_text("")
    refused(f"{fresh} cannot be written", "set STILLPOINT_CACHE")


def test_a_disk_that_fills_up_as_the_library_is_kept_stops_nothing(built, fresh, monkeypatch):
    monkeypatch.setattr(native, "_compile", lambda path, number, source: shutil.copyfile(built, path))

    def fails(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", fails)
    refused("the disk is full", "make room")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_file_system_without_locks_keeps_kernels_too(built, fresh, monkeypatch, number):
    def fails(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(native, "_compile", lambda path, number, source: shutil.copyfile(built, path))
    monkeypatch.setattr(cache.fcntl, "flock", fails)
    assert native.available("float")


def test_a_lock_that_fails_for_another_reason_is_told(built, fresh, monkeypatch):
    def fails(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(cache.fcntl, "flock", fails)
    refused(f"cannot be written: {os.strerror(errno.EIO)}", "set STILLPOINT_CACHE to a folder of your own")


@pytest.fixture
def kept(built, fresh, monkeypatch):
    """A library that was built, loaded by nobody in this process who would see its bytes change."""
    monkeypatch.setattr(native, "_compile", lambda path, number, source: shutil.copyfile(built, path))
    library = native._built("float", "pool")
    assert cache.digest_file(library).stat().st_mode & 0o077 == library.stat().st_mode & 0o077 == 0
    return library


@pytest.mark.parametrize(
    "damage",
    [
        lambda library: library.write_bytes(library.read_bytes()[:1000]),
        lambda library: library.write_bytes(bytes(library.stat().st_size)),
        lambda library: library.write_bytes(b""),
        lambda library: cache.digest_file(library).write_bytes(b"\xff"),
        lambda library: cache.digest_file(library).unlink(),
    ],
    ids=["cut", "zeroed", "empty", "digest spoilt", "digest lost"],
)
def test_a_library_that_is_not_what_was_built_is_built_again(kept, damage):
    whole = kept.read_bytes()
    damage(kept)
    assert native.available("float")
    assert kept.read_bytes() == whole and cache.sound(kept)


def given_away(path: Path, monkeypatch) -> None:
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:  # a user who is another than the owner
        monkeypatch.setattr(os, "geteuid", lambda: 12345)


@pytest.mark.parametrize("which", ["library", "digest", "folder"])
def test_what_another_user_put_there_is_not_loaded(kept, which, monkeypatch):
    path = {"library": kept, "digest": cache.digest_file(kept), "folder": kept.parent}[which]
    given_away(path, monkeypatch)
    refused("belongs to another user", "set STILLPOINT_CACHE to a folder of your own")


@pytest.mark.parametrize("bit", [0o020, 0o002])
@pytest.mark.parametrize("which", ["library", "digest", "folder"])
def test_what_others_may_write_is_not_loaded(kept, which, bit):
    path = {"library": kept, "digest": cache.digest_file(kept), "folder": kept.parent}[which]
    path.chmod(path.stat().st_mode | bit)
    refused(f"others can write to {path} (mode", "chmod go-w")


def test_nothing_is_built_where_others_may_write(fresh):
    fresh.mkdir()
    fresh.chmod(0o777)
    refused(f"others can write to {fresh} (mode 777)", "chmod go-w")
    assert not list(fresh.iterdir())


def test_where_programs_may_not_run_no_compiler_is_asked_for(kept, monkeypatch):
    def fails(path):
        raise OSError(f"{path}: failed to map segment from shared object")

    monkeypatch.setattr(native.ctypes, "CDLL", fails)
    refused(f"programs cannot run from {kept.parent}", "set STILLPOINT_CACHE to a folder where they can")


def test_no_vector_is_wider_than_a_register():
    """GCC keeps wider ones in memory: with AVX2, 64 bytes made a channels-last blur take 1.6 times as long, its
    gradient twice."""
    code = "".join(path.read_text() for path in native._FOLDER.iterdir())
    widths = re.findall(r"vector_size\((.*?)\)", code)
    assert len(widths) >= 5 and set(widths) == {"kBytes"}
    assert code.count("int64_t kBytes = ") == 3
