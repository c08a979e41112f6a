"""Processes that may be killed: forked, so that none of them spends seconds on importing torch."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.interrupt import Interrupted

#: exit codes of a child: a sentence for the user, a stop that was asked for, and a fault of ours
REFUSED, STOPPED, BROKEN = 2, 3, 70


@dataclass
class Count:
    """How many faults were tried, and what each that was not survived did."""

    what: str
    tried: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, fault: str, problem: str | None) -> None:
        self.tried += 1
        if problem:
            self.failures.append(f"{fault}: {problem}")

    def __str__(self) -> str:
        head = f"{self.what}: {self.tried} tried, {self.tried - len(self.failures)} survived"
        return "\n".join([head, *(f"  {line}" for line in self.failures)])


def start(work: Callable[[], object], log: Path) -> int:
    """Forks a process that does `work`, its output added to `log`; the process's number."""
    sys.stdout.flush()
    sys.stderr.flush()
    number = os.fork()
    if number:
        return number
    code = BROKEN
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        # a program begins with Python's own handlers, whatever its parent had
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        work()
        code = 0
    except Interrupted as stop:
        os.write(2, f"stopped: {stop}\n".encode())
        code = STOPPED
    except UserError as error:
        os.write(2, f"refused: {error}\n".encode())
        code = REFUSED
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        # nothing of the parent (pytest, buffers) is to be ended by its child
        os._exit(code)


def wait(number: int) -> int:
    """The exit code of a child, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def child(work: Callable[[], object], log: Path) -> int:
    """`start` and `wait`."""
    number = start(work, log)
    try:
        return wait(number)
    except BaseException:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
        raise


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1] if lines else "no output"
