"""The command line: ``stillpoint <command>``. Commands are in `pipelines.commands`; torch is imported only if needed.

A user's error ends with one sentence and exit code 2; anything else is a bug and shows its traceback.
"""

import argparse
import codecs
import errno
import gc
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from stillpoint.core.base.errors import UserError, nearest, printable
from stillpoint.core.base.interrupt import Interrupted
from stillpoint.pipelines import extras
from stillpoint.pipelines.commands import COMMANDS, GROUPS
from stillpoint.pipelines.commands.base import leave_output

#: replacements on terminals that are not UTF-8; "?" for all other characters
_SPELLED = str.maketrans(
    {**dict(zip("·░▒▓█–—−×‘’“”", ".:+*#---x''\"\"", strict=True)), **{"±": "+-", "…": "...", "→": "->", "≤": "<="}}
)


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Error handler of an output stream: replaces characters that its encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_SPELLED)
    return "".join(c if c.isascii() else "?" for c in text), error.end


codecs.register_error("stillpoint.spelled", _spell)


#: arguments that name folders of weights and images, whose libraries accept only UTF-8 names
STORES = ("results", "data", "to", "folder", "runs")

#: former names of commands -> what to type now
FORMER = {"publish": "release RUN --weights"}


class _Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one sentence, without the usage."""

    def _print_message(self, message: str, file: Any = None) -> None:
        """Like argparse's own, but fails if the help cannot be written (a full disk)."""
        if file is sys.stderr:
            _complain(message)
        else:
            print(message, end="")
            _flush()

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(message)} (see: {self.prog} --help)\n")


class _Top(_Parser):
    """The parser of all commands; its help fits one screen, with one line per command, in groups."""

    def format_help(self) -> str:
        lines = ["usage: stillpoint COMMAND ...   (stillpoint COMMAND --help: options, examples)", ""]
        lines += ["Shift invariance of image classifiers: reproducible pipelines, one per paper.", ""]
        for group, names in GROUPS.items():
            for number, name in enumerate(names):
                lines.append(f"{'' if number else group:<9}{name:<13}{COMMANDS[name].summary}")
        return "\n".join(lines) + "\n"


class _Version(argparse.Action):
    """Prints the installed version, which is looked up on demand."""

    def __call__(self, caller: argparse.ArgumentParser, *rest: Any) -> NoReturn:
        import stillpoint

        print(f"stillpoint {stillpoint.__version__}")
        _flush()
        caller.exit()


def _warn(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    print(f"stillpoint: warning: {printable(str(message))}", file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    top = _Top(prog="stillpoint", allow_abbrev=False)
    top.add_argument("--version", action=_Version, nargs=0, help="print the version")
    inner = top.add_subparsers(dest="command", metavar="command", required=True, parser_class=_Parser)
    for name, command in COMMANDS.items():
        sub = inner.add_parser(name, help=command.summary, allow_abbrev=False)
        command.options(sub)
        _describe(sub, name, command.summary, command.examples, command.takes_pairs)
        sub.set_defaults(run=command.run, pairs=None, parser=top)
        if command.takes_pairs:
            sub.set_defaults(pairs=[])
            sub.epilog = f"{sub.epilog}\n\nKEY VALUE pairs at the end change the configuration: {command.pairs}"
    return top


def _describe(
    sub: argparse.ArgumentParser, name: str, summary: str, examples: Sequence[str], takes_pairs: bool = False
) -> None:
    """Sets the description, short usage and examples of a command's help, and of its subcommands'."""
    sub.description = f"{summary[0].upper()}{summary[1:]}."
    sub.epilog = "examples:\n" + "\n".join(f"  {example}" for example in examples)
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    # argparse would list every option in the usage too, wider than a terminal
    places = [(str(place.metavar or place.dest), place.nargs) for place in sub._get_positional_actions()]
    words = [f"[{word}]" if nargs == "?" else f"[{word} ...]" if nargs == "*" else word for word, nargs in places]
    sub.usage = " ".join(["stillpoint", name, *words, "[options]", *["[KEY VALUE ...]"] * takes_pairs])
    for action in sub._actions:
        if isinstance(action, argparse._SubParsersAction):
            told = {choice.dest: str(choice.help) for choice in action._choices_actions}
            for word, further in action.choices.items():
                called = f"stillpoint {name} {word} "
                of_word = [example for example in examples if example.startswith(called)]
                _describe(further, f"{name} {word}", told[word], of_word)


def _options_of(command: str) -> list[str]:
    """The options of a command, except those that only name their successors."""
    own = argparse.ArgumentParser()
    COMMANDS[command].options(own)
    return [word for action in own._actions if action.help != argparse.SUPPRESS for word in action.option_strings]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The parsed arguments, with the trailing KEY VALUE pairs in `pairs`.

    argparse cannot take optional words on both sides of an option, so the pairs are the arguments that it leaves over.
    """
    top = parser()
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words:
        top.exit(2, "stillpoint: a command is needed (see: stillpoint --help)\n")
    if not words[0].startswith("-") and words[0] not in COMMANDS and words[0] not in FORMER:
        near = nearest(words[0], list(COMMANDS))
        top.exit(2, f"stillpoint: there is no command {printable(words[0])!r}{near} (see: stillpoint --help)\n")
    if words[0] in FORMER:
        top.exit(2, f"stillpoint: {words[0]} is now: stillpoint {FORMER[words[0]]}\n")
    args, rest = top.parse_known_args(arguments)
    stray = rest if args.pairs is None else [word for word in rest[0::2] if word.startswith("-")]
    if stray:
        near = nearest(stray[0], _options_of(args.command))
        top.exit(
            2,
            f"stillpoint {args.command}: unknown argument {stray[0]!r}{near} (see: stillpoint {args.command} --help)\n",
        )
    places = [getattr(args, name, None) for name in STORES]
    for word in [str(one) for place in places for one in (place if isinstance(place, list) else [place])]:
        if _text(word) is None:
            top.exit(2, f"stillpoint: {printable(word)} is not UTF-8, and weights cannot be stored under such a name\n")
    if args.pairs is not None:
        pairs = [_text(word) for word in rest]
        for word, text in zip(rest, pairs, strict=True):
            if text is None:
                top.exit(2, f"stillpoint: the setting {printable(word)} is not UTF-8\n")
        args.pairs = pairs
    return args


def _text(word: str) -> str | None:
    """A word of the command line as text, even if the locale could not decode it; None if it is not UTF-8."""
    if word.isprintable():
        return word
    try:
        # bytes that the locale cannot decode are surrogates, which no file can hold
        return word if _encodes(word) else os.fsencode(word).decode("utf-8")
    except UnicodeDecodeError:
        return None


def _encodes(word: str) -> bool:
    try:
        word.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


#: errors for lack of space
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0, the command's own, 2 for a user's error, 130 when interrupted."""
    # Importing PyTorch creates 300,000 permanent objects; collecting garbage among them takes a fifth of the import.
    gc.set_threshold(20_000)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="stillpoint.spelled")
    try:
        args = parse(arguments)
        warnings.showwarning = _warn
        code = args.run(args) or 0
        _flush()
        return code
    except Interrupted as stop:
        _say(str(stop))
        return 128 + stop.signal
    except UserError as error:
        _say(str(error))
        return 2
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except ModuleNotFoundError as error:
        if (told := extras.remedy(error)) is None:
            raise
        _say(told)
        return 2
    except BrokenPipeError:
        # the reader (head, less) has exited
        leave_output()
        return 0
    except OSError as error:
        if error.filename is None and error.errno in _FULL:
            # not a file: `atomic_path` reports those with their names
            _say(f"the printed output is incomplete: {error.strerror}")
            leave_output()
            return 2
        # a user's path: a folder that is a file, or one without write permission
        if error.filename is None:
            raise
        _say(f"{printable(str(error.filename))}: {error.strerror}")
        return 2


def _flush() -> None:
    """Flushes the output, so that a full disk is reported, which it would not be when the interpreter ends."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _say(sentence: str) -> None:
    """Prints why a command ended."""
    _complain(f"stillpoint: {sentence}\n")


def _complain(text: str) -> None:
    """Writes to the error stream; if that fails, the exit code still reports the error."""
    if sys.stderr is None:
        return
    try:
        print(text, end="", file=sys.stderr, flush=True)
    except OSError:
        leave_output(sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
