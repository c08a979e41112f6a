"""What goes wrong because of what the user asked for, told in one sentence."""

from collections.abc import Iterable


class UserError(Exception):
    """The user can mend this: the command line prints the sentence and exits with 2, without a traceback."""


def closest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """At most `count` known names that are close to `name`, the closest first."""
    from difflib import get_close_matches

    return get_close_matches(name, list(known), n=count, cutoff=0.5)


def nearest(name: str, known: list[str], count: int = 3) -> str:
    """A clause that proposes the known names closest to `name`, ``"; nearest: a, b"``, or nothing when none is."""
    close = closest(name, known, count)
    return f"; nearest: {', '.join(close)}" if close else ""
