"""Griffe extension of the site: lines of a docstring that are set in two columns become a list.

    net       images -> logits
    labels    class numbers; without them
              the network's own class counts

A terminal shows such columns well and Markdown would run them together.
"""

import re
from typing import Any

import griffe

_ENTRY = re.compile(r"^([a-z_][\w, .]*?) {2,}(\S.*)$")


def listed(text: str) -> str:
    """`text` with each block of columns as a Markdown list."""
    lines: list[str] = []
    column = 0  # of the second column, within a block of columns; else 0
    for line in text.splitlines():
        entry = _ENTRY.match(line)
        if entry:
            if not column:
                lines.append("")
            column = entry.start(2)
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        elif column and line.startswith(" " * column):
            lines.append(f"  {line.strip()}")
        else:
            if column and line.strip():
                lines.append("")
            column = 0
            lines.append(line)
    return "\n".join(lines)


class Columns(griffe.Extension):
    """Applies `listed` to every docstring as it is loaded."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = listed(obj.docstring.value)
