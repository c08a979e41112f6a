"""The commands of ``stillpoint``, by name. A command's module imports torch only when the command runs."""

from stillpoint.pipelines.commands import (
    bench,
    compute,
    look,
    maximise,
    pages,
    probe,
    release,
    results,
    verify,
    weights,
)
from stillpoint.pipelines.commands.base import Command

COMMANDS: dict[str, Command] = {
    **look.COMMANDS,
    **compute.COMMANDS,
    **probe.COMMANDS,
    **maximise.COMMANDS,
    **results.COMMANDS,
    **release.COMMANDS,
    **pages.COMMANDS,
    **verify.COMMANDS,
    **weights.COMMANDS,
    **bench.COMMANDS,
}
