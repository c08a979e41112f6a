"""What goes wrong because of what the user asked for, told in one sentence."""

from collections.abc import Iterable


class UserError(Exception):
    """The user can mend this: the command line prints the sentence and exits with 2, without a traceback.

    The sentence is one line without terminal codes, whatever the names are that it quotes from a file.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


def printable(text: str) -> str:
    """`text` with what would move the cursor, colour the terminal or begin a line written out (``\\x1b``)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, length: int = 60) -> str:
    """`text` in quotes, its end left out where it is longer than `length`."""
    return repr(text if len(text) <= length else f"{text[: length - 3]}...")


def listed(names: Iterable[str], count: int = 5) -> str:
    """``a, b and 3 more``: at most `count` names, shortened, and how many there are besides."""
    every = [name if len(name) <= 120 else f"{name[:117]}..." for name in names]
    return ", ".join(every[:count]) + (f" and {len(every) - count} more" if len(every) > count else "")


def closest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """At most `count` known names that are close to `name`, the closest first."""
    from difflib import get_close_matches

    return get_close_matches(name, list(known), n=count, cutoff=0.5)


def nearest(name: str, known: list[str], count: int = 3) -> str:
    """A clause that proposes the known names closest to `name`, ``"; nearest: a, b"``, or nothing when none is."""
    close = closest(name, known, count)
    return f"; nearest: {', '.join(close)}" if close else ""
