"""The cache folder of compiled kernels, and the checks before a library from it is loaded.

A library is code that runs as the user: it is loaded only if it matches the digest beside it and nobody else can write
the files or the folder. A truncated, empty or altered one is rebuilt; one with a wrong owner or mode is refused.
"""

import contextlib
import errno
import fcntl
import hashlib
from collections.abc import Iterator
from pathlib import Path

from stillpoint.core.base.cache_folder import folder, foreign
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import atomic_path

__all__ = ["KernelsMissing", "digest_file", "folder", "locked", "refuse_foreign", "reported", "seal", "sound"]

_ELSEWHERE = "set STILLPOINT_CACHE to a folder of your own"
_OTHER_DISK = "make room on it, or set STILLPOINT_CACHE to a folder on another disk"
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
_UNWRITABLE = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}
#: errors of a file system without locks; files are written atomically, so two processes may compile the same one
_LOCKLESS = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)


class KernelsMissing(Exception):
    """Why there are no compiled kernels, as part of a sentence; `remedy` is what the user can do."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause)
        self.remedy = remedy


@contextlib.contextmanager
def reported(place: Path) -> Iterator[None]:
    """A context in which a folder or file that cannot be written raises `KernelsMissing`."""
    try:
        yield
    except UserError as full:  # a file that could not be completed for lack of space
        raise KernelsMissing(str(full), _OTHER_DISK) from full
    except OSError as error:
        if reason := _FULL.get(error.errno or 0):
            raise KernelsMissing(f"{reason}: nothing can be stored in {place}", _OTHER_DISK) from error
        reason = _UNWRITABLE.get(error.errno or 0, error.strerror or str(error))
        raise KernelsMissing(f"{place} cannot be written: {reason}", _ELSEWHERE) from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Creates the folder of `path`, accessible only to its owner, and holds a lock on the file `path`."""
    with contextlib.ExitStack() as stack:
        with reported(path.parent):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            refuse_foreign(path.parent)
            file = stack.enter_context(path.open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _LOCKLESS:
                    raise
        yield


def refuse_foreign(path: Path) -> None:
    """Raises `KernelsMissing` if anyone but the user or root owns a file or folder, or can write to it."""
    if found := foreign(path):
        cause, remedy = found
        raise KernelsMissing(cause, f"{remedy}, or {_ELSEWHERE}" if remedy else _ELSEWHERE)


def digest_file(library: Path) -> Path:
    """The file that holds the digest of a library."""
    return library.with_name(f"{library.name}.sha256")


def seal(library: Path) -> None:
    """Writes the digest of a newly built library, and removes others' access to both files."""
    library.chmod(0o700)
    with atomic_path(digest_file(library)) as temporary:
        temporary.write_text(hashlib.sha256(library.read_bytes()).hexdigest() + "\n")
        temporary.chmod(0o600)


def sound(library: Path) -> bool:
    """Whether a library exists and matches its digest. Raises `KernelsMissing` for a wrong owner or mode."""
    digest = digest_file(library)
    try:
        # the folder first: the rest can be trusted only if it can
        for path in (library.parent, library, digest):
            refuse_foreign(path)
        return digest.read_text().strip() == hashlib.sha256(library.read_bytes()).hexdigest()
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return False
