"""Signals that ask a run to stop, and the lock that keeps other processes out of its folder."""

import errno
import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import TextIO

from stillpoint.core.base.errors import UserError


class Interrupted(UserError):
    """The run stopped on request; `signal` is the signal's number."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


class StopRequest:
    """A context in which the first SIGINT or SIGTERM only sets `number`; a second one has its usual effect.

    Only the main thread can catch signals; in other threads nothing is caught and `number` stays 0.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._caught) for number in self._SIGNALS}
        return self

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()


#: error numbers for a lock that another process holds
_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
#: characters of a lock file that name its holder
_HOLDER = 200
#: lock files that this process holds
_held: set[TextIO] = set()


def _forget_locks() -> None:
    # data-loader workers may outlive this process by seconds, and would keep its locks meanwhile
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_forget_locks)


@contextmanager
def locked(path: Path, *, wait: Callable[[str], object] | None = None) -> Iterator[int]:
    """Holds an OS lock on the file `path`, released when the process exits, even after SIGKILL; yields its descriptor.

    `UserError` if another process holds the lock, or if the file system has no locks. With `wait`, it calls this with a
    sentence and waits for the other process instead. A child that inherits the descriptor holds the lock as well.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise UserError(
                    f"{path.parent} is on a file system that has no locks ({error.strerror}), so two processes could "
                    "write there at once: choose a folder on another file system"
                ) from error
            file.seek(0)
            holder = file.read(_HOLDER).strip()
            said = f"{path.parent} is in use by another process{f' ({holder})' if holder else ''}"
            if wait is None:
                raise UserError(f"{said}: wait for it to end") from None
            wait(f"{said}: waiting for it to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        # only for the message, and impossible on a full disk
        with suppress(OSError):
            os.truncate(path, 0)
            os.write(file.fileno(), f"process {os.getpid()} on {os.uname().nodename}\n".encode())
        _held.add(file)
        try:
            yield file.fileno()
        finally:
            _held.discard(file)
