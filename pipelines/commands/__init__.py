"""The commands of ``stillpoint``, by name. A command's module imports torch only when the command runs."""

from stillpoint.pipelines.commands import (
    bench,
    board,
    compute,
    doctor,
    explain,
    look,
    maximise,
    measure,
    pages,
    release,
    results,
    verify,
    weights,
)
from stillpoint.pipelines.commands.base import Command

COMMANDS: dict[str, Command] = {
    **look.COMMANDS,
    **compute.COMMANDS,
    **measure.COMMANDS,
    **explain.COMMANDS,
    **maximise.COMMANDS,
    **results.COMMANDS,
    **release.COMMANDS,
    **pages.COMMANDS,
    **board.COMMANDS,
    **verify.COMMANDS,
    **weights.COMMANDS,
    **bench.COMMANDS,
    **doctor.COMMANDS,
}

#: groups of ``stillpoint --help``, in order
GROUPS: dict[str, tuple[str, ...]] = {
    "make": ("prepare", "train", "run", "table", "figures"),
    "measure": ("evaluate", "measure", "explain", "maximise", "board", "bench"),
    "look": ("list", "show-config", "doctor", "completion"),
    "keep": ("release", "pages", "verify", "weights"),
}
