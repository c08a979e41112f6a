"""Files are whole or absent."""

import errno
import json
from pathlib import Path

import pytest

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import atomic_path, digest, digest_of, write_atomic, write_json


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
