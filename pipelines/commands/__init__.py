"""The commands of ``stillpoint``, by name. A command's module imports torch only when the command runs."""

from pipelines.commands import compute, look, probe, results
from pipelines.commands.base import Command

COMMANDS: dict[str, Command] = {**look.COMMANDS, **compute.COMMANDS, **probe.COMMANDS, **results.COMMANDS}
