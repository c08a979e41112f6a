"""The callback by which long work reports its progress."""

from collections.abc import Callable

#: called with (what is being done, how many are done, of how many; 0 means unknown)
OnProgress = Callable[[str, int, int], None]
