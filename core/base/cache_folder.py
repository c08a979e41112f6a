"""The user's cache folder, and whether others could have written to it."""

import os
import stat
from pathlib import Path


def folder() -> Path:
    """The cache folder: $STILLPOINT_CACHE, or stillpoint/ in the user's cache folder."""
    if given := os.environ.get("STILLPOINT_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stillpoint"


def foreign(path: Path) -> tuple[str, str] | None:
    """(reason, remedy or "") if anyone but the user or root owns a file or folder or can write to it; otherwise None.
    OSError if it does not exist."""
    about = path.stat()
    if about.st_uid not in (os.geteuid(), 0):
        return f"{path} belongs to another user (uid {about.st_uid})", ""
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = oct(stat.S_IMODE(about.st_mode)).removeprefix("0o")
        return f"others can write to {path} (mode {mode})", "revoke it with `chmod go-w`"
    return None
