"""The user's cache folder, and whether what lies in it can be another's."""

import os
import stat
from pathlib import Path


def folder() -> Path:
    """The cache folder: $STILLPOINT_CACHE, or stillpoint/ in the user's cache folder."""
    if given := os.environ.get("STILLPOINT_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stillpoint"


def foreign(path: Path) -> tuple[str, str] | None:
    """Why a file or folder is not to be trusted, and what mends it, where something does: anyone but the user or root
    owns it, or can write to it. None if it is the user's own. OSError where it is not there."""
    about = path.stat()
    if about.st_uid not in (os.geteuid(), 0):
        return f"{path} belongs to another user (uid {about.st_uid})", ""
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = oct(stat.S_IMODE(about.st_mode)).removeprefix("0o")
        return f"others can write to {path} (mode {mode})", "take that from them with `chmod go-w`"
    return None
