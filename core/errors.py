"""What goes wrong because of what the user asked for, told in one sentence."""


class UserError(Exception):
    """The user can mend this: the command line prints the sentence and exits with 2, without a traceback."""


def nearest(name: str, known: list[str], count: int = 3) -> str:
    """A clause that proposes the known names closest to `name`, ``"; nearest: a, b"``, or nothing when none is."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=count, cutoff=0.5)
    return f"; nearest: {', '.join(close)}" if close else ""
