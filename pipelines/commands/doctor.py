"""The commands doctor and completion, about the installation itself."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path

from stillpoint.core.runs.layout import RESULTS
from stillpoint.pipelines.commands.base import Command, add_json, add_places, console, print_json

#: shells whose completion is tested
SHELLS = ("bash", "zsh", "fish")


def _doctor_options(parser: ArgumentParser) -> None:
    add_places(parser)
    add_json(parser)


def _doctor(args: Namespace) -> int:
    from stillpoint.pipelines.checkup import check_up

    found = []
    out = console()
    for finding in check_up(args.data, Path(args.results or RESULTS)):
        found.append(finding)
        if not args.json:
            style = {"ok": "green", "note": "yellow", "wrong": "bold red"}[finding.state]
            from rich.text import Text

            line = Text(f"{finding.state:<6}", style)
            out.print(line.append(f"{finding.subject:<11}{finding.told}", "default"), soft_wrap=True)
    wrong = [finding for finding in found if finding.state == "wrong"]
    if args.json:
        print_json([asdict(finding) for finding in found])
    elif wrong:
        out.print(f"{len(wrong)} wrong: {', '.join(dict.fromkeys(finding.subject for finding in wrong))}")
    return 1 if wrong else 0


def _completion_options(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads the script")


def _completion(args: Namespace) -> int:
    import shtab

    print(shtab.complete(args.parser, args.shell))
    return 0


COMMANDS = {
    "doctor": Command(
        "check packages, kernels, GPU, data and disk",
        _doctor_options,
        _doctor,
        ("stillpoint doctor", "stillpoint doctor --data /big/disk/data --json"),
    ),
    "completion": Command(
        "print the completion script for a shell",
        _completion_options,
        _completion,
        (
            'eval "$(stillpoint completion bash)"',
            "stillpoint completion zsh > ~/.zfunc/_stillpoint",
            "stillpoint completion fish > ~/.config/fish/completions/stillpoint.fish",
        ),
    ),
}
