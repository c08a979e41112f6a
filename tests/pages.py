"""A page's Python as it is printed: blocks of one page share their names, as in one session.

python -m tests.pages docs/measure.md     # writes what the blocks print into the blocks behind them
"""

import io
import re
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path

#: a block of Python, and the block behind it that shows what it prints, where there is one
BLOCK = re.compile(r"```python\n(?P<code>.*?)```(?:\n\n```text\n(?P<shown>.*?)```)?", re.S)


def session(text: str) -> list[tuple[str, str | None, str]]:
    """(code, what the page shows, what it printed) of all blocks, run one after another."""
    names: dict[str, object] = {"__name__": "page"}
    found = []
    for match in BLOCK.finditer(text):
        printed = io.StringIO()
        with redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(match["code"], "page", "exec"), names)
        found.append((match["code"], match["shown"], printed.getvalue()))
    return found


def agrees(shown: str, printed: str) -> bool:
    """Whether the page shows what is printed; a line of three dots stands for any lines."""
    parts = [re.escape(part) for part in re.split(r"^\.\.\.\n", shown, flags=re.M)]
    return re.fullmatch("(?:.*\n)*".join(parts), printed) is not None


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        text = path.read_text()
        results = iter(session(text))

        def written(match: re.Match[str], results=results) -> str:
            code, shown, printed = next(results)
            kept = shown if shown is None or agrees(shown, printed) else printed
            return f"```python\n{code}```" + ("" if kept is None else f"\n\n```text\n{kept}```")

        path.write_text(BLOCK.sub(written, text))


if __name__ == "__main__":
    main()
