"""The callback by which long work reports its progress."""

from collections.abc import Callable

#: called with (the work, items done, items in total; 0 if unknown)
OnProgress = Callable[[str, int, int], None]
