"""Errors that the user can correct, each reported in one sentence."""

import dis
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: folders whose `raise` statements are our own checks
_OURS = tuple(Path(__file__).resolve().parents[2] / part for part in ("core", "pipelines"))
_RAISE = dis.opmap["RAISE_VARARGS"]


class UserError(Exception):
    """An error that the user can correct: the command line prints its sentence, without a traceback, and exits with 2.

    The sentence is one line without terminal codes, whatever it quotes from a file.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


def printable(text: str) -> str:
    """`text` with non-printable characters escaped (``\\x1b``): they could move the cursor or colour the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def cause(error: BaseException) -> str:
    """An exception's message, or its type if it has none, like `MemoryError`."""
    return str(error).strip() or type(error).__name__


def shortened(text: str, length: int = 60) -> str:
    """`text` in quotes, cut to `length` characters."""
    return repr(text if len(text) <= length else f"{text[: length - 3]}...")


def listed(names: Iterable[str], count: int = 5) -> str:
    """``a, b and 3 more``: at most `count` names, each shortened, and the number of the rest."""
    every = [name if len(name) <= 120 else f"{name[:117]}..." for name in names]
    return ", ".join(every[:count]) + (f" and {len(every) - count} more" if len(every) > count else "")


class Unfit(UserError):
    """A setting or input that one of our checks refuses, such as a filter without taps."""


@contextmanager
def checked() -> Iterator[None]:
    """A context for building a network from a user's settings, or giving it a user's image for the first time.

    A ``raise ValueError`` in a layer or backbone becomes an `Unfit`. A `ValueError` raised by Python or a library is a
    bug in our code and passes with its traceback. Never wrap a whole training or measurement in it.
    """
    try:
        yield
    except ValueError as error:
        if _is_a_check(error):
            raise Unfit(str(error)) from error
        raise


def _is_a_check(error: BaseException) -> bool:
    """Whether a `raise` statement in this repository raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    code = trace.tb_frame.f_code
    file = Path(code.co_filename).resolve()
    return code.co_code[trace.tb_lasti] == _RAISE and any(file.is_relative_to(folder) for folder in _OURS)


def closest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """At most `count` known names that are close to `name`, the closest first."""
    from difflib import get_close_matches

    return get_close_matches(name, list(known), n=count, cutoff=0.5)


def nearest(name: str, known: list[str], count: int = 3) -> str:
    """A clause that proposes the known names closest to `name`, ``"; nearest: a, b"``, or "" if none is close."""
    close = closest(name, known, count)
    return f"; nearest: {', '.join(close)}" if close else ""
