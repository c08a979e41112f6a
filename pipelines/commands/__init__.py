"""The commands of ``stillpoint``, by name. A command's module imports torch only when the command runs."""

from stillpoint.pipelines.commands import (
    bench,
    board,
    compute,
    look,
    maximise,
    pretrained,
    probe,
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
    **pretrained.COMMANDS,
    **board.COMMANDS,
    **verify.COMMANDS,
    **weights.COMMANDS,
    **bench.COMMANDS,
}
