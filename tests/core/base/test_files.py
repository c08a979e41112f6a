"""Files are whole or absent."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import atomic_path, digest, digest_of, write_atomic, write_json, write_together


def test_a_writer_that_fails_leaves_the_previous_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_atomic(path, "before")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_keeps_folder_and_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "new" / "picture.png") as temporary:
        assert temporary.parent == tmp_path / "new"
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"x")
    assert (tmp_path / "new" / "picture.png").read_bytes() == b"x"


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="disk is full"), atomic_path(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_json_refuses_what_json_cannot_hold(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5]})
    assert list(json.loads((tmp_path / "a.json").read_text())) == ["b", "a"]
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", {"a": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_digests_are_of_content(tmp_path: Path) -> None:
    write_atomic(tmp_path / "empty", b"")
    assert digest(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_a_file_system_without_hard_links_and_synced_folders_serves(tmp_path: Path, monkeypatch) -> None:
    def lacking(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    sync = os.fsync
    monkeypatch.setattr(os, "link", lacking)
    monkeypatch.setattr(os, "fsync", lambda d: lacking() if stat.S_ISDIR(os.fstat(d).st_mode) else sync(d))
    paths = [tmp_path / name for name in ("a", "b")]
    write_together(dict.fromkeys(paths, "before"))
    write_together(dict.fromkeys(paths, "now"))
    assert [path.read_text() for path in paths] == ["now", "now"]
    replace = Path.replace

    def fails(self: Path, target: Path) -> Path:
        if target == paths[1]:
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="Input"):
        write_together(dict.fromkeys(paths, "later"))
    assert [path.read_text() for path in paths] == ["now", "now"] and len(list(tmp_path.iterdir())) == 2
