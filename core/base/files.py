"""Atomic writes: a temporary file in the same folder, flush, fsync, rename, fsync of the folder."""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stillpoint.core.base.errors import UserError

#: error numbers of file systems without hard links, or without fsync of folders
_LACKING = (errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _LACKING:  # some file systems sync folders by themselves
            raise
    finally:
        os.close(descriptor)


#: why a file cannot grow, in words for the user
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than allowed (ulimit -f)",
}


def _why_full(error: Exception, temporary: Path) -> str | None:
    """Why `temporary` could not be written, if space ran out; otherwise None."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return _FULL[error.errno]
    # torch, NumPy and safetensors hide the cause: appending a block to their file reproduces it
    try:
        with temporary.open("ab") as file:
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as second:
        return _FULL.get(second.errno or 0)
    return None


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`, renamed to `path` on a clean exit and removed on an error.

    A reader therefore sees the previous file or the new one, never a part. `UserError` for a full disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the suffix is kept, since writers such as matplotlib and safetensors read it
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except UserError:
        raise
    except Exception as error:
        if reason := _why_full(error, temporary):
            raise UserError(f"{reason}: {path} was not written and its previous version is kept") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path, *, below: bool = True) -> None:
    """Removes temporary files of a killed process from `folder`, and from its subfolders with `below`; no other process
    may be writing there."""
    for part in (folder.rglob if below else folder.glob)(".*.????????.tmp*"):
        part.unlink()


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes `content` (text as UTF-8) so that `path` is never seen half-written."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _keep(path: Path, also: Path) -> None:
    """Hard-links a file under a second name, or copies it where the file system has no hard links."""
    try:
        os.link(path, also)
    except OSError as error:
        if error.errno not in _LACKING:
            raise
        write_atomic(also, path.read_bytes())


def write_together(contents: Mapping[Path, str]) -> None:
    """Writes several files, all or none: if one cannot be written, all keep their previous content.

    No file is renamed before all are written, so a full disk (a `UserError`) changes nothing.
    """
    token = secrets.token_hex(4)
    written = {path: path.with_name(f".{path.name}.{token}.tmp") for path in contents}
    before = {path: path.with_name(f".{path.name}.{token}.tmp_before") for path in contents}
    placed: list[Path] = []
    try:
        for path, content in contents.items():
            write_atomic(written[path], content)
            if path.is_file():
                _keep(path, before[path])
        for path in contents:
            written[path].replace(path)
            placed.append(path)
    except BaseException:
        for path in placed:
            if before[path].exists():
                before[path].replace(path)
            else:
                path.unlink()
        raise
    finally:
        for path in (*written.values(), *before.values()):
            path.unlink(missing_ok=True)
    for folder in {path.parent for path in contents}:
        _sync_folder(folder)


def json_text(value: Any) -> str:
    """`value` as indented JSON, keys in the order given, refusing NaN (which is not JSON)."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as `json_text`."""
    write_atomic(path, json_text(value))


def digest(path: str | os.PathLike[str], algorithm: str = "sha256") -> str:
    """Hexadecimal digest of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-serialisable value in its canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
