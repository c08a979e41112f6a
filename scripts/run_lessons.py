"""Runs the lessons and stores them with their output: ``python scripts/run_lessons.py [NAME ...]``.

Writes a notebook (.ipynb) and a page (.md) with pictures of each lesson to build/lessons/, which `make docs` shows.
"""

import os
import resource
import sys
import time
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "lessons"


def run(path: Path) -> tuple[float, float]:
    """Executes one lesson in the repository's root; returns (wall-clock seconds, CPU seconds of all cores)."""
    began, spent = time.monotonic(), _spent()
    notebook = jupytext.read(path)
    # no limit, since a cell's wall-clock time means nothing on a busy machine
    NotebookClient(notebook, timeout=None, coalesce_streams=True, resources={"metadata": {"path": str(ROOT)}}).execute()
    taken = time.monotonic() - began, _spent() - spent
    OUT.mkdir(parents=True, exist_ok=True)
    jupytext.write(notebook, OUT / f"{path.stem}.ipynb")
    folder = f"{path.stem}_files"
    text, resources = MarkdownExporter().from_notebook_node(notebook, {"output_files_dir": folder})
    for name, content in resources["outputs"].items():
        (OUT / name).parent.mkdir(exist_ok=True)
        (OUT / name).write_bytes(content)
    (OUT / f"{path.stem}.md").write_text(text)
    return taken


def _spent() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    # tqdm's bars in a notebook need a further package; without it, tqdm's warning would show a local path
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
    wanted = sys.argv[1:] or [path.stem for path in sorted((ROOT / "lessons").glob("*.py"))]
    total = spent = 0.0
    for name in wanted:
        path = ROOT / "lessons" / f"{name}.py"
        if not path.is_file():
            raise SystemExit(f"there is no lesson {name}: see {path.parent}")
        seconds, busy = run(path)
        total, spent = total + seconds, spent + busy
        print(f"{name}: {seconds:.0f} s, {busy:.0f} s of CPU", flush=True)
    print(f"all: {total:.0f} s, {spent:.0f} s of CPU, in {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
