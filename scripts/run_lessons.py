"""Runs the lessons and keeps them with their output: ``python scripts/run_lessons.py [NAME ...]``.

Of each lesson build/lessons/ holds a notebook (.ipynb), and a page (.md) with its pictures, which `make docs` shows.
"""

import sys
import time
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "lessons"


def run(path: Path) -> float:
    """Executes one lesson in the repository's root; the seconds that it took."""
    began = time.monotonic()
    notebook = jupytext.read(path)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(ROOT)}}).execute()
    seconds = time.monotonic() - began
    OUT.mkdir(parents=True, exist_ok=True)
    jupytext.write(notebook, OUT / f"{path.stem}.ipynb")
    folder = f"{path.stem}_files"
    text, resources = MarkdownExporter().from_notebook_node(notebook, {"output_files_dir": folder})
    for name, content in resources["outputs"].items():
        (OUT / name).parent.mkdir(exist_ok=True)
        (OUT / name).write_bytes(content)
    (OUT / f"{path.stem}.md").write_text(text)
    return seconds


def main() -> None:
    wanted = sys.argv[1:] or [path.stem for path in sorted((ROOT / "lessons").glob("*.py"))]
    total = 0.0
    for name in wanted:
        path = ROOT / "lessons" / f"{name}.py"
        if not path.is_file():
            raise SystemExit(f"there is no lesson {name}: see {path.parent}")
        total += (seconds := run(path))
        print(f"{name}: {seconds:.0f} s", flush=True)
    print(f"all: {total:.0f} s, in {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
