"""Signals that ask to stop, and locks."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading

import pytest

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.interrupt import StopRequest, locked


@pytest.fixture
def keyboard():
    """Ctrl-C as in a terminal; a process that was started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_signal_asks_and_the_second_acts(keyboard):
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        assert stop.number == 0
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_catches_nothing_and_does_not_fail():
    numbers = []

    def work():
        with StopRequest() as stop:
            numbers.append(stop.number)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert numbers == [0]


def test_a_lock_is_held_by_one_process_and_freed_by_its_death(tmp_path):
    path = tmp_path / "run" / ".lock"
    program = (
        "import sys, time, pathlib\n"
        "from stillpoint.core.base.interrupt import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {holder.pid} on"), locked(path):
            pass
        holder.kill()
        holder.wait()
    with locked(path):
        pass
    with locked(path):
        pass


def test_a_file_system_without_locks_says_so(tmp_path, monkeypatch):
    def refuse(file, kind):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(UserError, match="has no locks") as error, locked(tmp_path / ".lock"):
        pass
    assert "another process)" not in str(error.value) and "in use" not in str(error.value)


def test_a_lock_file_that_is_no_text_is_still_a_lock(tmp_path):
    path = tmp_path / ".lock"
    path.write_bytes(b"\xff" * 1000)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="in use by another process") as error, locked(path):
            pass
        assert len(str(error.value)) < 400 + len(str(tmp_path))
