"""Files that are whole or absent: temporary name in the same folder, flush, fsync, rename, fsync of the folder."""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stillpoint.core.base.errors import UserError


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


#: why a file may not grow, as the user should read it
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EFBIG: "a file may not grow so large (ulimit -f)",
}


def _why_full(error: Exception, temporary: Path) -> str | None:
    """Why `temporary` could not be written, if it was for want of room."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return _FULL[error.errno]
    # torch, NumPy and safetensors hide the cause behind words of their own: what they wrote is tried for one more block
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
    """Yields a temporary path beside `path`; on a clean exit it takes the name `path`, on an error it is removed.

    A reader therefore sees the previous file or the new one, never a part. A full disk becomes a `UserError`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the suffix is kept: writers such as matplotlib and safetensors look at it
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
    """Removes what a killed process was writing in `folder` and `below` it; nobody else may be writing there now."""
    for part in (folder.rglob if below else folder.glob)(".*.????????.tmp*"):
        part.unlink()


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes `content` (text as UTF-8) so that `path` is never seen half-written."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as indented JSON, keys in the order given, refusing NaN (which is not JSON)."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def digest(path: str | os.PathLike[str], algorithm: str = "sha256") -> str:
    """Hexadecimal digest of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-serialisable value in its canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
